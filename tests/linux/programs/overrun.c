/* A loop that knows how often it turns runs long, and then over the end of its memory. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { COUNT = 1024, ROUNDS = 40000 };

__attribute__((noinline)) static void add(const int *from, int *to, long count)
{
    for (long i = 0; i < count; i++)
        to[i] += from[i];
}

int main(int count, char **arguments)
{
    size_t size = 2 * COUNT * sizeof(int);
    int *memory = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect((char *)memory + size, 4096, PROT_NONE);
    for (int i = 0; i < COUNT; i++)
        memory[i] = i;
    for (int round = 0; round < ROUNDS; round++)
        add(memory, memory + COUNT, COUNT);
    printf("%d %d\n", memory[COUNT + 1], memory[2 * COUNT - 1]);
    fflush(stdout);
    if (count > 1)
        add(memory, memory + COUNT, atol(arguments[1]));
    return 0;
}
