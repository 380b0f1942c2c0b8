/* Processes: fork, exec, spawn, wait, pipes, sockets that pass descriptors, epoll, timers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1) {
        printf("executed %s %s\n", argv[1], getenv("COLOUR") ? getenv("COLOUR") : "none");
        return 11;
    }
    int status, ends[2];
    char self[256] = {0}, text[64] = {0};
    readlink("/proc/self/exe", self, 255);
    pipe(ends);
    pid_t child = fork();
    if (!child) {
        dup2(ends[1], 1);
        char *arguments[] = {"again", "by exec", NULL}, *variables[] = {"COLOUR=red", NULL};
        execve(self, arguments, variables);
        _exit(99);
    }
    waitpid(child, &status, 0);
    printf("status %d text %.*s", WEXITSTATUS(status), (int)read(ends[0], text, 63), text);
    char *arguments[] = {"again", "by spawn", NULL};
    // Both may write as soon as the child has its program: the parent waits first.
    int spawned = posix_spawn(&child, self, NULL, NULL, arguments, environ);
    waitpid(child, &status, 0);
    printf("spawn %d status %d\n", spawned, WEXITSTATUS(status));
    printf("spawn of nothing: %s\n",
           strerror(posix_spawn(&child, "/nonexistent", NULL, NULL, arguments, environ)));
    printf("native %d\n", WEXITSTATUS(system("exit 6")));
    printf("no child %d %s\n", wait(&status), strerror(errno));
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    child = vfork();
    if (!child) { *shared = 17; _exit(3); }
    siginfo_t info;
    waitid(P_PID, child, &info, WEXITED);
    printf("vfork %d shared %d\n", info.si_status, *shared);
    int pair[2], eventfd_ = eventfd(0, 0);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {"F", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &eventfd_, sizeof(int));
    printf("sendmsg %zd\n", sendmsg(pair[0], &message, 0));
    char byte;
    struct iovec place = {&byte, 1};
    memset(control, 0, sizeof control);
    message.msg_iov = &place;
    printf("recvmsg %zd %c\n", recvmsg(pair[1], &message, 0), byte);
    int received;
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    uint64_t number = 41;
    write(received, &number, 8);
    int set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x123456789abcdefULL}, found[4];
    epoll_ctl(set, EPOLL_CTL_ADD, eventfd_, &event);
    printf("epoll %d %lx\n", epoll_wait(set, found, 4, 1000), (long)found[0].data.u64);
    read(eventfd_, &number, 8);
    printf("eventfd %ld\n", (long)number);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    printf("bind %d listen %d\n", bind(listener, (void *)&address, sizeof address), listen(listener, 5));
    socklen_t size = sizeof address;
    getsockname(listener, (void *)&address, &size);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    printf("connect %d\n", connect(client, (void *)&address, sizeof address));
    int server = accept(listener, NULL, NULL);
    send(client, "over tcp", 8, 0);
    printf("recv %zd %.8s\n", recv(server, text, 63, 0), text);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec soon = {{0, 0}, {0, 5000000}};
    timerfd_settime(timer, 0, &soon, NULL);
    struct pollfd entry = {timer, POLLIN, 0};
    printf("poll %d %d\n", poll(&entry, 1, 2000), entry.revents);
    fd_set reads;
    FD_ZERO(&reads);
    FD_SET(timer, &reads);
    struct timeval limit = {2, 0};
    printf("select %d\n", select(timer + 1, &reads, NULL, NULL, &limit));
    struct timespec before, after, pause = {0, 10000000};
    clock_gettime(CLOCK_MONOTONIC, &before);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long passed = (after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec;
    printf("slept %d\n", passed >= 10000000);
    struct rlimit files;
    printf("rlimit %d %d\n", getrlimit(RLIMIT_NOFILE, &files), files.rlim_cur > 10);
    char *area = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area[0] = 'a', area[2 * 4096] = 'c';
    munmap(area + 4096, 4096);
    char *moved = mremap(area + 8192, 4096, 64 * 4096, MREMAP_MAYMOVE);
    printf("mremap %c %d\n", moved[0], moved[63 * 4096]);
    printf("mprotect of a hole %d %s\n", mprotect(area + 4096, 4096, PROT_READ), strerror(errno));
    int memory = memfd_create("m", 0);
    ftruncate(memory, 8192);
    char *first = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    char *second = mmap(NULL, 8192, PROT_READ, MAP_SHARED, memory, 0);
    strcpy(first + 5000, "same");
    printf("memfd %s\n", second + 5000);
    printf("fixed %d\n", mmap(first, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
    printf("unknown %ld %s\n", syscall(499), strerror(errno));
    return 200;
}
