/* Every system call with bad pointers, each in a child: none may bring its kernel down. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int left_out[] = {
    SYS_exit, SYS_exit_group, SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo, SYS_reboot, SYS_rt_sigreturn, SYS_sync, SYS_clone, SYS_setpriority,
    SYS_ioprio_set, SYS_sethostname, SYS_setdomainname, SYS_rt_sigtimedwait, SYS_syslog, SYS_msgrcv,
};
static const unsigned long bad[] = {8, 0x3fffffffffUL, 0x3fffff0000UL, 1UL << 45, -1UL, -4096UL, 1UL << 63};

int main(void) {
    int strange = 0, done = 0, ends[2];
    /* As a descriptor, 1 << 45 is 0: its owner and mode are changed too, which no device deserves. */
    if (pipe(ends) || dup2(ends[0], 0)) return 2;
    for (int number = 0; number < 470; number++) {
        int skip = 0;
        for (unsigned i = 0; i < sizeof left_out / sizeof *left_out; i++) skip |= left_out[i] == number;
        if (skip) continue;
        pid_t child = fork();
        if (!child) {
            alarm(2);
            for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
                unsigned long p = bad[i];
                syscall(number, p, p, p, p, p, p);
                syscall(number, 1, p, 8, p, p, p);
                syscall(number, -100, p, p, 8, p, p);
                syscall(number, p, 8, 8, 8, 8, 8);
            }
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        done++;
        /* What a child did to itself is its own affair: a clean end or a signal of Linux. */
        if (WIFEXITED(status) && WEXITSTATUS(status)) {
            printf("call %d: exit %d\n", number, WEXITSTATUS(status));
            strange++;
        } else if (WIFSIGNALED(status)) {
            printf("call %d: signal %d\n", number, WTERMSIG(status));
            strange += WTERMSIG(status) != SIGALRM;
        }
    }
    printf("%d strange of %d\n", strange, done);
    return strange != 0;
}
