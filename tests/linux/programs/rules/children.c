#include "rules.h"
#include <linux/futex.h>
#include <pthread.h>

/* What a child of fork has of its own, and what is its parent's. */
static volatile int caught;
static void on_signal(int number) { caught = number; }

static void identity(void) {
    IS(getpid() == gettid());
    IS(getppid() != 1 && getpid() != getppid());
    IS(syscall(SYS_set_tid_address, 0) == getpid());
}
static void nothing_pends(void) {
    sigset_t pending, mask;
    sigpending(&pending);
    IS(sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_BLOCK, 0, &mask);
    IS(sigismember(&mask, SIGUSR1));
    sigemptyset(&mask);
    sigprocmask(SIG_SETMASK, &mask, 0);
    IS(caught == 0);
    raise(SIGUSR1);
    IS(caught == SIGUSR1);
}
static int *shared;
static char *left_out;
static void memory(void) {
    shared[1] = 5;
    *(volatile int *)&caught = 77;
    IS(probe(left_out, 0) / 100 == SIGSEGV);
}
static void *thread(void *argument) { return argument; }
static void threads(void) {
    pthread_t id;
    void *result;
    IS(pthread_create(&id, 0, thread, &id) == 0);
    IS(pthread_join(id, &result) == 0 && result == &id);
    pid_t pid = fork();
    if (!pid) _exit(9);
    int status;
    IS(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 9);
}
static void generations(void) {
    int status, depth = 0;
    pid_t pid;
    while (depth < 5 && !(pid = fork())) depth++;
    if (depth < 5) {
        waitpid(pid, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    }
    _exit(10);
}
static void dies(void) { abort(); }
static void faults(void) { *(volatile int *)8 = 1; }
static void killed(void) { raise(SIGKILL); }
static void ends(void) { exit(300 + 3); }
static void ends_thread(void) { syscall(SYS_exit, 12); }

static pthread_mutex_t *lock;
static void holds(void) {
    pthread_mutex_lock(lock);
    _exit(0);
}
static void robust(void) {
    pthread_mutexattr_t kind;
    lock = mmap(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(lock, &kind);
    IS(child(holds) == 0);
    printf("lock %d\n", pthread_mutex_lock(lock));
}
static void lists(void) {
    struct { void *list; long offset; void *pending; } head = {&head, 0, 0};
    void *found;
    size_t size;
    TRY(syscall(SYS_set_robust_list, &head, 24));
    TRY(syscall(SYS_get_robust_list, 0, &found, &size));
    IS(found == &head && size == 24);
    pid_t pid = fork();
    if (!pid) {
        syscall(SYS_get_robust_list, 0, &found, &size);
        IS(found != &head);
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, 0, 0);
    TRY(syscall(SYS_set_robust_list, 8, 23));
}
static void raw(void) {
    /* The bare call, with words for the child's number. */
    volatile int number = -1;
    int status;
    long flags = SIGCHLD | 0x01000000 | 0x00200000;
#ifdef __riscv
    long pid = syscall(SYS_clone, flags, 0, 0, 0, &number);
#else
    long pid = syscall(SYS_clone, flags, 0, 0, &number, 0);
#endif
    if (!pid) _exit(number == syscall(SYS_getpid) ? 4 : 5);
    IS(number == -1);
    IS(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 4);
#ifdef __riscv
    pid = syscall(SYS_clone, flags, 0, 0, 0, (void *)8);
#else
    pid = syscall(SYS_clone, flags, 0, 0, (void *)8, 0);
#endif
    if (!pid) _exit(6);
    IS(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 6);
}
static void groups(void) {
    int ends[2], status;
    char byte;
    pipe(ends);
    pid_t pid = fork();
    if (!pid) {
        close(ends[1]);
        read(ends[0], &byte, 1);
        _exit(0);
    }
    TRY(setpgid(pid, pid));
    IS(getpgid(pid) == pid);
    close(ends[1]);
    waitpid(pid, &status, 0);
    TRY(setpgid(pid, pid));
}

int main(void) {
    sigset_t usr1;
    IS(child(identity) == 0);
    signal(SIGUSR1, on_signal);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, 0);
    raise(SIGUSR1);
    IS(child(nothing_pends) == 0);
    sigprocmask(SIG_UNBLOCK, &usr1, 0);
    IS(caught == SIGUSR1);
    IS(child(threads) == 0);
    printf("generations %d\n", child(generations));
    printf("ends %d %d %d %d %d\n", child(dies), child(faults), child(killed), child(ends), child(ends_thread));
    robust();
    raw();
    groups();
    shared = mmap(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    left_out = mmap(0, PAGE, RW, ANONYMOUS, -1, 0);
    TRY(madvise(left_out, PAGE, MADV_DONTFORK));
    IS(child(memory) == 0);
    IS(shared[1] == 5 && caught == SIGUSR1);
    IS(probe(left_out, 0) == 0);
    TRY(madvise(left_out, PAGE, MADV_DOFORK));
    lists();
    pthread_t id;
    pthread_create(&id, 0, thread, 0);
    pthread_join(id, 0);
    IS(child(threads) == 0);
    return 0;
}
