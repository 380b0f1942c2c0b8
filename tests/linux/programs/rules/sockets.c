#include "rules.h"
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static void making(void) {
    int pair[2], value = 0;
    TRY(socket(99, SOCK_STREAM, 0));
    TRY(socket(AF_INET, 99, 0));
    TRY(socket(AF_INET, SOCK_STREAM, 99));
    TRY(socket(AF_INET, SOCK_STREAM | 0x100000, 0));
    TRY(socketpair(AF_INET, SOCK_STREAM, 0, pair));
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, (int *)8));
    int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), file = open(".", O_RDONLY);
    struct sockaddr_in address = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}}, got;
    struct sockaddr_un named = {AF_UNIX, "socket"};
    socklen_t size = sizeof got;
    TRY(bind(tcp, (void *)&address, 4));
    TRY(bind(tcp, (void *)&address, -1));
    TRY(bind(tcp, (void *)&address, 1000));
    TRY(bind(tcp, (void *)8, 16));
    TRY(bind(file, (void *)&address, 16));
    TRY(bind(99, (void *)8, 16));
    TRY(bind(tcp, (void *)&address, sizeof address));
    TRY(bind(tcp, (void *)&address, sizeof address));
    TRY(listen(udp, 5));
    TRY(listen(file, 5));
    TRY(listen(tcp, 5));
    TRY(getsockname(tcp, (void *)&got, &size));
    printf("%d %d\n", size, got.sin_port != 0);
    size = -1;
    TRY(getsockname(tcp, (void *)&got, &size));
    size = 2;
    TRY(getsockname(tcp, (void *)&got, &size));
    printf("%d\n", size);
    size = 0;
    TRY(getsockname(tcp, (void *)8, &size));
    size = 16;
    TRY(getsockname(tcp, (void *)8, &size));
    TRY(getsockname(tcp, (void *)&got, (void *)8));
    TRY(getsockname(file, (void *)&got, &size));
    TRY(getpeername(tcp, (void *)&got, &size));
    size = 16;
    getsockname(tcp, (void *)&got, &size);
    TRY(connect(udp, (void *)&got, 3));
    TRY(connect(tcp, (void *)&got, 16));
    int client = socket(AF_INET, SOCK_STREAM, 0);
    TRY(connect(client, (void *)&got, 16));
    TRY(connect(client, (void *)&got, 16));
    size = -5;
    TRY(accept(tcp, (void *)&got, &size));
    TRY(accept4(tcp, 0, 0, 99));
    /* The connection is gone all the same. */
    size = 16;
    getsockname(tcp, (void *)&got, &size);
    close(client);
    client = socket(AF_INET, SOCK_STREAM, 0);
    TRY(connect(client, (void *)&got, 16));
    int server;
    IS((server = accept4(tcp, (void *)&got, &size, SOCK_CLOEXEC)) > 0);
    IS(fcntl(server, F_GETFD) == FD_CLOEXEC);
    fcntl(tcp, F_SETFL, O_NONBLOCK);
    TRY(accept(tcp, 0, 0));
    TRY(accept(file, 0, 0));
    TRY(accept(client, 0, 0));
    TRY(send(client, "hello", 5, 0));
    char text[64] = "";
    TRY(recv(server, text, 64, MSG_PEEK));
    TRY(recv(server, text, 2, MSG_WAITALL));
    size = -1;
    TRY(recvfrom(server, text, 64, 0, (void *)&got, &size));
    TRY(recvfrom(server, (char *)8, -1, MSG_DONTWAIT, 0, 0));
    TRY(recvfrom(server, text, 64, MSG_DONTWAIT, 0, 0));
    TRY(recvfrom(server, text, 64, MSG_DONTWAIT, (void *)8, (void *)8));
    TRY(recvfrom(99, text, 64, MSG_DONTWAIT, 0, 0));
    TRY(recvfrom(file, text, 64, MSG_DONTWAIT, 0, 0));
    TRY(recv(server, text, 64, MSG_OOB));
    TRY(sendto(client, "x", 1, 0, (void *)&got, -1));
    TRY(sendto(client, (char *)8, 5, 0, 0, 0));
    TRY(sendto(udp, "x", 1, 0, 0, 0));
    TRY(sendto(udp, "x", 1, 0, (void *)&got, 3));
    TRY(shutdown(client, 9));
    TRY(shutdown(client, SHUT_WR));
    TRY(recv(server, text, 64, 0));
    TRY(send(client, "x", 1, MSG_NOSIGNAL));
    TRY(shutdown(udp, SHUT_RD));
    size = 4;
    TRY(getsockopt(tcp, SOL_SOCKET, SO_TYPE, &value, &size));
    printf("%d %d\n", value, size);
    TRY(getsockopt(tcp, SOL_SOCKET, SO_ACCEPTCONN, &value, &size));
    printf("%d\n", value);
    TRY(getsockopt(tcp, SOL_SOCKET, 9999, &value, &size));
    TRY(getsockopt(tcp, 999, 1, &value, &size));
    size = -1;
    TRY(getsockopt(tcp, SOL_SOCKET, SO_TYPE, &value, &size));
    size = 4;
    TRY(getsockopt(tcp, SOL_SOCKET, SO_TYPE, (void *)8, &size));
    TRY(getsockopt(tcp, SOL_SOCKET, SO_TYPE, &value, (void *)8));
    TRY(getsockopt(99, SOL_SOCKET, SO_TYPE, &value, &size));
    value = 1;
    TRY(setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &value, 4));
    TRY(setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &value, 2));
    TRY(setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &value, -1));
    TRY(setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, (void *)8, 4));
    TRY(setsockopt(tcp, SOL_SOCKET, 9999, &value, 4));
    TRY(setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, &value, 4));
    struct linger linger = {1, 5};
    TRY(setsockopt(tcp, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    struct timeval limit = {0, 20000};
    TRY(setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    TRY(recv(udp, text, 64, 0));
    limit.tv_usec = 2000000;
    TRY(setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    TRY(getsockopt(udp, SOL_SOCKET, SO_ERROR, &value, &size));
    int local = socket(AF_UNIX, SOCK_STREAM, 0);
    TRY(bind(local, (void *)&named, sizeof named));
    TRY(bind(local, (void *)&named, sizeof named));
    TRY(connect(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&named, sizeof named));
    TRY(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&named, sizeof named));
    unlink("socket");
    TRY(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&named, sizeof named));
}

static void messages(void) {
    int pair[2], packets[2], value = 1;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets);
    setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &value, 4);
    char text[64] = "", control[256] = "";
    struct iovec out[2] = {{"abc", 3}, {"defg", 4}}, in[2] = {{text, 2}, {text + 2, 62}}, bad = {(char *)8, 4};
    struct msghdr message = {.msg_iov = out, .msg_iovlen = 2, .msg_control = control, .msg_controllen = CMSG_SPACE(8)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){CMSG_LEN(8), SOL_SOCKET, SCM_RIGHTS};
    ((int *)CMSG_DATA(head))[0] = 0, ((int *)CMSG_DATA(head))[1] = 99;
    TRY(sendmsg(pair[0], &message, 0));
    ((int *)CMSG_DATA(head))[1] = 1;
    TRY(sendmsg(pair[0], &message, 0));
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof control};
    TRY(recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC));
    printf("%s %x %ld\n", text, message.msg_flags, (long)message.msg_controllen);
    for (head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        printf("%d %ld\n", head->cmsg_type, (long)head->cmsg_len);
        if (head->cmsg_type == SCM_RIGHTS)
            printf("%d\n", fcntl(*(int *)CMSG_DATA(head), F_GETFD));
        else
            printf("%d\n", *(int *)CMSG_DATA(head) == getpid());
    }
    message = (struct msghdr){.msg_iov = out, .msg_iovlen = 2};
    TRY(sendmsg(packets[0], &message, 0));
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 1, .msg_control = control, .msg_controllen = 4};
    TRY(recvmsg(packets[1], &message, 0));
    printf("%x\n", message.msg_flags);
    message = (struct msghdr){.msg_iov = &bad, .msg_iovlen = 1};
    TRY(sendmsg(packets[0], &message, 0));
    message.msg_iovlen = 1025;
    TRY(sendmsg(packets[0], &message, 0));
    message = (struct msghdr){.msg_iov = out, .msg_iovlen = 2, .msg_control = (void *)8, .msg_controllen = 20};
    TRY(sendmsg(packets[0], &message, 0));
    message.msg_controllen = 1L << 40;
    TRY(sendmsg(packets[0], &message, 0));
    TRY(sendmsg(packets[0], (void *)8, 0));
    TRY(sendmsg(99, (void *)8, 0));
    TRY(recvmsg(packets[1], (void *)8, MSG_DONTWAIT));
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2};
    TRY(recvmsg(packets[1], &message, MSG_DONTWAIT));
    struct mmsghdr several[3] = {{{.msg_iov = out, .msg_iovlen = 1}}, {{.msg_iov = out + 1, .msg_iovlen = 1}}, {{.msg_iov = &bad, .msg_iovlen = 1}}};
    TRY(sendmmsg(packets[0], several, 3, 0));
    printf("%d %d\n", several[0].msg_len, several[1].msg_len);
    TRY(sendmmsg(packets[0], several + 2, 1, 0));
    TRY(sendmmsg(packets[0], several, 0, 0));
    struct mmsghdr taken[3] = {{{.msg_iov = in, .msg_iovlen = 2}}, {{.msg_iov = in, .msg_iovlen = 2}}, {{.msg_iov = in, .msg_iovlen = 2}}};
    struct timespec wrong = {0, -1}, none = {0, 0};
    TRY(recvmmsg(packets[1], taken, 3, 0, &wrong));
    TRY(recvmmsg(packets[1], taken, 3, MSG_WAITFORONE, 0));
    printf("%d %d\n", taken[0].msg_len, taken[1].msg_len);
    TRY(recvmmsg(packets[1], taken, 3, MSG_DONTWAIT, &none));
    struct ucred credentials;
    socklen_t size = sizeof credentials;
    TRY(getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &credentials, &size));
    IS(credentials.pid == getpid() && credentials.uid == geteuid());
    struct sock_filter code[] = {{0x06, 0, 0, 3}}, endless[] = {{0x05, 0, 0, 9}, {0x06, 0, 0, 3}};
    struct sock_fprog program = {1, code}, broken = {2, endless}, absent = {1, (void *)8};
    int inet[2] = {socket(AF_INET, SOCK_DGRAM, 0), socket(AF_INET, SOCK_DGRAM, 0)};
    TRY(setsockopt(packets[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    TRY(send(packets[0], "filtered", 8, 0));
    TRY(recv(packets[1], text, 64, 0));
    TRY(setsockopt(packets[1], SOL_SOCKET, SO_ATTACH_FILTER, &broken, sizeof program));
    TRY(setsockopt(packets[1], SOL_SOCKET, SO_ATTACH_FILTER, &absent, sizeof program));
    TRY(setsockopt(packets[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, 4));
    TRY(setsockopt(packets[1], SOL_SOCKET, SO_ATTACH_FILTER, 8, sizeof program));
    struct sock_filter read_back[4];
    size = 0;
    TRY(getsockopt(packets[1], SOL_SOCKET, SO_GET_FILTER, 0, &size));
    printf("%d\n", size);
    TRY(getsockopt(packets[1], SOL_SOCKET, SO_GET_FILTER, read_back, &size));
    printf("%x %d\n", read_back[0].code, read_back[0].k);
    TRY(setsockopt(packets[1], SOL_SOCKET, SO_LOCK_FILTER, &value, 4));
    TRY(setsockopt(packets[1], SOL_SOCKET, SO_DETACH_FILTER, 0, 0));
    TRY(setsockopt(inet[0], SOL_SOCKET, SO_REUSEPORT, &value, 4));
    TRY(setsockopt(inet[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program));
}

static void waiting(void) {
    int poller = epoll_create1(0), event = eventfd(3, EFD_NONBLOCK), file = open(".", O_RDONLY), other = epoll_create1(0);
    struct epoll_event entry = {EPOLLIN, {.u64 = 0x123456789abcdef}}, got[4];
    struct timespec none = {0, 0}, wrong = {0, -1}, past = {-1, 0};
    struct pollfd polled[3] = {{event, POLLIN}, {-1, POLLIN}, {99, POLLIN}};
    unsigned long number;
    fd_set set;
    TRY(epoll_create1(99));
    TRY(epoll_create(0));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, event, &entry));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, event, &entry));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, file, &entry));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, poller, &entry));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, 99, &entry));
    TRY(epoll_ctl(event, EPOLL_CTL_ADD, poller, &entry));
    TRY(epoll_ctl(poller, EPOLL_CTL_MOD, other, &entry));
    TRY(epoll_ctl(poller, EPOLL_CTL_DEL, other, 0));
    TRY(epoll_ctl(poller, 9, event, &entry));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, other, (void *)8));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, other, &entry));
    TRY(epoll_ctl(other, EPOLL_CTL_ADD, poller, &entry));
    TRY(epoll_wait(poller, got, 4, 0));
    printf("%x %d\n", got[0].events, got[0].data.u64 == 0x123456789abcdef);
    TRY(epoll_wait(poller, got, 0, 0));
    TRY(epoll_wait(poller, got, -1, 0));
    TRY(epoll_wait(poller, (void *)8, 4, 0));
    TRY(epoll_wait(event, got, 4, 0));
    TRY(epoll_wait(99, got, 4, 0));
    TRY(syscall(SYS_epoll_pwait2, poller, got, 4, &none, 0, 8L));
    TRY(syscall(SYS_epoll_pwait2, poller, got, 4, &wrong, 0, 8L));
    TRY(syscall(SYS_epoll_pwait, poller, got, 4, 0, got, 4L));
    TRY(poll(polled, 3, 0));
    printf("%x %x %x\n", polled[0].revents, polled[1].revents, polled[2].revents);
    TRY(poll((void *)8, 1, 0));
    TRY(poll(0, 0, 1));
    TRY(ppoll(polled, 1, &wrong, 0));
    TRY(syscall(SYS_ppoll, polled, 1, &none, got, 4));
    TRY(syscall(SYS_ppoll, polled, -1, &none, 0, 8));
    FD_ZERO(&set); FD_SET(event, &set);
    TRY(pselect(event + 1, &set, 0, 0, &none, 0));
    IS(FD_ISSET(event, &set));
    TRY(pselect(-1, &set, 0, 0, &none, 0));
    TRY(pselect(event + 1, (void *)8, 0, 0, &none, 0));
    TRY(pselect(event + 1, &set, 0, 0, &wrong, 0));
    /* How far beyond its descriptors a kernel looks depends on how many a process ever had. */
    FD_ZERO(&set);
    TRY(pselect(100, &set, 0, 0, &none, 0));
    TRY(eventfd(0, 0x10));
    TRY(read(event, &number, 4));
    TRY(read(event, &number, 8));
    printf("%ld\n", number);
    TRY(read(event, &number, 8));
    number = -1;
    TRY(write(event, &number, 8));
    number = 5;
    TRY(write(event, &number, 4));
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec soon = {{0, 0}, {0, 1000000}}, bad = {{0, 0}, {0, -1}}, now;
    TRY(timerfd_create(99, 0));
    TRY(timerfd_create(CLOCK_MONOTONIC, 99));
    TRY(timerfd_settime(timer, 0, &bad, 0));
    TRY(timerfd_settime(timer, 99, &soon, 0));
    TRY(timerfd_settime(event, 0, &soon, 0));
    TRY(timerfd_settime(timer, 0, (void *)8, 0));
    TRY(read(timer, &number, 8));
    TRY(timerfd_settime(timer, 0, &soon, &now));
    polled[0] = (struct pollfd){timer, POLLIN};
    TRY(poll(polled, 1, 1000));
    TRY(read(timer, &number, 8));
    printf("%ld\n", number);
    TRY(timerfd_gettime(timer, &now));
    printf("%ld %ld\n", (long)now.it_value.tv_sec, now.it_value.tv_nsec);
    sigset_t mask;
    sigemptyset(&mask), sigaddset(&mask, SIGUSR1), sigprocmask(SIG_BLOCK, &mask, 0);
    int signals = signalfd(-1, &mask, SFD_NONBLOCK);
    struct signalfd_siginfo information;
    TRY(signalfd(event, &mask, 0));
    TRY(signalfd(-1, &mask, 99));
    TRY(syscall(SYS_signalfd4, -1, &mask, 4, 0));
    TRY(read(signals, &information, sizeof information));
    kill(getpid(), SIGUSR1);
    TRY(read(signals, &information, 8));
    TRY(read(signals, &information, sizeof information));
    printf("%d %d\n", information.ssi_signo, information.ssi_pid == getpid());
}

int main(void) {
    making();
    messages();
    waiting();
}
