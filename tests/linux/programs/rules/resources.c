#include "rules.h"

static struct rlimit before;
static int kind;
static const char *names[] = {"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE",
    "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};
static int limit_to(int what, long soft, long hard) {
    struct rlimit limit = {soft, hard};
    return setrlimit(what, &limit);
}
static void tell(void) {
    struct rlimit now;
    char text[4096] = "", *line;
    getrlimit(kind, &now);
    printf("%ld %ld;", (long)now.rlim_cur, (long)now.rlim_max);
    prlimit(0, kind, 0, &now);
    printf(" %ld %ld\n", (long)now.rlim_cur, (long)now.rlim_max);
}
static void lower(void) {
    limit_to(kind, 5 << 20, 6 << 20);
    tell();
    child(tell);
    printf("above %d\n", limit_to(kind, 8 << 20, 6 << 20) ? errno : 0);
    printf("hard again %d\n", limit_to(kind, 7 << 20, 7 << 20) ? errno : 0);
    tell();
    limit_to(kind, 5 << 20, 6 << 20);
    if (!setuid(65534)) {
        printf("raised without privilege %d\n", limit_to(kind, 5 << 20, 7 << 20) ? errno : 0);
        printf("to the hard one %d\n", limit_to(kind, 6 << 20, 6 << 20) ? errno : 0);
        tell();
    }
}
static void errors(void) {
    struct rlimit limit = {1, 2}, bad = {3, 2};
    TRY(getrlimit(16, &limit));
    TRY(getrlimit(-1, &limit));
    TRY(setrlimit(16, &limit));
    TRY(syscall(SYS_setrlimit, 16, 1));
    TRY(syscall(SYS_getrlimit, 16, 1));
    TRY(syscall(SYS_getrlimit, RLIMIT_AS, 1));
    TRY(syscall(SYS_setrlimit, RLIMIT_AS, 1));
    TRY(setrlimit(RLIMIT_AS, &bad));
    TRY(setrlimit(RLIMIT_NOFILE, &bad));
    TRY(setrlimit(RLIMIT_CORE, &bad));
    TRY(limit_to(RLIMIT_NOFILE, 10, RLIM_INFINITY));
    TRY(syscall(SYS_prlimit64, 0, 16, 0, &limit));
    TRY(syscall(SYS_prlimit64, 0, RLIMIT_AS, 1, 0));
    TRY(syscall(SYS_prlimit64, 0, RLIMIT_AS, 0, 1));
    TRY(syscall(SYS_prlimit64, -1, RLIMIT_AS, 0, &limit));
    TRY(syscall(SYS_prlimit64, 99999999, RLIMIT_AS, 0, &limit));
}

static void address_space(void) {
    limit_to(RLIMIT_AS, 64 << 20, RLIM_INFINITY);
    void *p = mmap(0, 40 << 20, RW, ANONYMOUS, -1, 0);
    IS(p != MAP_FAILED);
    TRY(mmap(0, 40 << 20, PROT_NONE, ANONYMOUS, -1, 0));
    TRY(mmap(0, 40 << 20, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    IS(mmap(p, 40 << 20, RW, ANONYMOUS | MAP_FIXED, -1, 0) == p);
    TRY(mremap(p, 40 << 20, 80 << 20, MREMAP_MAYMOVE));
    IS(sbrk(40 << 20) == (void *)-1 && errno == ENOMEM);
    IS(malloc(40 << 20) == 0);
    munmap(p, 40 << 20);
    IS(malloc(40 << 20) != 0);
}
static void data(void) {
    limit_to(RLIMIT_DATA, 16 << 20, RLIM_INFINITY);
    IS(sbrk(20 << 20) == (void *)-1 && errno == ENOMEM);
    TRY(mmap(0, 20 << 20, RW, ANONYMOUS, -1, 0));
    IS(mmap(0, 20 << 20, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    void *p = mmap(0, 20 << 20, PROT_READ, ANONYMOUS, -1, 0);
    IS(p != MAP_FAILED);
    TRY(mprotect(p, 20 << 20, RW));
    IS(mprotect(p, 8 << 20, RW) == 0);
    TRY(mprotect(p + (8 << 20), 10 << 20, RW));
    TRY(mremap(p, 8 << 20, 30 << 20, MREMAP_MAYMOVE));
    IS(sbrk(1 << 20) != (void *)-1);
}
static int deep(int levels) {
    volatile char frame[65536];
    frame[0] = 1;
    return levels ? deep(levels - 1) + frame[0] : 0;
}
static void stack_small(void) {
    limit_to(RLIMIT_STACK, 1 << 20, RLIM_INFINITY);
    printf("%d\n", deep(10));
    deep(40);
    puts("too deep");
}
static void stack_larger(void) {
    limit_to(RLIMIT_STACK, 64 << 20, RLIM_INFINITY);
    printf("%d\n", deep(800));
    limit_to(RLIMIT_STACK, 1 << 20, RLIM_INFINITY);
    printf("%d\n", deep(700));
}
static void locked(void) {
    char *p = mmap(0, 64 * PAGE, RW, ANONYMOUS, -1, 0);
    limit_to(RLIMIT_MEMLOCK, 8 * PAGE, 8 * PAGE);
    if (setuid(65534))
        puts("no root");
    TRY(mlock(p, 4 * PAGE));
    TRY(mlock(p, 9 * PAGE));
    TRY(mmap(0, 16 * PAGE, RW, ANONYMOUS | MAP_LOCKED, -1, 0));
    TRY(mlockall(MCL_CURRENT));
    TRY(mlockall(MCL_FUTURE));
    TRY(mmap(0, 16 * PAGE, RW, ANONYMOUS, -1, 0));
    IS(mmap(0, 2 * PAGE, RW, ANONYMOUS, -1, 0) != MAP_FAILED);
    TRY(munlockall());
    limit_to(RLIMIT_MEMLOCK, 0, 0);
    TRY(mlock(p, PAGE));
    TRY(mlockall(MCL_CURRENT));
    TRY(mmap(0, 16 * PAGE, RW, ANONYMOUS | MAP_LOCKED, -1, 0));
    TRY(munlock(p, PAGE));
}
static void files(void) {
    limit_to(RLIMIT_NOFILE, 6, 6);
    int last = 0, next;
    while ((next = open("/dev/null", O_RDONLY)) >= 0)
        last = next;
    printf("%d %s\n", last, strerrorname_np(errno));
    TRY(dup2(0, 6));
    TRY(fcntl(0, F_DUPFD, 6));
    TRY(fcntl(0, F_DUPFD, 3));
    TRY(socket(1, 1, 0));
    char text[100];
    TRY(syscall(SYS_ppoll, text, 7, 0, 0, 0));
    limit_to(RLIMIT_NOFILE, 3, 6);
    IS(read(last, text, 1) == 0);
    TRY(open("/dev/null", O_RDONLY));
}
static void sizes(void) {
    signal(SIGXFSZ, SIG_IGN);
    limit_to(RLIMIT_FSIZE, 10, 10);
    int file = open("sized", O_CREAT | O_RDWR, 0600);
    TRY(write(file, "0123456789abc", 13));
    TRY(write(file, "x", 1));
    TRY(ftruncate(file, 11));
    TRY(ftruncate(file, 9));
    TRY(pwrite(file, "x", 1, 20));
    TRY(fallocate(file, 0, 0, 20));
    unlink("sized");
    signal(SIGXFSZ, SIG_DFL);
    write(file, "0123456789abc", 13);
    write(file, "x", 1);
}
static volatile int count;
static void handler(int signal) { count++; }
static void sizes_handled(void) {
    signal(SIGXFSZ, handler);
    limit_to(RLIMIT_FSIZE, 10, 10);
    int file = open("sized", O_CREAT | O_RDWR, 0600);
    TRY(pwrite(file, "x", 1, 20));
    printf("%d\n", count);
    TRY(ftruncate(file, 11));
    printf("%d\n", count);
    struct { const void *p; long n; } vector = {"x", 1};
    TRY(pwritev(file, (void *)&vector, 1, 30));
    printf("%d\n", count);
    unlink("sized");
}
static void replaced(char **argv) {
    for (int which = 0; which < 4; which++) {
        if (fork() == 0) {
            if (which == 0)
                limit_to(RLIMIT_AS, 900 << 20, 950 << 20);
            if (which == 1)
                limit_to(RLIMIT_NOFILE, 50, 60);
            if (which == 2)
                limit_to(RLIMIT_STACK, 2 << 20, 3 << 20);
            if (which == 3)
                limit_to(RLIMIT_DATA, 500 << 20, 600 << 20);
            char *next[] = {argv[0], "told", 0};
            execv("/proc/self/exe", next);
        }
        wait(0);
    }
}

int main(int argc, char **argv) {
    int kinds[] = {RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_NOFILE, RLIMIT_FSIZE, RLIMIT_NPROC, RLIMIT_CORE, RLIMIT_NOFILE};
    if (argc > 1) {
        int told[] = {RLIMIT_AS, RLIMIT_NOFILE, RLIMIT_STACK, RLIMIT_DATA};
        for (int i = 0; i < 4; i++)
            kind = told[i], tell();
        return 0;
    }
    child(errors);
    for (int i = 0; i < 7; i++) {
        kind = kinds[i];
        printf("%s\n", names[kind]);
        if (kind == RLIMIT_NOFILE)
            continue;
        child(lower);
    }
    printf("address space %d\n", child(address_space));
    printf("data %d\n", child(data));
    printf("small stack %d\n", child(stack_small));
    printf("larger stack %d\n", child(stack_larger));
    printf("locked %d\n", child(locked));
    printf("files %d\n", child(files));
    printf("sizes %d\n", child(sizes));
    printf("sizes handled %d\n", child(sizes_handled));
    fflush(stdout);
    replaced(argv);
}
