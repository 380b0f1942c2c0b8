/* A parser: nested lists, numbers and quoted words, read by recursive descent. */
#include "kernel.h"

enum { SIZE = 1 << 16, ROUNDS = 600, DEEPEST = 12 };

static char text[SIZE];
static size_t end, at;
static uint64_t random_state = 11, sum;

static void put(char c)
{
    if (end < SIZE - 64)
        text[end++] = c;
}

static void write_value(int depth)
{
    uint64_t random = next_random(&random_state);
    unsigned kind = random % 10;
    if (kind < 4 && depth < DEEPEST) {
        put('[');
        for (unsigned left = (random >> 8) % 6; left; left--) {
            write_value(depth + 1);
            if (left > 1)
                put(',');
        }
        put(']');
    } else if (kind < 8) {
        if (random >> 63)
            put('-');
        for (unsigned left = 1 + (random >> 16) % 9; left; left--)
            put((char)('0' + (random >> (3 * left)) % 10));
    } else {
        put('"');
        for (unsigned left = (random >> 24) % 12; left; left--) {
            char c = (char)('a' + (random >> (4 * left)) % 26);
            if (c == 'q')
                put('\\');
            put(c);
        }
        put('"');
    }
}

static void skip(void)
{
    while (text[at] == ' ' || text[at] == '\n')
        at++;
}

static int read_value(int depth)
{
    skip();
    switch (text[at]) {
    case '[': {
        int count = 0;
        at++;
        skip();
        while (text[at] != ']') {
            if (!read_value(depth + 1))
                return 0;
            count++;
            skip();
            if (text[at] == ',')
                at++;
            else if (text[at] != ']')
                return 0;
        }
        at++;
        sum = mix(sum, (uint64_t)(depth * 64 + count));
        return 1;
    }
    case '"': {
        uint64_t hash = 5381;
        for (at++; text[at] != '"'; at++) {
            if (text[at] == '\\')
                at++;
            if (text[at] == 0)
                return 0;
            hash = hash * 33 + (uint8_t)text[at];
        }
        at++;
        sum = mix(sum, hash);
        return 1;
    }
    default: {
        int64_t value = 0;
        int negative = text[at] == '-';
        if (negative)
            at++;
        if (text[at] < '0' || text[at] > '9')
            return 0;
        while (text[at] >= '0' && text[at] <= '9')
            value = value * 10 + (text[at++] - '0');
        sum = mix(sum, (uint64_t)(negative ? -value : value));
        return 1;
    }
    }
}

uint64_t kernel(void)
{
    while (end < SIZE - 4096) {
        write_value(0);
        put('\n');
    }
    text[end] = 0;
    for (int round = 0; round < ROUNDS; round++)
        for (at = 0, skip(); text[at]; skip())
            if (!read_value(0))
                return 0;
    return sum;
}
