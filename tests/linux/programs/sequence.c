/* Makes the system calls that a script asks for; prints what came of each.
   One line is one call: its name and arguments. "---" begins another sequence, in a process and a
   folder of its own. An argument is a number, or b (buffer), e (event), m (page of an arena), p (a path from
   the table below), x, k (addresses that nobody has) and a number. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 32, ROOM = 8192 };
static unsigned char *buffer, *arena;
/* All below the sequence's own folder: the calls remove and rename. */
static const char *paths[] = {"a", "b", "d", "d/a", "l", "./a", "none/a", "", "d/b", "none", "none/none", "d/../a"};
static int caught[65];
static struct epoll_event event[1];

static long pointer(const char *text)
{
    long number = strtol(text + (*text < '0' && *text != '-' || *text > '9'), 0, 0);
    switch (*text) {
    case 'e': return (long)event;
    case 'b': return (long)buffer + number;
    case 'm': return (long)arena + number * PAGE;
    case 'p': return (long)paths[number % (sizeof paths / sizeof *paths)];
    case 'x': return 8 + number;
    case 'k': return -4096 - number * 4096;
    default: return number;
    }
}
static unsigned hash(const unsigned char *data, long size)
{
    unsigned value = 1;
    for (long i = 0; i < size; i++) value = value * 31 + data[i];
    return value;
}
static long told(long result) { return result == -1 ? -errno : result; }
static void count(int n) { caught[n]++; }

static const struct { const char *name; long number; } plain[] = {
    {"openat", SYS_openat}, {"close", SYS_close}, {"read", SYS_read}, {"write", SYS_write},
    {"pread", SYS_pread64}, {"pwrite", SYS_pwrite64}, {"lseek", SYS_lseek}, {"dup", SYS_dup},
    {"dup3", SYS_dup3}, {"pipe2", SYS_pipe2}, {"fcntl", SYS_fcntl}, {"ftruncate", SYS_ftruncate},
    {"mkdirat", SYS_mkdirat}, {"unlinkat", SYS_unlinkat}, {"symlinkat", SYS_symlinkat},
    {"linkat", SYS_linkat}, {"renameat2", SYS_renameat2}, {"readlinkat", SYS_readlinkat},
    {"faccessat", SYS_faccessat}, {"fchmodat", SYS_fchmodat}, {"chdir", SYS_chdir},
    {"munmap", SYS_munmap}, {"mprotect", SYS_mprotect}, {"madvise", SYS_madvise},
    {"msync", SYS_msync}, {"socketpair", SYS_socketpair}, {"sendto", SYS_sendto},
    {"recvfrom", SYS_recvfrom}, {"shutdown", SYS_shutdown}, {"getsockopt", SYS_getsockopt},
    {"rt_sigprocmask", SYS_rt_sigprocmask}, {"rt_sigpending", SYS_rt_sigpending},
    {"sigaltstack", SYS_sigaltstack}, {"umask", SYS_umask}, {"flock", SYS_flock},
    {"epoll_create1", SYS_epoll_create1}, {"eventfd2", SYS_eventfd2}, {"truncate", SYS_truncate},
    {"fallocate", SYS_fallocate}, {"readv", SYS_readv}, {"writev", SYS_writev},
    {"epoll_ctl", SYS_epoll_ctl}, {"ioctl", SYS_ioctl},
};

