/* Signals that stand for faults, sent by another process to handlers: each is a line. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t over;

static void note(int number, siginfo_t *information, void *context)
{
    char line[40];
    int fine = information->si_code == SI_USER && information->si_pid == getppid();
    (void)context;
    /* Here, so that it makes no difference what was interrupted. */
    int size = snprintf(line, sizeof line, "%d %d\n", number, fine);
    /* A handler may be interrupted by another one's. */
    if (write(1, line, size) != size || number == SIGTRAP)
        over = 1;
}

int main(int count, char **arguments)
{
    int waits = count > 1 && strcmp(arguments[1], "wait") == 0;
    const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    for (unsigned index = 0; index < sizeof numbers / sizeof *numbers; index++)
        sigaction(numbers[index], &action, NULL);
    puts("ready");
    fflush(stdout);
    char byte;
    while (waits ? read(0, &byte, 1) != 0 : !over)
        continue;
    puts("end");
    return 0;
}
