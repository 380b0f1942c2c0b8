/* Double precision: fast Fourier transform forth and back, radix 2, in place. */
#include "kernel.h"

enum { BITS = 12, SIZE = 1 << BITS, ROUNDS = 200 };

static double re[SIZE], im[SIZE], cosine[SIZE / 2], sine[SIZE / 2];

/* Halving the angle gives every root of unity from exact ones, with square roots only. */
static void make_roots(void)
{
    cosine[0] = 1.0, sine[0] = 0.0;
    double c = -1.0, s = 0.0; /* half a turn */
    for (int span = SIZE / 4; span; span /= 2) {
        double half = __builtin_sqrt((1.0 + c) / 2.0);
        s = half == 0.0 ? 1.0 : s / (2.0 * half);
        c = half;
        for (int i = 0; i < SIZE / 2; i += 2 * span) {
            cosine[i + span] = cosine[i] * c - sine[i] * s;
            sine[i + span] = cosine[i] * s + sine[i] * c;
        }
    }
}

static void transform(double direction)
{
    for (int i = 0, j = 0; i < SIZE; i++) {
        if (i < j) {
            double kept = re[i];
            re[i] = re[j], re[j] = kept;
            kept = im[i], im[i] = im[j], im[j] = kept;
        }
        int bit = SIZE / 2;
        for (; j & bit; bit /= 2)
            j ^= bit;
        j |= bit;
    }
    for (int half = 1; half < SIZE; half *= 2)
        for (int start = 0; start < SIZE; start += 2 * half)
            for (int k = 0; k < half; k++) {
                int a = start + k, b = a + half, turn = k * (SIZE / 2 / half);
                double c = cosine[turn], s = direction * sine[turn];
                double x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
                re[b] = re[a] - x, im[b] = im[a] - y;
                re[a] += x, im[a] += y;
            }
}

uint64_t kernel(void)
{
    uint64_t random = 7, sum = 0;
    make_roots();
    for (int i = 0; i < SIZE; i++)
        re[i] = (double)(next_random(&random) % 10000) / 100.0, im[i] = 0.0;
    for (int round = 0; round < ROUNDS; round++) {
        transform(1.0);
        transform(-1.0);
        for (int i = 0; i < SIZE; i++)
            re[i] /= SIZE, im[i] /= SIZE;
    }
    for (int i = 0; i < SIZE; i += 31)
        sum = mix(mix(sum, bits_of(re[i])), bits_of(im[i]));
    return sum;
}
