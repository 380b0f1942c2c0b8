/* What each of many system calls costs a program: the least of several rounds, in µs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 5 };

static int zero, epoll, ends[2], pair[2];
static char *page, name[64], other[64];
static int here;
static volatile int caught;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static long do_getpid(void) { return syscall(SYS_getpid); }
static long do_lseek(void) { return lseek(zero, 0, SEEK_CUR); }
static long do_stat(void)
{
    struct stat state;
    return stat("/etc/passwd", &state);
}
static long do_access(void) { return access("/etc/passwd", R_OK); }
static long do_fstat(void)
{
    struct stat state;
    return fstat(zero, &state);
}
static long do_statx(void)
{
    struct statx state;
    return statx(AT_FDCWD, "/etc/passwd", 0, STATX_BASIC_STATS, &state);
}
static long do_open_close(void) { return close(open("/etc/passwd", O_RDONLY)); }
static long do_readlink(void)
{
    char text[64];
    return readlink(other, text, sizeof text) > 0 ? 0 : -1;
}
static long do_rename(void)
{
    here = !here;
    return here ? rename(name, "/tmp/system-calls-b") : rename("/tmp/system-calls-b", name);
}
static long do_mmap_munmap(void)
{
    char *place = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return munmap(place, 65536);
}
static long do_brk(void)
{
    char *end = (char *)syscall(SYS_brk, 0);
    here = !here;
    return (char *)syscall(SYS_brk, end + (here ? 8192 : -8192)) == end;
}
static long do_mprotect(void)
{
    here = !here;
    return mprotect(page, 4096, here ? PROT_READ : PROT_READ | PROT_WRITE);
}
static long do_madvise(void) { return madvise(page, 4096, MADV_DONTNEED); }
static long do_mremap(void)
{
    here = !here;
    char *moved = mremap(page, here ? 65536 : 131072, here ? 131072 : 65536, MREMAP_MAYMOVE);
    page = moved;
    return moved == MAP_FAILED ? -1 : 0;
}
static long do_poll(void)
{
    struct pollfd one = {ends[0], POLLIN, 0};
    return poll(&one, 1, 0);
}
static long do_select(void)
{
    fd_set set;
    struct timeval none = {0, 0};
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    return select(ends[0] + 1, &set, 0, 0, &none);
}
static long do_epoll_wait(void)
{
    struct epoll_event events[8];
    return epoll_wait(epoll, events, 8, 0);
}
static long do_messages(void)
{
    char text[8] = "message";
    struct iovec vector = {text, 8};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    return sendmsg(pair[0], &message, 0) == 8 && recvmsg(pair[1], &message, 0) == 8 ? 0 : -1;
}
static long do_send_receive(void)
{
    char text[8] = "message";
    return send(pair[0], text, 8, 0) == 8 && recv(pair[1], text, 8, 0) == 8 ? 0 : -1;
}
static long do_vectors(void)
{
    char text[8] = "message";
    struct iovec vectors[2] = {{text, 4}, {text + 4, 4}};
    return writev(ends[1], vectors, 2) == 8 && readv(ends[0], vectors, 2) == 8 ? 0 : -1;
}
static long do_pipe_byte(void)
{
    char byte = 1;
    return write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1 ? 0 : -1;
}
static void catch(int number) { caught += number != 0; }
static long do_raise(void) { return syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1); }
static long do_sigprocmask(void)
{
    sigset_t set;
    sigemptyset(&set);
    here = !here;
    sigaddset(&set, SIGUSR2);
    return sigprocmask(here ? SIG_BLOCK : SIG_UNBLOCK, &set, 0);
}
static long do_sigaction(void)
{
    struct sigaction action;
    return sigaction(SIGUSR1, 0, &action);
}
static long do_dup_close(void) { return close(dup(zero)); }
static long do_fcntl(void) { return fcntl(zero, F_GETFL) < 0 ? -1 : 0; }
static long do_getcwd(void)
{
    char text[256];
    return getcwd(text, sizeof text) ? 0 : -1;
}
static long do_ioctl(void)
{
    int count;
    return ioctl(ends[0], FIONREAD, &count);
}
static long do_uname(void)
{
    struct utsname names;
    return uname(&names);
}
static long do_nanosleep(void)
{
    struct timespec none = {0, 0};
    return nanosleep(&none, 0) ? -1 : 0;
}
static long do_futex_wake(void)
{
    static int word;
    return syscall(SYS_futex, &word, 1, 1, 0, 0, 0);
}
static long do_clock_gettime(void)
{
    struct timespec time;
    return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
}
static long do_fork_wait(void)
{
    int status;
    pid_t child = fork();
    if (!child)
        _exit(0);
    return waitpid(child, &status, 0) == child ? 0 : -1;
}

static const struct { const char *name; long (*call)(void); int count; } calls[] = {
    {"getpid", do_getpid, 20000}, {"lseek", do_lseek, 20000}, {"stat", do_stat, 5000},
    {"access", do_access, 5000}, {"fstat", do_fstat, 5000}, {"statx", do_statx, 5000},
    {"open_close", do_open_close, 5000}, {"readlink", do_readlink, 5000},
    {"rename", do_rename, 1000}, {"mmap_munmap", do_mmap_munmap, 2000}, {"brk", do_brk, 2000},
    {"mprotect", do_mprotect, 2000}, {"madvise", do_madvise, 2000}, {"mremap", do_mremap, 1000},
    {"poll", do_poll, 5000}, {"select", do_select, 5000}, {"epoll_wait", do_epoll_wait, 5000},
    {"sendmsg_recvmsg", do_messages, 2000}, {"send_recv", do_send_receive, 2000},
    {"writev_readv", do_vectors, 2000}, {"write_read", do_pipe_byte, 2000},
    {"raise_handler", do_raise, 1000}, {"sigprocmask", do_sigprocmask, 5000},
    {"sigaction", do_sigaction, 5000}, {"dup_close", do_dup_close, 5000},
    {"fcntl", do_fcntl, 5000}, {"getcwd", do_getcwd, 5000}, {"ioctl", do_ioctl, 5000},
    {"uname", do_uname, 5000}, {"nanosleep", do_nanosleep, 100},
    {"futex_wake", do_futex_wake, 5000}, {"clock_gettime", do_clock_gettime, 5000},
    {"fork_wait", do_fork_wait, 20},
};

int main(int count, char **words)
{
    struct epoll_event event = {EPOLLOUT, {.u64 = 1}};
    snprintf(name, sizeof name, "/tmp/system-calls-a-%d", getpid());
    snprintf(other, sizeof other, "/tmp/system-calls-l-%d", getpid());
    zero = open("/dev/zero", O_RDONLY);
    close(open(name, O_CREAT | O_WRONLY, 0600));
    if (symlink("/etc/passwd", other) || pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return 1;
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event);
    page = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    signal(SIGUSR1, catch);
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
        double best = 1e9;
        if (count > 1 && strcmp(words[1], calls[i].name))
            continue;
        here = 0;
        for (int round = 0; round < ROUNDS; round++) {
            double begin = now();
            for (int turn = 0; turn < calls[i].count; turn++)
                if (calls[i].call() < 0) {
                    printf("%s fails\n", calls[i].name);
                    return 1;
                }
            double seconds = now() - begin;
            best = seconds < best ? seconds : best;
        }
        printf("metric %s_us %.3f\n", calls[i].name, best / calls[i].count * 1e6);
        fflush(stdout);
    }
    unlink(name);
    unlink(other);
    printf("done\n");
    return 0;
}
