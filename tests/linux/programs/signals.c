/* Signals: handlers, masks, nesting, alternate stacks, faults that resume, restarts. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <fenv.h>

static volatile int seen, depth, deepest;
static char *page;
static sigjmp_buf back;

static void simple(int n) { seen += n; }
static void nested(int n) {
    depth++;
    if (depth > deepest) deepest = depth;
    if (n == SIGUSR1) raise(SIGUSR2);
    depth--;
}
static void open_page(int n, siginfo_t *info, void *context) {
    printf("fault %d code %d offset %ld\n", n, info->si_code, (long)((char *)info->si_addr - page));
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}
static void skip(int n, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    printf("illegal %d\n", n);
    uc->uc_mcontext.__gregs[0] += 4;
    uc->uc_mcontext.__gregs[10] = 77;
}
static void jump(int n) {
    char here;
    stack_t old;
    sigaltstack(NULL, &old);
    printf("on stack %d\n", &here >= (char *)old.ss_sp && &here < (char *)old.ss_sp + old.ss_size);
    siglongjmp(back, n);
}
static int overflow(int n) { volatile char room[4096]; room[0] = n; return overflow(n + 1) + room[0]; }
static void details(int n, siginfo_t *info, void *context) {
    printf("queued %d code %d value %d pid %d\n", n, info->si_code, info->si_value.sival_int,
           info->si_pid == getpid());
}
static void set(int n, void (*f)(int), int flags) {
    struct sigaction a = {.sa_handler = f, .sa_flags = flags};
    sigaction(n, &a, NULL);
}
static void set_info(int n, void (*f)(int, siginfo_t *, void *), int flags) {
    struct sigaction a = {.sa_sigaction = f, .sa_flags = flags | SA_SIGINFO};
    sigaction(n, &a, NULL);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    set(SIGUSR1, simple, 0);
    raise(SIGUSR1);
    kill(getpid(), SIGUSR1);
    printf("seen %d\n", seen);
    sigset_t mask, old, pending;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, &old);
    seen = 0;
    kill(getpid(), SIGUSR1);
    sigpending(&pending);
    printf("blocked %d pending %d\n", seen, sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_SETMASK, &old, NULL);
    printf("unblocked %d\n", seen);
    set(SIGUSR1, nested, 0);
    set(SIGUSR2, nested, 0);
    raise(SIGUSR1);
    printf("deepest %d\n", deepest);
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    set_info(SIGSEGV, open_page, 0);
    double kept = 1.5;
    page[100] = 3;
    printf("resumed %d %g\n", page[100], kept * 2);
    set_info(SIGILL, skip, 0);
    register long result asm("a0") = 5;
    asm volatile(".word 0" : "+r"(result));
    printf("after illegal %ld\n", result);
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&stack, NULL);
    set(SIGSEGV, jump, SA_ONSTACK);
    if (sigsetjmp(back, 1) == 0) overflow(0);
    printf("back from the overflow\n");
    if (sigsetjmp(back, 1) == 0) ((void (*)(void))0x12345678)();
    printf("back from the wild jump\n");
    set_info(SIGRTMIN + 1, details, 0);
    union sigval value = {.sival_int = 99};
    sigqueue(getpid(), SIGRTMIN + 1, value);
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN + 2);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    for (int i = 0; i < 3; i++) value.sival_int = i, sigqueue(getpid(), SIGRTMIN + 2, value);
    siginfo_t info;
    for (int i = 0; i < 3; i++)
        printf("waited %d value %d\n", sigwaitinfo(&mask, &info) - SIGRTMIN, info.si_value.sival_int);
    struct timespec none = {0, 1000000};
    printf("nothing more %d %s\n", sigtimedwait(&mask, &info, &none), strerror(errno));
    set(SIGALRM, simple, 0);
    struct itimerval timer = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    int ends[2];
    pipe(ends);
    char byte;
    int got = read(ends[0], &byte, 1);
    printf("interrupted %d %s\n", got, strerror(errno));
    set(SIGALRM, simple, SA_RESTART);
    set(SIGCHLD, simple, SA_RESTART);
    setitimer(ITIMER_REAL, &timer, NULL);
    pid_t child = fork();
    if (!child) { usleep(60000); write(ends[1], "k", 1); _exit(5); }
    got = read(ends[0], &byte, 1);
    printf("restarted %d %c\n", got, byte);
    int status;
    while (waitpid(child, &status, 0) < 0) ;
    printf("child %d\n", WEXITSTATUS(status));
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    alarm(0);
    setitimer(ITIMER_REAL, &timer, NULL);
    seen = 0;
    sigset_t but = all;
    sigdelset(&but, SIGALRM);
    got = sigsuspend(&but);
    printf("suspended %d %s seen %d\n", got, strerror(errno), seen);
    setitimer(ITIMER_REAL, &timer, NULL);
    got = ppoll(NULL, 0, NULL, &but);
    printf("ppoll %d %s seen %d\n", got, strerror(errno), seen);
    sigprocmask(SIG_SETMASK, &old, NULL);
    sigemptyset(&mask);
    sigaddset(&mask, SIGWINCH);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int sfd = signalfd(-1, &mask, 0);
    raise(SIGWINCH);
    struct signalfd_siginfo si;
    printf("signalfd %zd %d\n", read(sfd, &si, sizeof si), si.ssi_signo);
    set(SIGPIPE, simple, 0);
    close(ends[0]);
    seen = 0;
    got = write(ends[1], "x", 1);
    printf("pipe %d %s seen %d\n", got, strerror(errno), seen);
    for (int n = 0; n < 3; n++) {
        int which[] = {SIGABRT, SIGSEGV, SIGTERM};
        child = fork();
        if (!child) {
            signal(which[n], SIG_DFL);
            if (n == 1) *(volatile int *)8 = 1;
            if (n == 0) abort();
            raise(which[n]);
            _exit(0);
        }
        waitpid(child, &status, 0);
        printf("died %d of %d\n", WIFSIGNALED(status), WTERMSIG(status));
    }
    signal(SIGTERM, SIG_DFL);
    fflush(stdout);
    raise(SIGTERM);
    return 0;
}
