/* What a benchmark kernel is: a function that works for about a second under QEMU and returns
   a checksum. runtime.c prints it, on bare metal and as a native program alike. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>

uint64_t kernel(void);

/* splitmix64: the same numbers on every host. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t mix(uint64_t sum, uint64_t value)
{
    return (sum ^ value) * 0x100000001b3u + (sum >> 29);
}

static inline uint64_t bits_of(double value)
{
    union { double number; uint64_t bits; } both = { .number = value };
    return both.bits;
}

#endif
