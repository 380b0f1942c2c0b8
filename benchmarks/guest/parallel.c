/* The first process of a Linux guest with two CPUs: times a piece of work done by one process,
   then twice the work done by two processes at once, prints what that gives, powers off. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NUMBERS = 1 << 15, PASSES = 2000, ROUNDS = 5 };

static uint32_t numbers[NUMBERS];

static void work(void)
{
    uint32_t state = 1;
    for (int pass = 0; pass < PASSES; pass++)
        for (int i = 0; i < NUMBERS; i++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            numbers[(i + state) % NUMBERS] += state;
        }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double time_of(int processes)
{
    double begin = now();
    for (int i = 0; i < processes; i++)
        if (fork() == 0) {
            cpu_set_t only;
            CPU_ZERO(&only);
            CPU_SET(i, &only);
            sched_setaffinity(0, sizeof only, &only);
            work();
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
    return now() - begin;
}

int main(void)
{
    double one = 1e9, two = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double seconds = time_of(1);
        one = seconds < one ? seconds : one;
        seconds = time_of(2);
        two = seconds < two ? seconds : two;
    }
    printf("\nmetric one_hart_s %.4f\nmetric two_harts_s %.4f\nmetric scaling %.3f\n", one, two,
           2 * one / two);
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    return 1;
}
