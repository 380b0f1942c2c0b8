/* Runs the kernel and prints "checksum" and sixteen digits: through the UART of the riscv-virt
   board, or as a native program (NATIVE) through standard output. */
#include "kernel.h"

#ifndef REPEATS
#define REPEATS 1
#endif

#ifdef NATIVE
#include <stdio.h>
static void put(char c) { putchar(c); }
#else
static void put(char c)
{
    volatile uint8_t *uart = (volatile uint8_t *)0x10000000;
    while (!(uart[5] & 0x20)) /* line status: transmitter empty */
        ;
    uart[0] = (uint8_t)c;
}

/* What the compiler may call in freestanding code. */
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    char *t = to;
    const char *f = from;
    while (size--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int byte, size_t size)
{
    char *t = to;
    while (size--)
        *t++ = (char)byte;
    return to;
}
#endif

int main(void)
{
    uint64_t sum = kernel();
    for (int more = 1; more < REPEATS; more++)
        sum = mix(sum, kernel());
    for (const char *c = "checksum "; *c; c++)
        put(*c);
    for (int shift = 60; shift >= 0; shift -= 4)
        put("0123456789abcdef"[(sum >> shift) & 15]);
    put('\n');
    return 0;
}
