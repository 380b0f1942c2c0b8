#include "rules.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <ucontext.h>

#if defined __riscv
#define ARCHITECTURE 0xc00000f3
#else
#define ARCHITECTURE 0xc000003e
#endif
#define LOAD(k) {0x20, 0, 0, k}
#define NUMBER LOAD(0)
#define ARGUMENT(n) LOAD(16 + 8 * (n))
#define IF(value, then, otherwise) {0x15, then, otherwise, value}
#define ANSWER(k) {0x06, 0, 0, k}
#define ALLOWED ANSWER(SECCOMP_RET_ALLOW)
#define FILTER(...) ({ struct sock_filter code[] = {__VA_ARGS__}; struct sock_fprog program = {sizeof code / 8, code}; \
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program); })

static void privileged(void) { prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }
static void refused(void) {
    privileged();
    TRY(FILTER({0x20, 0, 0, 2}, ALLOWED));
    TRY(FILTER({0x20, 0, 0, 64}, ALLOWED));
    TRY(FILTER({0x28, 0, 0, 0}, ALLOWED));
    TRY(FILTER({0x15, 1, 0, 0}, ALLOWED));
    TRY(FILTER({0x05, 0, 0, 1}, ALLOWED));
    TRY(FILTER({0x34, 0, 0, 0}, ALLOWED));
    TRY(FILTER({0x74, 0, 0, 32}, ALLOWED));
    TRY(FILTER({0x60, 0, 0, 3}, ALLOWED));
    TRY(FILTER({0x02, 0, 0, 16}, ALLOWED));
    TRY(FILTER({0x02, 0, 0, 3}, {0x60, 0, 0, 3}, ALLOWED));
    TRY(FILTER({0x15, 1, 0, 0}, {0x02, 0, 0, 3}, {0x60, 0, 0, 3}, ALLOWED));
    TRY(FILTER(NUMBER));
    TRY(FILTER({0x94, 0, 0, 3}, ALLOWED));
    struct sock_fprog none = {0, 0}, many = {4097, (void *)8}, bad = {2, (void *)8};
    TRY(prctl(PR_SET_SECCOMP, 2, &none));
    TRY(prctl(PR_SET_SECCOMP, 2, &many));
    TRY(prctl(PR_SET_SECCOMP, 2, &bad));
    TRY(prctl(PR_SET_SECCOMP, 2, 8));
    TRY(syscall(SYS_seccomp, 9, 0, 0));
    TRY(syscall(SYS_seccomp, 0, 1, 0));
    TRY(syscall(SYS_seccomp, 1, 1 << 20, &none));
    TRY(syscall(SYS_seccomp, 1, 16, &none));
    unsigned actions[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ERRNO, SECCOMP_RET_TRAP, SECCOMP_RET_ALLOW, SECCOMP_RET_LOG, 5};
    for (int i = 0; i < 6; i++)
        TRY(syscall(SYS_seccomp, 2, 0, &actions[i]));
    TRY(syscall(SYS_seccomp, 2, 1, &actions[0]));
    TRY(syscall(SYS_seccomp, 2, 0, 8));
}
static void unprivileged(void) {
    if (setuid(65534)) return;
    TRY(FILTER(ALLOWED));
    privileged();
    TRY(FILTER(ALLOWED));
    TRY(prctl(PR_GET_SECCOMP));
}
static void errors(void) {
    privileged();
    TRY(FILTER(LOAD(4), IF(ARCHITECTURE, 1, 0), ANSWER(SECCOMP_RET_KILL_PROCESS), NUMBER,
               IF(SYS_getppid, 0, 1), ANSWER(SECCOMP_RET_ERRNO | EACCES), IF(SYS_getpid, 0, 1),
               ANSWER(SECCOMP_RET_ERRNO), IF(SYS_getuid, 0, 1), ANSWER(SECCOMP_RET_ERRNO | 0xffff), ALLOWED));
    TRY(syscall(SYS_getppid));
    TRY(syscall(SYS_getpid));
    IS(syscall(SYS_getuid) == -1);
    printf("%d\n", errno);
    TRY(getgid());
    TRY(prctl(PR_GET_SECCOMP));
    TRY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    /* A second filter: the stricter answer counts. */
    TRY(FILTER(NUMBER, IF(SYS_getgid, 0, 1), ANSWER(SECCOMP_RET_ERRNO | EPERM), IF(SYS_getppid, 0, 1),
               ANSWER(SECCOMP_RET_LOG), IF(SYS_getegid, 0, 1), ANSWER(SECCOMP_RET_TRACE | 5), ALLOWED));
    TRY(getgid());
    TRY(syscall(SYS_getppid));
    TRY(getegid());
    fflush(stdout);
    if (!fork()) {
        TRY(syscall(SYS_getppid));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
}
static void arguments(void) {
    privileged();
    TRY(FILTER(NUMBER, IF(SYS_dup, 1, 0), ALLOWED, ARGUMENT(0), {0x54, 0, 0, 0xf}, {0x07}, {0x80}, {0x1c},
               {0x02, 0, 0, 1}, {0x61, 0, 0, 1}, {0x87}, IF(64 - 7, 0, 1), ANSWER(SECCOMP_RET_ERRNO | EXDEV),
               IF(64 - 1, 0, 1), ALLOWED, {0x16}));
    TRY(dup(1) > 2);
    TRY(dup(7));
    TRY(dup(23));
}
static volatile int trapped, number, data, inside;
static void on_trap(int signal, siginfo_t *info, void *context) {
    ucontext_t *user = context;
    trapped = signal, number = info->si_syscall, data = info->si_errno;
    inside = info->si_code == 1 && info->si_arch == ARCHITECTURE && info->si_call_addr != 0;
#if defined __riscv
    inside += 2 * (user->uc_mcontext.__gregs[0] == (unsigned long)info->si_call_addr);
    user->uc_mcontext.__gregs[10] = 4000 + user->uc_mcontext.__gregs[10];
#else
    inside += 2 * (user->uc_mcontext.gregs[REG_RIP] == (long)info->si_call_addr);
    user->uc_mcontext.gregs[REG_RAX] = 4000 + user->uc_mcontext.gregs[REG_RDI];
#endif
}
static void traps(void) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, 0);
    privileged();
    TRY(FILTER(NUMBER, IF(SYS_sync, 0, 1), ANSWER(SECCOMP_RET_TRAP | 77), ALLOWED));
    printf("%ld\n", syscall(SYS_sync, 5));
    printf("%d %d %d %d\n", trapped, number == SYS_sync, data, inside);
}
static void trap_default(void) {
    privileged();
    FILTER(NUMBER, IF(SYS_sync, 0, 1), ANSWER(SECCOMP_RET_TRAP), ALLOWED);
    sync();
    puts("not reached");
}
static void trap_ignored(void) { signal(SIGSYS, SIG_IGN); trap_default(); }
static void killed(void) {
    privileged();
    FILTER(NUMBER, IF(SYS_sync, 0, 1), ANSWER(SECCOMP_RET_KILL_PROCESS), ALLOWED);
    sync();
    puts("not reached");
}
static void wrong_architecture(void) {
    privileged();
    FILTER(LOAD(4), IF(ARCHITECTURE ^ 1, 1, 0), ANSWER(SECCOMP_RET_KILL_THREAD), ALLOWED);
    getppid();
    puts("not reached");
}
static void strict(void) {
    privileged();
    syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    write(1, "still\n", 6);
    syscall(SYS_exit, 5);
}
static void strict_killed(void) {
    syscall(SYS_seccomp, 0, 0, 0);
    syscall(SYS_getpid);
    write(1, "not reached\n", 12);
}
static volatile long result;
static void *in_thread(void *unused) {
    result = syscall(SYS_getppid);
    return 0;
}
static void *dies(void *unused) {
    FILTER(NUMBER, IF(SYS_sync, 0, 1), ANSWER(SECCOMP_RET_KILL_THREAD), ALLOWED);
    sync();
    result = 99;
    return 0;
}
static volatile int go;
static void *waits(void *unused) {
    while (!go) sched_yield();
    result = syscall(SYS_getppid);
    return 0;
}
static void threads(void) {
    pthread_t thread, other;
    privileged();
    pthread_create(&thread, 0, dies, 0);
    pthread_join(thread, 0);
    printf("%ld\n", result);
    sync();
    pthread_create(&other, 0, waits, 0);
    FILTER(NUMBER, IF(SYS_getppid, 0, 1), ANSWER(SECCOMP_RET_ERRNO | 9), ALLOWED);
    pthread_create(&thread, 0, in_thread, 0);
    pthread_join(thread, 0);
    printf("%ld\n", result);
    go = 1;
    pthread_join(other, 0);
    IS(result > 0);
    go = 0;
    pthread_create(&other, 0, waits, 0);
    struct sock_filter code[] = {NUMBER, IF(SYS_getppid, 0, 1), ANSWER(SECCOMP_RET_ERRNO | 11), ALLOWED};
    struct sock_fprog program = {4, code};
    TRY(syscall(SYS_seccomp, 1, SECCOMP_FILTER_FLAG_TSYNC, &program));
    go = 1;
    pthread_join(other, 0);
    printf("%ld\n", result);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        TRY(syscall(SYS_getppid));
        TRY(prctl(PR_GET_SECCOMP));
        return 0;
    }
    child(refused);
    child(unprivileged);
    printf("%d\n", child(errors));
    printf("%d\n", child(arguments));
    printf("%d\n", child(traps));
    printf("%d\n", child(trap_default));
    printf("%d\n", child(trap_ignored));
    printf("%d\n", child(killed));
    printf("%d\n", child(wrong_architecture));
    printf("%d\n", child(strict));
    printf("%d\n", child(strict_killed));
    printf("%d\n", child(threads));
    fflush(stdout);
    privileged();
    FILTER(NUMBER, IF(SYS_getppid, 0, 1), ANSWER(SECCOMP_RET_ERRNO | EDOM), ALLOWED);
    char *next[] = {argv[0], "again", 0};
    execv("/proc/self/exe", next);
}
