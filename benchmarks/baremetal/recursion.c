/* Calls and returns: Fibonacci and Takeuchi's function. */
#include "kernel.h"

static volatile int fibonacci_of = 33, takeuchi_x = 21, takeuchi_y = 14, takeuchi_z = 7;

static __attribute__((noinline)) uint64_t fibonacci(int n)
{
    return n < 2 ? (uint64_t)n : fibonacci(n - 1) + fibonacci(n - 2);
}

static __attribute__((noinline)) int takeuchi(int x, int y, int z)
{
    if (x <= y)
        return z;
    return takeuchi(takeuchi(x - 1, y, z), takeuchi(y - 1, z, x), takeuchi(z - 1, x, y));
}

uint64_t kernel(void)
{
    uint64_t sum = fibonacci(fibonacci_of);
    for (int round = 0; round < 30; round++)
        sum = mix(sum, (uint64_t)takeuchi(takeuchi_x, takeuchi_y, takeuchi_z));
    return sum;
}
