/* Many threads on one mutex and on malloc, and pairs that wake each other: nobody may be lost. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST 200

struct pair {
    pthread_mutex_t mutex;
    pthread_cond_t turned;
    int turn, over;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t begin;
static long counter, done[MOST], handed[MOST];
static struct pair pairs[MOST / 2];
static struct timespec until;
static int damaged;

static int is_over(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > until.tv_sec || (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec);
}

/* Wait for our turn and hand it on; 0 when the other one has ended. */
static int hand_over(struct pair *pair, int side, int last) {
    pthread_mutex_lock(&pair->mutex);
    while (pair->turn != side && !pair->over) pthread_cond_wait(&pair->turned, &pair->mutex);
    int goes_on = !pair->over;
    if (last) pair->over = 1;
    pair->turn = !side;
    pthread_cond_signal(&pair->turned);
    pthread_mutex_unlock(&pair->mutex);
    return goes_on;
}

static void *work(void *argument) {
    long number = (long)argument;
    unsigned seed = number;
    unsigned char *kept[8] = {0};
    size_t sizes[8];
    pthread_barrier_wait(&begin);
    for (int goes_on = 1; goes_on;) {
        for (int i = 0; i < 40; i++) {
            int slot = rand_r(&seed) % 8;
            unsigned char mark = number + slot;
            if (kept[slot] && (kept[slot][0] != mark || kept[slot][sizes[slot] - 1] != mark))
                damaged = 1;
            free(kept[slot]);
            sizes[slot] = 1 + rand_r(&seed) % (i == 0 ? 200000 : 900);
            kept[slot] = malloc(sizes[slot]);
            memset(kept[slot], mark, sizes[slot]);
            pthread_mutex_lock(&mutex);
            counter++;
            pthread_mutex_unlock(&mutex);
            done[number]++;
        }
        int last = is_over();
        goes_on = hand_over(&pairs[number / 2], number % 2, last) && !last;
        handed[number]++;
    }
    for (int slot = 0; slot < 8; slot++) free(kept[slot]);
    return NULL;
}

int main(int argc, char **argv) {
    int threads = atoi(argv[1]);
    pthread_t ids[MOST];
    pthread_barrier_init(&begin, NULL, threads + 1);
    for (int i = 0; i < threads / 2; i++) {
        pthread_mutex_init(&pairs[i].mutex, NULL);
        pthread_cond_init(&pairs[i].turned, NULL);
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 1 << 20;
    for (long i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)i)) return 2;
    /* The time counts from when all of them run. */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    until.tv_nsec = now.tv_nsec;
    until.tv_sec = now.tv_sec + atoi(argv[2]);
    pthread_barrier_wait(&begin);
    long sum = 0, idle = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        sum += done[i];
        idle += handed[i] == 0;
    }
    fprintf(stderr, "%ld rounds\n", counter);
    printf("counted %d idle %ld damaged %d\n", sum == counter, idle, damaged);
    return 0;
}
