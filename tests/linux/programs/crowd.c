/* More threads than a translator has large code caches for: they wait for each other, and end. */
#include <pthread.h>
#include <stdio.h>

#define THREADS 400

static pthread_barrier_t barrier;
static int last;

static void *work(void *unused) {
    for (int turn = 0; turn < 2; turn++)
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            __sync_fetch_and_add(&last, 1);
    return 0;
}

int main(void) {
    static pthread_t threads[THREADS];
    pthread_attr_t attributes;
    int made = 0;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 17);
    pthread_barrier_init(&barrier, 0, THREADS);
    while (made < THREADS && !pthread_create(&threads[made], &attributes, work, 0))
        made++;
    printf("made %d\n", made);
    if (made < THREADS)
        return 1;
    for (int index = 0; index < THREADS; index++)
        pthread_join(threads[index], 0);
    printf("last %d\n", last);
    return 0;
}
