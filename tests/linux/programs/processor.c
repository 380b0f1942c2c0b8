/* What the program is told of its processor, and whether that is so. */
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

struct pair { long key; unsigned long value; };

static long probe(struct pair *pairs, long count, unsigned long *cpus, int flags) {
    return syscall(258, pairs, count, cpus ? sizeof *cpus : 0, cpus, flags);
}

int main(void) {
    struct pair all[] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {12}, {99}};
    printf("probe %ld\n", probe(all, sizeof all / sizeof *all, NULL, 0));
    for (unsigned long i = 0; i < sizeof all / sizeof *all; i++)
        printf("%ld %#lx\n", all[i].key, all[i].value);
    struct pair good = {4, 1 << 4}, bad = {4, 1 << 2}, none = {99, 0};
    unsigned long cpus = 1;
    printf("which %ld", probe(&good, 1, &cpus, 1));
    printf(" %lu", cpus);
    printf(" %ld", probe(&bad, 1, &cpus, 1));
    printf(" %lu", cpus);
    cpus = 1;
    printf(" %ld", probe(&none, 1, &cpus, 1));
    printf(" %lu %ld\n", cpus, none.key);
    printf("bad %ld %ld\n", probe(&good, 1, NULL, 2), probe((void *)8, 1, NULL, 0));
    printf("hwcap %#lx\n", getauxval(AT_HWCAP));

    static char line[64 * 3] __attribute__((aligned(64)));
    long value;
    memset(line, 1, sizeof line);
    asm volatile(".insn i 0x0f, 2, x0, %0, 4" ::"r"(line + 64) : "memory");
    asm volatile(".insn i 0x0f, 2, x0, %0, 1" ::"r"(line + 64) : "memory");
    printf("cbo.zero %d%d%d%d\n", line[63], line[64], line[127], line[128]);
    asm volatile(".insn r 0x33, 2, 0x10, %0, %1, %2" : "=r"(value) : "r"(5L), "r"(7L));
    printf("sh1add %ld\n", value);
    asm volatile(".insn r 0x33, 7, 0x20, %0, %1, %2" : "=r"(value) : "r"(0xffL), "r"(0x0fL));
    printf("andn %#lx\n", value);
    asm volatile(".insn r 0x33, 1, 0x14, %0, %1, %2" : "=r"(value) : "r"(0L), "r"(40L));
    printf("bset %#lx\n", value);
    asm volatile(".insn r 0x33, 5, 0x07, %0, %1, %2" : "=r"(value) : "r"(5L), "r"(1L));
    printf("czero.eqz %ld\n", value);
    asm volatile("rdtime %0\n .word 0x0100000f" : "=r"(value));
    printf("time %d\n", value != 0);
    FILE *file = fopen("/proc/cpuinfo", "r");
    char text[256];
    while (fgets(text, sizeof text, file) && text[0] != '\n')
        if (!strncmp(text, "isa", 3)) fputs(text, stdout);
    return 0;
}
