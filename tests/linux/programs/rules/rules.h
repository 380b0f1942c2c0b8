/* What a kernel answers, line by line: the same program runs under the host's kernel and ours. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

/* Say what a call gave: a small number, the name of its error, or only that it went well. */
static void say(const char *what, long result) {
    if (result == -1)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else if (result >= 0 && result < 4096)
        printf("%s: %ld\n", what, result);
    else
        printf("%s: given\n", what);
}
__attribute__((constructor)) static void unbuffered(void) { setvbuf(stdout, 0, _IOLBF, 0); }
#define TRY(call) (errno = 0, say(#call, (long)(call)))
#define IS(condition) printf("%s: %s\n", #condition, (condition) ? "yes" : "no")

static sigjmp_buf back;
static volatile int fault_code;
static void on_fault(int signal, siginfo_t *info, void *context) {
    fault_code = info->si_code;
    siglongjmp(back, signal);
}
/* Which signal reading a byte (or writing it) brings, and with which code. */
static int probe(volatile char *place, int write) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, segv, bus;
    sigaction(SIGSEGV, &action, &segv);
    sigaction(SIGBUS, &action, &bus);
    int signal = sigsetjmp(back, 1);
    if (!signal) {
        if (write)
            *place = *place + 1;
        else
            (void)*place;
    }
    sigaction(SIGSEGV, &segv, 0);
    sigaction(SIGBUS, &bus, 0);
    return signal ? signal * 100 + fault_code : 0;
}
static int child(void (*function)(void)) {
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        function();
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
