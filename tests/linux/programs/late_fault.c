/* A thread faults, in a loop that ran long, after one that began before it has ended. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static sigjmp_buf back;
static char *fence;
static volatile char *touched;

static void caught(int number, siginfo_t *information, void *context)
{
    (void)context;
    touched = information->si_addr;
    siglongjmp(back, number);
}

static void *first(void *nothing) { return nothing; }

static void *second(void *other)
{
    pthread_join(*(pthread_t *)other, NULL);
    volatile long sum = 0;
    for (int round = 0; round < 4000; round++)
        for (char *at = fence - 4096; at < fence; at++)
            sum += *at;
    if (sigsetjmp(back, 1) == 0)
        for (volatile char *at = fence - 4096;; at++)
            sum += *at;
    printf("sum %ld at %d\n", sum & 0, (int)((char *)touched - fence));
    return NULL;
}

int main(void)
{
    struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, NULL);
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fence = pages + 4096;
    mprotect(fence, 4096, PROT_NONE);
    pthread_t one, two;
    pthread_create(&one, NULL, first, NULL);
    pthread_create(&two, NULL, second, &one);
    pthread_join(two, NULL);
    return 0;
}
