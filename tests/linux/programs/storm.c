/* Signals that come fast, together, at the door of calls: what is counted is the kernel's rule. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int seen[65], order[64], orders;
static void count(int n) { seen[n]++; if (orders < 64) order[orders++] = n; }
static void set(int n, void (*f)(int), int flags, int masked)
{
    struct sigaction action = {.sa_handler = f, .sa_flags = flags};
    sigemptyset(&action.sa_mask);
    if (masked) sigaddset(&action.sa_mask, masked);
    sigaction(n, &action, 0);
}
static void block(int how, int n)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, n);
    sigprocmask(how, &one, 0);
}
static void every(long us)
{
    struct itimerval timer = {{0, us}, {0, us}};
    setitimer(ITIMER_REAL, &timer, 0);
}
static long work(long n)
{
    volatile long x = 1;
    while (n--) x = x * 3 + n;
    return x;
}
static void *reader(void *end)
{
    char byte;
    long got = read(*(int *)end, &byte, 1);
    return (void *)(got == 1 ? byte : -errno);
}
static void access_handler(int n, siginfo_t *info, void *context) { seen[n]++; order[orders++] = info->si_code; }
static long waits_in_child(void)
{
    /* A child signals us whenever we say that we are about to wait. */
    int ends[2], back[2];
    pipe(ends);
    pipe(back);
    pid_t us = getpid(), child = fork();
    if (!child) {
        char byte;
        close(ends[1]);
        while (read(ends[0], &byte, 1) == 1) { kill(us, SIGUSR1); write(back[1], &byte, 1); }
        _exit(0);
    }
    close(ends[0]);
    set(SIGUSR1, count, 0, 0);
    block(SIG_BLOCK, SIGUSR1);
    sigset_t none;
    sigemptyset(&none);
    int epoll = epoll_create1(0), before = seen[SIGUSR1];
    struct epoll_event event;
    for (int i = 0; i < 400; i++) {
        char byte = 1;
        int result = 0;
        write(ends[1], &byte, 1);
        switch (i & 3) {
        case 0: result = sigsuspend(&none); break;
        case 1: result = ppoll(0, 0, 0, &none); break;
        case 2: result = pselect(0, 0, 0, 0, 0, &none); break;
        case 3: result = epoll_pwait(epoll, &event, 1, -1, &none); break;
        }
        if (result != -1 || errno != EINTR) printf("wait %d: %d %d\n", i & 3, result, errno);
        if (seen[SIGUSR1] != before + i + 1) { printf("turn %d: %d\n", i, seen[SIGUSR1]); break; }
        read(back[0], &byte, 1);
    }
    block(SIG_UNBLOCK, SIGUSR1);
    close(ends[1]);
    waitpid(child, 0, 0);
    return seen[SIGUSR1] - before;
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    set(SIGALRM, count, SA_RESTART, 0);
    every(200);
    work(20000000);
    every(0);
    printf("timer %d\n", seen[SIGALRM] > 20);

    set(SIGUSR1, count, 0, 0);
    set(SIGUSR2, count, 0, SIGUSR1);
    set(SIGRTMIN, count, 0, 0);
    set(SIGRTMIN + 1, count, 0, 0);
    for (int n = 0; n < 4; n++) block(SIG_BLOCK, (int[]){SIGUSR1, SIGUSR2, SIGRTMIN, SIGRTMIN + 1}[n]);
    for (int n = 0; n < 3; n++) {
        kill(getpid(), SIGUSR2), kill(getpid(), SIGUSR1);
        kill(getpid(), SIGRTMIN + 1), kill(getpid(), SIGRTMIN);
    }
    sigset_t all;
    sigpending(&all);
    printf("pending %d %d %d\n", sigismember(&all, SIGUSR1), sigismember(&all, SIGUSR2), sigismember(&all, SIGHUP));
    orders = 0;
    sigfillset(&all);
    sigprocmask(SIG_UNBLOCK, &all, 0);
    printf("order");
    for (int n = 0; n < orders; n++) printf(" %d", order[n]);
    printf("\n");

    printf("waits %ld\n", waits_in_child());

    /* Restarts. */
    int ends[2];
    pipe(ends);
    pid_t us = getpid(), child = fork();
    if (!child) {
        for (int n = 0; n < 50; n++) { usleep(500); kill(us, SIGALRM); }
        write(ends[1], "x", 1);
        _exit(3);
    }
    char byte = 0;
    long got = read(ends[0], &byte, 1);
    printf("restarted %ld %c\n", got, byte);
    waitpid(child, 0, 0);
    set(SIGALRM, count, 0, 0);
    struct itimerval once = {{0, 0}, {0, 3000}};
    setitimer(ITIMER_REAL, &once, 0);
    got = read(ends[0], &byte, 1);
    printf("interrupted %ld %d\n", got, errno == EINTR);
    struct timespec time = {5, 0}, rest = {9, 9};
    setitimer(ITIMER_REAL, &once, 0);
    got = nanosleep(&time, &rest);
    printf("slept %ld %d %d\n", got, errno == EINTR, rest.tv_sec == 4 && rest.tv_nsec > 0);
    set(SIGALRM, count, SA_RESTART, 0);
    setitimer(ITIMER_REAL, &once, 0);
    got = poll(0, 0, 10000);
    printf("poll %ld %d\n", got, errno == EINTR);
    set(SIGALRM, SIG_IGN, 0, 0);
    setitimer(ITIMER_REAL, &once, 0);
    got = poll(0, 0, 10);
    printf("ignored %ld\n", got);

    /* One thread alone, and a thread that waits. */
    pthread_t thread;
    set(SIGUSR1, count, 0, 0);
    pthread_create(&thread, 0, reader, &ends[0]);
    usleep(20000);
    pthread_kill(thread, SIGUSR1);
    void *value;
    pthread_join(thread, &value);
    printf("thread %ld\n", (long)value);

    /* signalfd, sigtimedwait, sigqueue. */
    sigset_t two;
    sigemptyset(&two);
    sigaddset(&two, SIGUSR2);
    sigprocmask(SIG_BLOCK, &two, 0);
    int file = signalfd(-1, &two, SFD_NONBLOCK);
    struct signalfd_siginfo report;
    kill(us, SIGUSR2);
    got = read(file, &report, sizeof report);
    printf("signalfd %ld %d\n", got, report.ssi_signo);
    siginfo_t info;
    union sigval sent = {.sival_int = 77};
    sigqueue(us, SIGUSR2, sent);
    got = sigwaitinfo(&two, &info);
    printf("waited %ld %d %d\n", got, info.si_code, info.si_value.sival_int);
    struct timespec none = {0, 1000};
    got = sigtimedwait(&two, 0, &none);
    printf("timed %ld %d\n", got, errno == EAGAIN);

    /* SIGSEGV and SIGBUS that are sent, and the last signal. */
    struct sigaction action = {.sa_sigaction = access_handler, .sa_flags = SA_SIGINFO};
    orders = 0;
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    kill(us, SIGSEGV);
    raise(SIGBUS);
    block(SIG_BLOCK, SIGSEGV);
    kill(us, SIGSEGV);
    printf("held %d", seen[SIGSEGV]);
    block(SIG_UNBLOCK, SIGSEGV);
    printf(" %d codes %d %d\n", seen[SIGSEGV], order[0], order[1]);
    set(64, count, 0, 0);
    raise(64);
    printf("last %d\n", seen[64]);
    set(SIGUSR1, count, SA_RESETHAND, 0);
    raise(SIGUSR1);
    struct sigaction now;
    sigaction(SIGUSR1, 0, &now);
    printf("reset %d\n", now.sa_handler == SIG_DFL);

    /* Bad arguments. */
    for (int n = -1; n < 67; n += 66) {
        printf("%d: %d", n, kill(us, n) ? errno : 0);
        printf(" %d", (int)syscall(SYS_tgkill, us, us, n) ? errno : 0);
        printf(" %d", (int)syscall(SYS_tkill, us, n) ? errno : 0);
        printf(" %d\n", sigaction(n, 0, &now) ? errno : 0);
    }
    got = syscall(SYS_rt_sigprocmask, 0, 0, 0, 4);
    printf("mask size %ld %d\n", got, errno);
    got = syscall(SYS_rt_sigprocmask, 9, &two, 0, 8);
    printf("how %ld %d\n", got, errno);
    got = syscall(SYS_rt_sigprocmask, 0, 8, 0, 8);
    printf("fault %ld %d\n", got, errno);
    got = syscall(SYS_rt_sigaction, SIGUSR1, 8, 0, 8);
    printf("fault %ld %d\n", got, errno);
    got = syscall(SYS_rt_sigaction, SIGKILL, &action, 0, 8);
    printf("kill %ld %d\n", got, errno);
    got = syscall(SYS_rt_sigsuspend, &two, 4);
    printf("suspend %ld %d\n", got, errno);
    got = syscall(SYS_ppoll, 0, 0, &none, &two, 4);
    printf("ppoll %ld %d\n", got, errno);

    /* A child that dies of what its parent sends before it does anything. */
    for (int n = 0; n < 4; n++) {
        int status, signal = (int[]){SIGSEGV, SIGBUS, SIGUSR2, SIGKILL}[n];
        set(signal, SIG_DFL, 0, 0);
        block(SIG_UNBLOCK, signal);
        child = fork();
        if (!child) { for (;;) pause(); }
        kill(child, signal);
        waitpid(child, &status, 0);
        printf("child %d\n", WTERMSIG(status) == signal);
    }
    return 0;
}
