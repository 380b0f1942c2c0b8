/* Ends that a kernel brings about, and what it refuses; the argument says which. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int depth;
static int seen;

static int fall(int n) {
    volatile char room[512];
    room[n % 512] = n;
    depth++;
    return fall(n + 1) + room[n % 512];
}
static void note(int n) { seen = n; }

int main(int argc, char **argv) {
    const char *what = argv[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%s\n", what);
    if (!strcmp(what, "stack")) return fall(0);
    if (!strcmp(what, "null")) return *(volatile int *)8;
    if (!strcmp(what, "code")) *(volatile int *)main = 0;
    if (!strcmp(what, "far")) return *(volatile int *)(1UL << 46);
    if (!strcmp(what, "jump")) ((void (*)(void))0x123456)();
    if (!strcmp(what, "data")) ((void (*)(void))&seen)();
    if (!strcmp(what, "illegal")) asm volatile(".word 0");
    if (!strcmp(what, "break")) asm volatile("ebreak");
    if (!strcmp(what, "abort")) abort();
    if (!strcmp(what, "raise")) raise(SIGSEGV);
    if (!strcmp(what, "kill")) kill(getpid(), SIGBUS);
    if (!strcmp(what, "raised")) {
        sigset_t mask, before;
        signal(SIGSEGV, SIG_IGN);
        raise(SIGSEGV);
        signal(SIGSEGV, note);
        raise(SIGSEGV);
        printf("handled %d\n", seen);
        seen = 0;
        sigemptyset(&mask);
        sigaddset(&mask, SIGSEGV);
        sigprocmask(SIG_BLOCK, &mask, &before);
        raise(SIGSEGV);
        printf("blocked %d\n", seen);
        sigprocmask(SIG_SETMASK, &before, NULL);
        printf("unblocked %d\n", seen);
    }
    if (!strcmp(what, "memory")) {
        printf("far too much %d\n", malloc(1UL << 46) == NULL);
        void *place = NULL;
        for (int i = 0; i < 1 << 16 && place != MAP_FAILED; i++)
            place = mmap(NULL, 16UL << 30, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        printf("used up %d %s\n", place == MAP_FAILED, strerror(errno));
        printf("a little %d\n", malloc(100) != NULL);
    }
    if (!strcmp(what, "refused")) {
        static char zeros[256];
        static const int numbers[] = {425, 426, 427, 293, 282, 480, 1000, 100000};
        for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            long result = syscall(numbers[i], 1, zeros, 0, 0, 0, 0);
            printf("%d %ld %s\n", numbers[i], result, strerror(errno));
        }
    }
    if (!strcmp(what, "cpu")) {
        struct rlimit limit = {1, 2};
        signal(SIGXCPU, SIG_DFL);
        setrlimit(RLIMIT_CPU, &limit);
        for (;;) depth++;
    }
    if (!strcmp(what, "file")) {
        struct rlimit limit = {1000, 1000};
        setrlimit(RLIMIT_FSIZE, &limit);
        int file = memfd_create("small", 0);
        char block[2000] = {0};
        printf("%zd\n", write(file, block, 2000));
        printf("%zd\n", write(file, block, 2000));
    }
    if (!strcmp(what, "pipe")) {
        int ends[2];
        pipe(ends);
        close(ends[0]);
        write(ends[1], "x", 1);
    }
    return 0;
}
