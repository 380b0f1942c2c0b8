/* SHA-256 (FIPS 180-4) over a buffer, each digest fed into the next round. */
#include "kernel.h"

enum { BLOCKS = 1024, ROUNDS = 500 };

static uint32_t constants[64];
static uint32_t buffer[BLOCKS * 16];

static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

/* The fractional bits of the cube roots of the first 64 primes, found by bisection. */
static void make_constants(void)
{
    int found = 0;
    for (unsigned prime = 2; found < 64; prime++) {
        int divides = 0;
        for (unsigned d = 2; d * d <= prime; d++)
            divides |= prime % d == 0;
        if (divides)
            continue;
        /* largest r with r^3 <= prime * 2^96, r < 8 * 2^32 */
        uint64_t low = 0, high = (uint64_t)8 << 32;
        while (high - low > 1) {
            uint64_t middle = (low + high) / 2;
            unsigned __int128 square = (unsigned __int128)middle * middle;
            /* middle^3 / 2^64 <= prime * 2^32, compared without overflow of 128 bits */
            unsigned __int128 upper = (square >> 32) * middle >> 32;
            if (upper < ((unsigned __int128)prime << 32))
                low = middle;
            else
                high = middle;
        }
        constants[found++] = (uint32_t)low;
    }
}

static void absorb(uint32_t *state, const uint32_t *block)
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = block[i];
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + constants[i] + w[i];
        uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

uint64_t kernel(void)
{
    uint64_t random = 2;
    uint32_t state[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    make_constants();
    for (int i = 0; i < BLOCKS * 16; i++)
        buffer[i] = (uint32_t)next_random(&random);
    for (int round = 0; round < ROUNDS; round++)
        for (int block = 0; block < BLOCKS; block++)
            absorb(state, buffer + 16 * block);
    return (uint64_t)state[0] << 32 | state[7];
}
