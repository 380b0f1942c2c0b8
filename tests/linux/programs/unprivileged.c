/* Gives up its user and its /proc entry, as servers do, and then computes. */
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    unsigned long value = 1;
    syscall(SYS_setresuid, 65534, 65534, 65534);
    prctl(PR_SET_DUMPABLE, 0);
    for (unsigned long turn = 0; turn < 1000000; turn++)
        value = value * 3 ^ turn;
    printf("%lx\n", value);
    return 0;
}
