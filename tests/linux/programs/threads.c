/* Threads: mutexes, conditions, barriers, thread-local storage, cancellation, malloc. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ready = PTHREAD_COND_INITIALIZER;
static long counter, waiting;
static __thread int own = 7;
static volatile int signalled;
static pthread_mutex_t robust;

static void *work(void *argument) {
    long rounds = (long)argument;
    own += 1;
    for (long i = 0; i < rounds; i++) {
        char *memory = malloc(16 + i % 900);
        memset(memory, 1, 16);
        pthread_mutex_lock(&mutex);
        counter += memory[3];
        pthread_mutex_unlock(&mutex);
        free(memory);
    }
    return (void *)(long)own;
}
static void *wait_for_it(void *argument) {
    pthread_mutex_lock(&mutex);
    waiting++;
    while (!argument || counter >= 0) pthread_cond_wait(&ready, &mutex);
    pthread_mutex_unlock(&mutex);
    return NULL;
}
static void *sleep_long(void *argument) { for (;;) sleep(100); return NULL; }
static void *spin(void *argument) { while (!signalled) ; return (void *)5; }
static void *die_locked(void *argument) { pthread_mutex_lock(&robust); return NULL; }
static void note(int n) { signalled = n; }

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 8;
    long rounds = argc > 2 ? atol(argv[2]) : 500, sum = 0;
    pthread_t ids[256];
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)rounds)) return 1;
    for (int i = 0; i < threads; i++) {
        void *result;
        pthread_join(ids[i], &result);
        sum += (long)result;
    }
    printf("counter %d sum %ld own %d\n", counter == threads * rounds, sum, own);
    for (int i = 0; i < 4; i++) pthread_create(&ids[i], NULL, wait_for_it, (void *)1);
    while (1) {
        pthread_mutex_lock(&mutex);
        if (waiting == 4) break;
        pthread_mutex_unlock(&mutex);
        usleep(1000);
    }
    counter = -1;
    pthread_cond_broadcast(&ready);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < 4; i++) pthread_join(ids[i], NULL);
    printf("woken\n");
    pthread_create(&ids[0], NULL, sleep_long, NULL);
    usleep(20000);
    void *result;
    pthread_cancel(ids[0]);
    pthread_join(ids[0], &result);
    printf("cancelled %d\n", result == PTHREAD_CANCELED);
    signal(SIGUSR1, note);
    pthread_create(&ids[0], NULL, spin, NULL);
    usleep(10000);
    pthread_kill(ids[0], SIGUSR1);
    pthread_join(ids[0], &result);
    printf("signalled %d %ld\n", signalled, (long)result);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_create(&ids[0], NULL, die_locked, NULL);
    pthread_join(ids[0], NULL);
    int code = pthread_mutex_lock(&robust);
    printf("robust %s\n", code == EOWNERDEAD ? "owner dead" : strerror(code));
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    sem_t semaphore;
    sem_init(&semaphore, 0, 0);
    printf("timed %d\n", sem_timedwait(&semaphore, &until) < 0 && errno == ETIMEDOUT);
    pthread_create(&ids[0], NULL, sleep_long, NULL);
    fflush(stdout);
    return 9;
}
