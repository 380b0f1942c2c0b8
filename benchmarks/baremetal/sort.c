/* Quicksort of random integers, insertion sort for short runs. */
#include "kernel.h"

enum { COUNT = 200000, ROUNDS = 20, SHORT_RUN = 12 };

static int numbers[COUNT];

static void sort(int *low, int *high)
{
    while (high - low > SHORT_RUN) {
        int pivot = low[(high - low) / 2];
        int *left = low, *right = high;
        while (left <= right) {
            while (*left < pivot)
                left++;
            while (*right > pivot)
                right--;
            if (left <= right) {
                int kept = *left;
                *left++ = *right;
                *right-- = kept;
            }
        }
        sort(low, right);
        low = left;
    }
    for (int *at = low + 1; at <= high; at++) {
        int value = *at, *to = at;
        for (; to > low && to[-1] > value; to--)
            *to = to[-1];
        *to = value;
    }
}

uint64_t kernel(void)
{
    uint64_t random = 1, sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++)
            numbers[i] = (int)next_random(&random);
        sort(numbers, numbers + COUNT - 1);
        for (int i = 0; i < COUNT; i += 97)
            sum = mix(sum, (uint32_t)numbers[i]);
    }
    return sum;
}
