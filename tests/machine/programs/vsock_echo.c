/* Echoes in capitals what comes to port 52, then connects to port 80 of the host and says hello. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

int main(void) {
    struct sockaddr_vm here = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 52};
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = 80};
    static char data[1 << 16];
    long total = 0, got;
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1)) {
        perror("bind");
        return 1;
    }
    puts("LISTENING");
    fflush(stdout);
    int peer = accept(listener, 0, 0);
    while ((got = read(peer, data, sizeof data)) > 0) {
        for (long place = 0; place < got; place++)
            data[place] = toupper(data[place]);
        for (long done = 0, put; done < got; done += put)
            if ((put = write(peer, data + done, got - done)) < 0)
                return 2;
        total += got;
    }
    close(peer);
    printf("ECHOED %ld\n", total);
    fflush(stdout);
    int caller = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (connect(caller, (struct sockaddr *)&host, sizeof host)) {
        perror("connect");
        return 3;
    }
    write(caller, "hello from the guest", 20);
    close(caller);
    return 0;
}
