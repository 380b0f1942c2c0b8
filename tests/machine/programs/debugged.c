/* A kernel without an operating system for two harts, to be debugged: squares in a table, their
   sum, code that is copied, and a count that both harts add to for ever. */
#define WORDS 16

int table[WORDS];
volatile int counter;
volatile int ready;
unsigned copied[4];
char stacks[2][4096] __attribute__((aligned(16)));

void work(long hart);

__asm__(".section .text.unlikely, \"ax\"\n"
        ".globl _start\n"
        "_start:\n"
        "csrr a0, mhartid\n"
        "mv tp, a0\n"
        "la sp, stacks\n"
        "addi t0, a0, 1\n"
        "slli t0, t0, 12\n"
        "add sp, sp, t0\n"
        "j work\n"
        ".text\n");

void fill(int index)
{
    table[index] = index * index;
    __asm__ volatile("" ::: "memory");
}

int add_up(void)
{
    int sum = 0;
    for (int index = 0; index < WORDS; index++)
        sum += table[index];
    return sum;
}

void finished(int sum)
{
    counter = sum;
}

void tick(long hart)
{
    __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
    __asm__ volatile("" ::"r"(hart) : "memory");
}

static int answer(void)
{
    return 42;
}

void copy(void)
{
    const unsigned *from = (const unsigned *)answer;
    for (int index = 0; index < 4; index++)
        copied[index] = from[index];
    __asm__ volatile("fence.i" ::: "memory");
    ((int (*)(void))copied)();
}

void work(long hart)
{
    if (hart == 0) {
        for (int index = 0; index < WORDS; index++)
            fill(index);
        finished(add_up());
        copy();
        ready = 1;
    }
    while (!ready)
        ;
    for (;;)
        tick(hart);
}
