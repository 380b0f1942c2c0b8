/* Times requests to a disk past the guest's cache, and says what each takes.
   Arguments: the disk, seconds for each kind. Reads and writes of 4 KiB anywhere, one at a time and
   32 at a time; of 1 MiB one behind the other. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_THREADS = 32 };

struct kind {
    const char *name;
    long size;
    int threads, writes, in_order;
};

static const struct kind kinds[] = {
    {"read_4k_us", 4096, 1, 0, 0},       {"read_4k_32_us", 4096, 32, 0, 0},
    {"write_4k_us", 4096, 1, 1, 0},      {"read_1m_us", 1 << 20, 1, 0, 1},
    {"write_1m_us", 1 << 20, 1, 1, 1},
};

static const struct kind *kind;
static int disk;
static long long disk_bytes;
static double begin, seconds;
static long counts[MOST_THREADS];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void *work(void *argument)
{
    long number = (long)argument, done = 0;
    uint64_t state = (uint64_t)number * 7919 + 1;
    char *buffer = aligned_alloc(4096, (size_t)kind->size);
    memset(buffer, 1, (size_t)kind->size);
    do {
        state = state * 6364136223846793005u + 1442695040888963407u;
        long long blocks = disk_bytes / kind->size;
        long long block = kind->in_order ? done % blocks : (long long)(state >> 20) % blocks;
        ssize_t moved = kind->writes ? pwrite(disk, buffer, (size_t)kind->size, block * kind->size)
                                     : pread(disk, buffer, (size_t)kind->size, block * kind->size);
        if (moved != kind->size) {
            perror("request");
            exit(1);
        }
        done++;
    } while (now() - begin < seconds);
    free(buffer);
    counts[number] = done;
    return 0;
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    disk = open(arguments[1], O_RDWR | O_DIRECT);
    disk_bytes = lseek(disk, 0, SEEK_END);
    seconds = atof(arguments[2]);
    if (disk < 0 || disk_bytes < 1 << 20) {
        perror(arguments[1]);
        return 1;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pthread_t threads[MOST_THREADS];
        long done = 0;
        kind = &kinds[i];
        begin = now();
        for (long t = 0; t < kind->threads; t++)
            pthread_create(&threads[t], 0, work, (void *)t);
        for (int t = 0; t < kind->threads; t++) {
            pthread_join(threads[t], 0);
            done += counts[t];
        }
        printf("metric %s %.2f\n", kind->name, (now() - begin) * 1e6 / (double)done);
    }
    return 0;
}
