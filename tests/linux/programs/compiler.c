/* Writes code and runs it, in every way that just-in-time compilers do. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
typedef long function(long);

/* x -> x * 2 + value, with a loop in it, so that it may become hot. */
static size_t emit(uint32_t *code, int value)
{
    uint32_t *start = code;
    *code++ = 0x00000293;                              /* li t0,0 */
    *code++ = 0x06400313;                              /* li t1,100 */
    *code++ = 0x00128293;                              /* addi t0,t0,1 */
    *code++ = 0xfe629ee3;                              /* bne t0,t1,-4 */
    *code++ = 0x00151513;                              /* slli a0,a0,1 */
    *code++ = 0x00050513 | (uint32_t)value << 20;      /* addi a0,a0,value */
    *code++ = 0x00008067;                              /* ret */
    return (size_t)((char *)code - (char *)start);
}

static void by_call(void *start, size_t size) { __builtin___clear_cache(start, (char *)start + size); }
static void by_fence(void *start, size_t size) { (void)start, (void)size; __asm__ volatile("fence.i" ::: "memory"); }

static long rewrite(char *writable, char *code, void (*flush)(void *, size_t), int rounds)
{
    long sum = 0;
    for (int round = 0; round < rounds; round++)
        for (int place = 0; place < 3; place++) {
            /* The last one lies across the end of a page. */
            size_t offset = place == 2 ? PAGE - 12 : (size_t)place * 64;
            size_t size = emit((uint32_t *)(writable + offset), (round * 7 + place) % 1000);
            flush(code + offset, size);
            for (int turn = 0; turn < 3; turn++)
                sum = sum * 31 + ((function *)(code + offset))(turn);
            /* One that has not changed. */
            sum = sum * 31 + ((function *)code)(5);
        }
    return sum;
}

static char *shared_code;
static pthread_barrier_t barrier;

static void *follow(void *argument)
{
    long *sum = argument;
    for (int round = 0; round < 40; round++) {
        pthread_barrier_wait(&barrier);
        *sum = *sum * 31 + ((function *)shared_code)(round);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

/* One thread writes, others run it. */
static long threads(void)
{
    pthread_t thread[3];
    long sums[3] = {0};
    shared_code = mmap(NULL, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_barrier_init(&barrier, NULL, 4);
    for (int n = 0; n < 3; n++)
        pthread_create(&thread[n], NULL, follow, &sums[n]);
    for (int round = 0; round < 40; round++) {
        by_call(shared_code, emit((uint32_t *)shared_code, round * 11));
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
    }
    for (int n = 0; n < 3; n++)
        pthread_join(thread[n], NULL);
    return sums[0] == sums[1] && sums[1] == sums[2] ? sums[0] : -1;
}

/* The page is writable or executable, never both. */
static long in_turns(void)
{
    long sum = 0;
    char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 50; round++) {
        mprotect(page, 2 * PAGE, PROT_READ | PROT_WRITE);
        emit((uint32_t *)(page + PAGE - 12), round);
        mprotect(page, 2 * PAGE, PROT_READ | PROT_EXEC);
        sum = sum * 31 + ((function *)(page + PAGE - 12))(round);
    }
    return sum;
}

/* Other code is mapped at the same place. */
static long mapped_anew(void)
{
    long sum = 0;
    char *page = NULL;
    for (int round = 0; round < 50; round++) {
        if (page)
            munmap(page, PAGE);
        page = mmap(page, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS | (page ? MAP_FIXED : 0), -1, 0);
        emit((uint32_t *)page, round);
        sum = sum * 31 + ((function *)page)(round);
    }
    return sum;
}

int main(void)
{
    int file = memfd_create("code", 0);
    ftruncate(file, 2 * PAGE);
    char *both = mmap(NULL, 2 * PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *writable = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *runs = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    printf("by call %ld\n", rewrite(both, both, by_call, 60));
    printf("by fence %ld\n", rewrite(both, both, by_fence, 60));
    printf("two views, by call %ld\n", rewrite(writable, runs, by_call, 60));
    printf("two views, by fence %ld\n", rewrite(writable, runs, by_fence, 60));
    printf("threads %ld\n", threads());
    printf("in turns %ld\n", in_turns());
    printf("mapped anew %ld\n", mapped_anew());
    return 0;
}
