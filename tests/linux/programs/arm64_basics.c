// What an arm64 program does first: text, files, numbers, memory, signals with their frames.
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile double kept = 1.5;

static void on_fault(int number, siginfo_t *info, void *context) {
    printf("signal %d at %p\n", number, info->si_addr);
    siglongjmp(back, 1);
}

static void on_user(int number) {
    kept = kept * 2;
}

static uint64_t mix(uint64_t n) {
    uint64_t h = 1469598103934665603u;
    for (uint64_t i = 0; i < n; i++) {
        h = (h ^ (i * 2654435761u)) * 1099511628211u;
        h = (h >> 7 | h << 57) + (int32_t)(h % 1001) / 7;
        if ((int64_t)h < 0 && (i & 3) == 1) h ^= __builtin_clzll(h | 1);
    }
    return h;
}

int main(int count, char **words) {
    struct utsname name;
    uname(&name);
    printf("%s %d\n", name.machine, count);
    double sum = 0;
    for (int i = 1; i < 2000; i++) sum += sqrt(i) / (i + 0.25) - (i % 7) * 1e-3;
    printf("%.12f %a %d %u\n", sum, sum, (int)sum, (unsigned)(sum * 1e6));
    printf("%016lx\n", mix(300000));
    char text[256], copy[256];
    for (int i = 0; i < 255; i++) text[i] = 'a' + i % 26;
    text[255] = 0;
    for (int at = 0; at < 40; at++) {
        memcpy(copy, text + at, 200 - at);
        copy[200 - at] = 0;
        if (strlen(copy) != 200 - at || strchr(copy, 'z') == NULL) printf("bad %d\n", at);
        if (memcmp(copy, text + at, 200 - at)) printf("differs %d\n", at);
    }
    char path[] = "/tmp/arm64XXXXXX";
    int fd = mkstemp(path);
    write(fd, text, 100);
    struct stat st;
    fstat(fd, &st);
    printf("size %ld mode %o links %d\n", (long)st.st_size, st.st_mode, (int)st.st_nlink);
    printf("directory %d\n", open("/tmp", O_DIRECTORY | O_RDONLY) >= 0);
    printf("not a directory %d\n", open(path, O_DIRECTORY | O_RDONLY) < 0);
    printf("flags %x\n", fcntl(open(path, O_RDONLY | O_NONBLOCK), F_GETFL) & O_NONBLOCK);
    unlink(path);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    if (!sigsetjmp(back, 1)) *(volatile int *)16 = 1;
    signal(SIGUSR1, on_user);
    for (int i = 0; i < 5; i++) raise(SIGUSR1);
    printf("kept %g\n", kept);
    fflush(stdout);
    int status;
    pid_t child = fork();
    if (!child) _exit(7);
    waitpid(child, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
    return 5;
}
