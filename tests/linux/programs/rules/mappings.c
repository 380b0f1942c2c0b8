#include "rules.h"

static char *area(long pages) {
    char *p = mmap(0, (pages + 2) * PAGE, PROT_NONE, ANONYMOUS, -1, 0);
    munmap(p, (pages + 2) * PAGE);
    return p + PAGE;
}
static char *page;
static void look(void) { printf("child sees %d %d\n", page[0], page[PAGE]); }
static void look_fault(void) { printf("child %d\n", probe(page, 0)); }

static void map_errors(void) {
    int file = open("file", O_RDWR | O_CREAT, 0600), reader = open("file", O_RDONLY);
    int path = open("file", O_PATH), pipes[2];
    pipe(pipes);
    ftruncate(file, 3 * PAGE);
    TRY(mmap(0, 0, RW, ANONYMOUS, -1, 0));
    TRY(mmap(0, PAGE, RW, MAP_ANONYMOUS, -1, 0));
    TRY(mmap(0, PAGE, RW, 4 | MAP_ANONYMOUS, -1, 0));
    TRY(mmap(0, PAGE, RW, MAP_PRIVATE, -1, 0));
    TRY(mmap(0, PAGE, RW, MAP_PRIVATE, 99, 0));
    TRY(mmap(0, PAGE, RW, MAP_PRIVATE, path, 0));
    TRY(mmap(0, PAGE, RW, MAP_PRIVATE, pipes[0], 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED, reader, 0));
    TRY(mmap(0, PAGE, PROT_READ, MAP_SHARED, reader, 0));
    TRY(mmap(0, PAGE, RW, MAP_PRIVATE, reader, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED, file, 1));
    TRY(syscall(SYS_mmap, 0, PAGE, RW, MAP_SHARED, file, -PAGE));
    TRY(syscall(SYS_mmap, 0, 2 * PAGE, RW, MAP_SHARED, file, -PAGE));
    TRY(mmap(0, -PAGE, RW, ANONYMOUS, -1, 0));
    TRY(mmap(0, -1, RW, ANONYMOUS, -1, 0));
    TRY(mmap((void *)1, PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0));
    TRY(mmap((void *)(1L << 60), PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0));
    TRY(mmap((void *)(1L << 60), PAGE, RW, ANONYMOUS, -1, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE, file, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_POPULATE | MAP_LOCKED, file, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | 0x80000, file, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | 0x4000000, file, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED | 0x4000000, file, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED | MAP_GROWSDOWN, file, 0));
    TRY(mmap(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0));
    char *p = area(3);
    IS(mmap(p, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p);
    TRY(mmap(p - PAGE, 2 * PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    TRY(mmap(p + 1, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    IS(mmap(p + PAGE + 5, PAGE, RW, ANONYMOUS, -1, 0) == p + PAGE);
    IS(mmap(p, PAGE, RW, ANONYMOUS, -1, 0) != p);
    TRY(munmap(p + 1, PAGE));
    TRY(munmap(p, 0));
    TRY(munmap(p, -PAGE));
    TRY(munmap((void *)-PAGE, PAGE));
    TRY(munmap(p - 10 * PAGE, PAGE));
    char *over = mmap(0, 4 * PAGE, RW, MAP_SHARED, file, 0);
    printf("behind the file %d, in it %d\n", probe(over + 3 * PAGE, 0), probe(over + 2 * PAGE, 1));
    unlink("file");
}

static void protections(void) {
    char *p = area(6);
    mmap(p, 6 * PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    munmap(p + 3 * PAGE, PAGE);
    TRY(mprotect(p + 1, PAGE, RW));
    TRY(mprotect(p, 0, 0x70));
    TRY(mprotect(p, PAGE, 0x70));
    TRY(mprotect(p, -PAGE, RW));
    TRY(mprotect(p, PAGE, RW | PROT_GROWSDOWN));
    TRY(mprotect(p, PAGE, RW | PROT_GROWSDOWN | PROT_GROWSUP));
    TRY(mprotect(p + PAGE, 4 * PAGE, PROT_READ));
    printf("%d %d %d %d\n", probe(p, 1), probe(p + PAGE, 1), probe(p + 2 * PAGE, 1), probe(p + 4 * PAGE, 1));
    printf("%d\n", probe(p + 3 * PAGE, 0));
    TRY(mprotect(p + 3 * PAGE, PAGE, RW));
    long here = (long)&p & -PAGE;
    TRY(mprotect((void *)here, PAGE, RW | PROT_GROWSDOWN));
    TRY(mprotect(p, 2 * PAGE, PROT_NONE));
    printf("%d\n", probe(p + PAGE, 0));
}

static void remaps(void) {
    char *p = area(16);
    mmap(p, 4 * PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    memset(p, 'a', 4 * PAGE);
    TRY(mremap(p, PAGE, 0, 0));
    TRY(mremap(p + 1, PAGE, PAGE, 0));
    TRY(mremap(p, PAGE, PAGE, 8));
    TRY(mremap(p + 8 * PAGE, PAGE, PAGE, 0));
    TRY(mremap(p + 8 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    TRY(mremap(p, 5 * PAGE, 6 * PAGE, MREMAP_MAYMOVE));
    TRY(mremap(p, PAGE, 2 * PAGE, 0));
    TRY(mremap(p, 0, PAGE, MREMAP_MAYMOVE));
    TRY(mremap(p, PAGE, -PAGE, MREMAP_MAYMOVE));
    TRY(mremap(p, PAGE, 1L << 60, MREMAP_MAYMOVE));
    TRY(mremap(p, PAGE, PAGE, MREMAP_FIXED, p + 8 * PAGE));
    TRY(mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 1));
    TRY(mremap(p, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + PAGE));
    TRY(mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(1L << 60)));
    TRY(mremap(p, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0));
    TRY(mremap(p, PAGE, PAGE, MREMAP_DONTUNMAP, 0));
    IS(mremap(p, 4 * PAGE, 6 * PAGE, 0) == p);
    printf("%c %d\n", p[4 * PAGE - 1], p[6 * PAGE - 1]);
    IS(mremap(p, 6 * PAGE, 3 * PAGE, 0) == p);
    printf("%d\n", probe(p + 3 * PAGE, 0));
    IS(mremap(p, 3 * PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 8 * PAGE) == p + 8 * PAGE);
    printf("%c %d %d %d\n", p[8 * PAGE], probe(p, 0), probe(p + PAGE, 0), probe(p + 9 * PAGE, 0));
    char *kept = mremap(p + 8 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    printf("%c %d\n", kept[0], p[8 * PAGE]);
    char *shared = mmap(0, 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared[0] = 1, shared[PAGE] = 2;
    char *second = mremap(shared, 0, 2 * PAGE, MREMAP_MAYMOVE);
    second[5] = 7;
    printf("%d %d\n", shared[5], second[PAGE]);
    char *grown = mremap(shared, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    printf("%d %d %d\n", grown[0], grown[PAGE], probe(grown + 2 * PAGE, 0));
    /* Several mappings at once, with a hole between. */
    char *several = area(16);
    mmap(several, PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(several + PAGE, PAGE, PROT_READ, ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(several + 3 * PAGE, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    several[0] = 1, several[3 * PAGE] = 4;
    TRY(mremap(several, 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE));
    IS(mremap(several, 2 * PAGE, PAGE, 0) == several);
    printf("%d\n", probe(several + PAGE, 0));
    /* Files, private and shared, grow in place as well. */
    int file = open("file", O_RDWR | O_CREAT, 0600);
    for (int i = 0; i < 4; i++)
        pwrite(file, &"wxyz"[i], 1, i * PAGE);
    char *private = area(8);
    mmap(private, PAGE, RW, MAP_PRIVATE | MAP_FIXED, file, PAGE);
    private[1] = 'P';
    IS(mremap(private, PAGE, 3 * PAGE, 0) == private);
    printf("%c%c%c%c\n", private[0], private[1], private[PAGE], private[2 * PAGE]);
    munmap(private, 3 * PAGE);
    mmap(private, PAGE, RW, MAP_SHARED | MAP_FIXED, file, PAGE);
    IS(mremap(private, PAGE, 3 * PAGE, 0) == private);
    private[2 * PAGE] = 'Q';
    pread(file, private, 1, 3 * PAGE);
    printf("%c%c\n", private[0], private[PAGE]);
    unlink("file");
}

static void several_moved(void) {
    char *several = area(32);
    mmap(several, PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(several + PAGE, PAGE, PROT_READ, ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(several + 3 * PAGE, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    several[0] = 1, several[3 * PAGE] = 4;
    char *to = several + 16 * PAGE;
    TRY(mremap(several, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
    if (probe(to, 0) == 0)
        printf("%d %d %d %d\n", to[0], to[PAGE], probe(to + 2 * PAGE, 0), to[3 * PAGE]);
}

static void advice(void) {
    char *p = area(6);
    mmap(p, 5 * PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    memset(p, 1, 5 * PAGE);
    TRY(madvise(p + 1, PAGE, MADV_DONTNEED));
    TRY(madvise(p, PAGE, 77));
    TRY(madvise(p, 0, 77));
    TRY(madvise(p, 0, MADV_DONTNEED));
    TRY(madvise(p, -1, MADV_DONTNEED));
    TRY(madvise(p, PAGE, MADV_DONTNEED));
    printf("%d %d\n", p[0], p[PAGE]);
    munmap(p + 2 * PAGE, PAGE);
    TRY(madvise(p, 5 * PAGE, MADV_DONTNEED));
    printf("%d %d %d\n", p[PAGE], p[3 * PAGE], p[4 * PAGE]);
    TRY(madvise(p, PAGE, MADV_REMOVE));
    TRY(madvise(p, PAGE, MADV_POPULATE_WRITE));
    TRY(madvise(p + PAGE, 2 * PAGE, MADV_POPULATE_READ));
    TRY(madvise(p, PAGE, MADV_DONTDUMP));
    TRY(madvise(p, PAGE, MADV_DODUMP));
    p[0] = p[PAGE] = 5;
    page = p;
    TRY(madvise(p, PAGE, MADV_WIPEONFORK));
    child(look);
    TRY(madvise(p, PAGE, MADV_KEEPONFORK));
    child(look);
    TRY(madvise(p, PAGE, MADV_DONTFORK));
    child(look_fault);
    TRY(madvise(p, PAGE, MADV_DOFORK));
    child(look);
    char *shared = mmap(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    TRY(madvise(shared, PAGE, MADV_WIPEONFORK));
    shared[0] = 3;
    TRY(madvise(shared, PAGE, MADV_REMOVE));
    printf("%d\n", shared[0]);
    TRY(madvise(shared, PAGE, MADV_FREE));
    if (!madvise(p, PAGE, 102)) {
        printf("guard %d\n", probe(p, 0));
        TRY(write(1, p, 1));
        TRY(madvise(p, PAGE, 103));
        printf("guard %d\n", probe(p, 0));
    } else
        puts("guard 1101\nwrite(1, p, 1): EFAULT\nmadvise(p, PAGE, 103): 0\nguard 0");
}

static void ranges(void) {
    char *p = area(4), vector[4];
    mmap(p, 4 * PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    munmap(p + 2 * PAGE, PAGE);
    p[0] = 1;
    TRY(msync(p, 2 * PAGE, MS_SYNC));
    TRY(msync(p + 1, PAGE, MS_SYNC));
    TRY(msync(p, PAGE, MS_SYNC | MS_ASYNC));
    TRY(msync(p, PAGE, 8));
    TRY(msync(p, 4 * PAGE, MS_ASYNC));
    TRY(mincore(p, 2 * PAGE, (void *)vector));
    printf("%d %d\n", vector[0] & 1, vector[1] & 1);
    TRY(mincore(p, 4 * PAGE, (void *)vector));
    TRY(mincore(p + 1, PAGE, (void *)vector));
    TRY(mincore(p, PAGE, (void *)1));
    TRY(mincore(p, -PAGE, (void *)vector));
    TRY(mlock(p, PAGE));
    TRY(msync(p, PAGE, MS_INVALIDATE));
    TRY(munlock(p, PAGE));
    TRY(mlock(p, 4 * PAGE));
    TRY(munlock(p, 4 * PAGE));
    TRY(mlock(p + 5, 1));
    TRY(mlock(p, -PAGE));
    TRY(mlock2(p, PAGE, 2));
    TRY(mlock2(p, PAGE, MLOCK_ONFAULT));
    TRY(mlockall(0));
    TRY(mlockall(8));
    TRY(mlockall(MCL_ONFAULT));
    TRY(mlockall(MCL_CURRENT | MCL_ONFAULT));
    TRY(munlockall());
    TRY(mlockall(MCL_FUTURE));
    char *locked = mmap(0, PAGE, RW, ANONYMOUS, -1, 0);
    mincore(locked, PAGE, (void *)vector);
    printf("future %d\n", vector[0] & 1);
    TRY(munlockall());
    locked = mmap(0, PAGE, RW, ANONYMOUS, -1, 0);
    mincore(locked, PAGE, (void *)vector);
    printf("no more %d\n", vector[0] & 1);
    locked = mmap(0, PAGE, RW, ANONYMOUS | MAP_LOCKED, -1, 0);
    mincore(locked, PAGE, (void *)vector);
    printf("locked %d\n", vector[0] & 1);
}

static void growing(void) {
    char *p = mmap(0, 600 * PAGE, PROT_NONE, ANONYMOUS, -1, 0);
    munmap(p, 600 * PAGE);
    char *stack = p + 500 * PAGE;
    IS(mmap(stack, PAGE, RW, ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0) == stack);
    printf("%d\n", probe(stack - PAGE, 1));
    for (int i = 0; i < 100; i++)
        stack[-i * PAGE] += i;
    printf("%d %d\n", stack[-99 * PAGE], stack[-50 * PAGE]);
    mmap(p + 50 * PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    printf("near another %d\n", probe(p + 60 * PAGE, 0));
    printf("far enough %d\n", probe(p + 350 * PAGE, 0));
    TRY(mprotect(stack, PAGE, RW | PROT_GROWSDOWN));
    TRY(mprotect(stack, PAGE, PROT_READ | PROT_GROWSDOWN));
    printf("all of it %d\n", probe(p + 350 * PAGE, 1));
}

int main(void) {
    map_errors();
    protections();
    remaps();
    several_moved();
    advice();
    ranges();
    growing();
}