static long make(const char *name, long *a)
{
    struct stat state;
    for (unsigned i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(plain[i].name, name))
            return told(syscall(plain[i].number, a[0], a[1], a[2], a[3], a[4], a[5]));
    if (!strcmp(name, "stat") || !strcmp(name, "fstat")) {
        long result = *name == 's' ? fstatat(a[0], (char *)a[1], &state, a[2]) : fstat(a[0], &state);
        if (!result)
            printf(" mode %o links %ld size %ld", state.st_mode, (long)state.st_nlink,
                   S_ISREG(state.st_mode) ? (long)state.st_size : 0);
        return told(result);
    }
    if (!strcmp(name, "mmap")) {
        void *place = mmap((void *)a[0], a[1], a[2], a[3], a[4], a[5]);
        if (place == MAP_FAILED) return -errno;
        long page = ((unsigned char *)place - arena) / PAGE;
        return page >= 0 && page < PAGES ? page : 1000;
    }
    if (!strcmp(name, "mremap")) {
        void *place = mremap((void *)a[0], a[1], a[2], a[3], a[4]);
        if (place == MAP_FAILED) return -errno;
        long page = ((unsigned char *)place - arena) / PAGE;
        return page >= 0 && page < PAGES ? page : 1000;
    }
    if (!strcmp(name, "brk")) return sbrk(a[0]) == (void *)-1 ? -errno : 0;
    if (!strcmp(name, "sigaction")) {
        struct sigaction action = {.sa_handler = a[1] ? a[1] == 1 ? SIG_IGN : count : SIG_DFL, .sa_flags = a[2]}, old;
        long result = sigaction(a[0], &action, &old);
        if (!result) printf(" old %d flags %x", old.sa_handler == count ? 2 : old.sa_handler == SIG_IGN, old.sa_flags & 0xd8000007);
        return told(result);
    }
    if (!strcmp(name, "raise")) {
        struct sigaction now;
        /* What has no handler would end the sequence. */
        if (a[0] < 1 || a[0] > 64 || sigaction(a[0], 0, &now) || now.sa_handler == SIG_DFL)
            return told(kill(getpid(), a[0] > 0 && a[0] < 65 ? 0 : a[0]));
        return told(syscall(a[1] ? SYS_tgkill : SYS_kill, getpid(), a[1] ? (long)getpid() : a[0], a[0]));
    }
    if (!strcmp(name, "poll")) {
        struct pollfd list[2] = {{a[0], a[1]}, {a[2], POLLIN | POLLOUT}};
        struct timespec none = {0, 0};
        long result = syscall(SYS_ppoll, list, a[3], &none, 0, 8);
        printf(" %x %x", list[0].revents, list[1].revents);
        return told(result);
    }
    if (!strcmp(name, "epoll_wait")) {
        struct epoll_event events[4] = {{0}};
        long result = told(epoll_pwait(a[0], events, a[1], 0, 0));
        for (long i = 0; i < result && i < 4; i++) printf(" %x:%lx", events[i].events, (long)events[i].data.u64);
        return result;
    }
    if (!strcmp(name, "vectors")) {
        struct iovec *list = (struct iovec *)a[0];
        for (int i = 0; i < 3; i++) list[i].iov_base = (void *)a[1 + i], list[i].iov_len = a[4] + i;
        return 0;
    }
    if (!strcmp(name, "event")) {
        event->events = a[0];
        event->data.u64 = a[1];
        return 0;
    }
    if (!strcmp(name, "word")) return *(long *)a[0] = a[1];
    if (!strcmp(name, "message")) {
        struct iovec list[2] = {{(void *)a[2], a[3]}, {buffer + 512, 3}};
        struct msghdr header = {.msg_iov = list, .msg_iovlen = a[4] & 3, .msg_control = a[4] & 4 ? buffer + 1024 : 0, .msg_controllen = a[4] & 4 ? 64 : 0};
        long result = told(a[1] ? recvmsg(a[0], &header, MSG_DONTWAIT) : sendmsg(a[0], &header, MSG_DONTWAIT | MSG_NOSIGNAL));
        printf(" %lx %lx", (long)header.msg_controllen * !!a[1], (long)header.msg_flags * !!a[1]);
        return result;
    }
    return -99999;
}

static void run(char *script, int number)
{
    char folder[64], *rest;
    snprintf(folder, sizeof folder, "sequence-%d", number);
    mkdir(folder, 0755);
    if (chdir(folder)) _exit(9);
    buffer = mmap((void *)0x20000000, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    arena = mmap((void *)0x30000000, (PAGES + 16) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    for (int i = 0; i < 256; i++) buffer[i] = i;
    umask(022);
    for (char *line = strtok_r(script, "\n", &rest); line; line = strtok_r(0, "\n", &rest)) {
        long arguments[6] = {0};
        char *words, *name = strtok_r(line, " ", &words), *word;
        for (int i = 0; i < 6 && (word = strtok_r(0, " ", &words)); i++) arguments[i] = pointer(word);
        printf("%s", name);
        long result = make(name, arguments);
        printf(" = %ld buffer %x caught %d %d %d\n", result, hash(buffer, ROOM), caught[10], caught[12], caught[34]);
        fflush(stdout);
    }
    _exit(0);
}

int main(int count_of_words, char **words)
{
    static char script[1 << 20], room[1 << 16];
    int file = open(words[1], O_RDONLY), number = 0;
    setvbuf(stdout, room, _IOFBF, sizeof room);
    script[read(file, script, sizeof script - 1)] = 0;
    close(file);
    for (char *next, *one = strstr(script, "---\n"); one; one = next) {
        next = strstr(one + 4, "---\n");
        if (next) next[-1] = 0;
        fflush(stdout);
        pid_t child = fork();
        if (!child) run(one + 4, number);
        int status;
        waitpid(child, &status, 0);
        printf("ended %d %x\n", number++, status);
    }
    fflush(stdout);
    return 0;
}
