/* Encryption: ChaCha20 (RFC 8439), block after block. */
#include "kernel.h"

enum { BLOCKS = 300000, WORDS = 16 };

static uint32_t rotate(uint32_t value, int by) { return value << by | value >> (32 - by); }

static void quarter(uint32_t *w, int a, int b, int c, int d)
{
    w[a] += w[b], w[d] = rotate(w[d] ^ w[a], 16);
    w[c] += w[d], w[b] = rotate(w[b] ^ w[c], 12);
    w[a] += w[b], w[d] = rotate(w[d] ^ w[a], 8);
    w[c] += w[d], w[b] = rotate(w[b] ^ w[c], 7);
}

uint64_t kernel(void)
{
    uint32_t state[WORDS] = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 };
    uint64_t random = 3, sum = 0;
    for (int i = 4; i < WORDS; i++)
        state[i] = (uint32_t)next_random(&random);
    for (int block = 0; block < BLOCKS; block++) {
        uint32_t work[WORDS];
        for (int i = 0; i < WORDS; i++)
            work[i] = state[i];
        for (int round = 0; round < 10; round++) {
            quarter(work, 0, 4, 8, 12), quarter(work, 1, 5, 9, 13);
            quarter(work, 2, 6, 10, 14), quarter(work, 3, 7, 11, 15);
            quarter(work, 0, 5, 10, 15), quarter(work, 1, 6, 11, 12);
            quarter(work, 2, 7, 8, 13), quarter(work, 3, 4, 9, 14);
        }
        sum = mix(sum, (uint64_t)(work[0] + state[0]) << 32 | (work[15] + state[15]));
        state[12]++;
    }
    return sum;
}
