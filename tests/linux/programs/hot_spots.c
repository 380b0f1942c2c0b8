/* Two loops: one runs three times as long as the other. */
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) unsigned long busiest(unsigned long turns)
{
    unsigned long value = turns;
    while (turns--)
        value = value * 3 ^ turns;
    return value;
}

__attribute__((noinline)) unsigned long rarer(unsigned long turns)
{
    unsigned long value = turns;
    while (turns--)
        value = value * 5 ^ turns;
    return value;
}

int main(int argc, char **argv)
{
    unsigned long turns = strtoul(argv[1], NULL, 10);
    puts("begun");
    fflush(stdout);
    return (busiest(3 * turns) ^ rarer(turns)) == 1;
}
