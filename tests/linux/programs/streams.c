/* Tells which of 0, 1 and 2 are open and what number is free, in a file; then writes on 1. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words)
{
    int first = open("/dev/null", O_RDONLY);
    char text[100];
    if (count > 2 && !strcmp(words[2], "wait")) {
        write(1, "up\n", 3);
        for (;;)
            pause();
    }
    if (count > 2 && !strcmp(words[2], "spin")) {
        write(1, "up\n", 3);
        for (volatile int turn = 0;; turn++)
            ;
    }
    if (count > 2 && !strcmp(words[2], "flood"))
        for (;;)
            write(1, "y\n", 2);
    int length = sprintf(text, "%d %d %d, %d free\n", fcntl(0, F_GETFD), fcntl(1, F_GETFD),
                         fcntl(2, F_GETFD), first);
    write(open(words[1], O_WRONLY | O_CREAT | O_TRUNC, 0600), text, length);
    return write(1, "x", 1) == 1 ? 0 : errno;
}
