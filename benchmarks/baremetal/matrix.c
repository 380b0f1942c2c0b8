/* Product of two matrices of 32-bit integers, the plain triple loop. */
#include "kernel.h"

enum { SIZE = 160, ROUNDS = 70 };

static int32_t a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];

uint64_t kernel(void)
{
    uint64_t random = 3, sum = 0;
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            a[i][j] = (int32_t)(next_random(&random) % 2000) - 1000;
            b[i][j] = (int32_t)(next_random(&random) % 2000) - 1000;
        }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SIZE; i++)
            for (int j = 0; j < SIZE; j++) {
                int32_t total = 0;
                for (int k = 0; k < SIZE; k++)
                    total += a[i][k] * b[k][j];
                c[i][j] = total;
            }
        for (int i = 0; i < SIZE; i++) {
            sum = mix(sum, (uint32_t)c[i][(i * 7 + round) % SIZE]);
            a[i][round] = c[i][round] % 1000;
        }
    }
    return sum;
}
