/* Compression: matches found through a hash table, written as tokens, and unpacked again. */
#include "kernel.h"

enum { SIZE = 1 << 17, ROUNDS = 140, TABLE = 1 << 13, SHORTEST = 4, LONGEST = 255 };

static uint8_t plain[SIZE], packed[2 * SIZE], unpacked[SIZE];
static uint32_t latest[TABLE];

static uint32_t four(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Tokens: 0 and a byte, or a length and the distance in two bytes. */
static size_t pack(void)
{
    size_t out = 0, at = 0;
    for (size_t i = 0; i < TABLE; i++)
        latest[i] = 0;
    while (at < SIZE) {
        size_t length = 0, from = 0;
        if (at + SHORTEST <= SIZE) {
            uint32_t *slot = &latest[(four(plain + at) * 2654435761u) >> 19];
            from = *slot;
            *slot = (uint32_t)at;
            if (from < at && at - from < 65536)
                while (length < LONGEST && at + length < SIZE
                       && plain[from + length] == plain[at + length])
                    length++;
        }
        if (length >= SHORTEST) {
            size_t distance = at - from;
            packed[out++] = (uint8_t)length;
            packed[out++] = (uint8_t)distance;
            packed[out++] = (uint8_t)(distance >> 8);
            at += length;
        } else {
            packed[out++] = 0;
            packed[out++] = plain[at++];
        }
    }
    return out;
}

static size_t unpack(size_t size)
{
    size_t out = 0;
    for (size_t at = 0; at < size;) {
        size_t length = packed[at++];
        if (length == 0) {
            unpacked[out++] = packed[at++];
            continue;
        }
        size_t distance = packed[at] | (size_t)packed[at + 1] << 8;
        at += 2;
        for (; length; length--, out++)
            unpacked[out] = unpacked[out - distance];
    }
    return out;
}

uint64_t kernel(void)
{
    uint64_t random = 7, sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        /* Words of a small vocabulary, as text has them. */
        for (size_t at = 0; at < SIZE;) {
            uint64_t word = next_random(&random) % 400, state = word;
            for (size_t left = 2 + word % 7; left && at < SIZE; left--)
                plain[at++] = (uint8_t)('a' + next_random(&state) % 26);
            if (at < SIZE)
                plain[at++] = ' ';
        }
        size_t size = pack();
        if (unpack(size) != SIZE)
            return 0;
        for (size_t i = 0; i < SIZE; i++)
            if (plain[i] != unpacked[i])
                return 0;
        sum = mix(sum, size);
    }
    return sum;
}
