/* Bytes: CRC-32 by table, and a search for words in a text (Horspool's rule). */
#include "kernel.h"

enum { SIZE = 1 << 18, ROUNDS = 450, WORD = 6 };

static uint8_t text[SIZE];
static uint32_t table[256];

static uint32_t crc32(const uint8_t *bytes, size_t size)
{
    uint32_t crc = ~0u;
    while (size--)
        crc = table[(crc ^ *bytes++) & 255] ^ crc >> 8;
    return ~crc;
}

static uint32_t occurrences(const uint8_t *word)
{
    uint8_t skip[256];
    uint32_t found = 0;
    for (int i = 0; i < 256; i++)
        skip[i] = WORD;
    for (int i = 0; i < WORD - 1; i++)
        skip[word[i]] = (uint8_t)(WORD - 1 - i);
    for (size_t at = 0; at + WORD <= SIZE; at += skip[text[at + WORD - 1]]) {
        int i = WORD - 1;
        while (i >= 0 && text[at + (size_t)i] == word[i])
            i--;
        found += i < 0;
    }
    return found;
}

uint64_t kernel(void)
{
    uint64_t random = 4, sum = 0;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
        table[i] = crc;
    }
    for (int i = 0; i < SIZE; i++)
        text[i] = (uint8_t)('a' + next_random(&random) % 6);
    for (int round = 0; round < ROUNDS; round++) {
        sum = mix(sum, crc32(text, SIZE));
        sum = mix(sum, occurrences(text + (round * 977) % (SIZE - WORD)));
        text[(round * 5003) % SIZE] ^= 1;
    }
    return sum;
}
