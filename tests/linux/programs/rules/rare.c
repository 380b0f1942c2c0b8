#include "rules.h"
#include <linux/futex.h>
#include <linux/keyctl.h>
#include <mqueue.h>
#include <pthread.h>
#include <sys/fanotify.h>

struct waiter { unsigned long value, address; unsigned flags, rest; };

static void on_files(void) {
    int file = open("file", O_CREAT | O_RDWR, 0600), here = open(".", O_RDONLY);
    char text[8192];
    struct { unsigned long offset, length; } range = {0, 0};
    unsigned long cached[5] = {0};
    memset(text, 'x', 8192);
    write(file, text, 8192);
    TRY(syscall(451, file, &range, cached, 0));
    printf("%ld\n", cached[0]);
    TRY(syscall(451, file, &range, cached, 1));
    TRY(syscall(451, file, 8, cached, 0));
    TRY(syscall(451, 99, &range, cached, 0));
    struct { unsigned size; int type; unsigned char data[128]; } handle = {128};
    int mount;
    TRY(syscall(SYS_name_to_handle_at, AT_FDCWD, "file", &handle, &mount, 0));
    int again = syscall(SYS_open_by_handle_at, here, &handle, O_RDONLY);
    IS(again > 0 && read(again, text, 4) == 4 && text[0] == 'x');
    TRY(syscall(SYS_open_by_handle_at, here, 8, O_RDONLY));
    handle.size = 500;
    TRY(syscall(SYS_open_by_handle_at, here, &handle, O_RDONLY));
    int watch = syscall(SYS_fanotify_init, 0, O_RDONLY);
    if (watch >= 0) {
        TRY(syscall(SYS_fanotify_init, 1 << 20, O_RDONLY));
        TRY(syscall(SYS_fanotify_mark, watch, 1, 2L, AT_FDCWD, "file"));
        TRY(syscall(SYS_fanotify_mark, watch, 1, 2L, here, "none"));
        TRY(syscall(SYS_fanotify_mark, watch, 1, 2L, file, 0));
        TRY(syscall(SYS_fanotify_mark, watch, 99, 2L, AT_FDCWD, "file"));
        pwrite(file, "y", 1, 0);
        struct fanotify_event_metadata event;
        TRY(read(watch, &event, sizeof event));
        printf("%lx %d %d\n", (long)event.mask, event.pid == getpid(), fcntl(event.fd, F_GETFL) & O_ACCMODE);
    } else
        say("fanotify", watch);
    struct { unsigned size, rest; unsigned long mount, parameter; } request = {24, 0, -1, 0};
    unsigned long mounts[64];
    IS(syscall(458, &request, mounts, 64, 0) > 0);
    request.size = 3;
    TRY(syscall(458, &request, mounts, 64, 0));
    TRY(syscall(458, 8, mounts, 64, 0));
    unlink("file");
}

static void on_memory(void) {
    char *p = mmap(0, 4 * PAGE, RW, ANONYMOUS, -1, 0);
    int file = open("file", O_CREAT | O_RDWR, 0600), mode = 99, status[2] = {99, 99};
    unsigned long nodes[16] = {1};
    void *pages[2] = {p, p + 3 * PAGE};
    p[0] = 1;
    munmap(p + 2 * PAGE, PAGE);
    TRY(syscall(SYS_get_mempolicy, &mode, 0, 0, 0, 0));
    printf("%d\n", mode);
    TRY(syscall(SYS_get_mempolicy, &mode, 0, 0, p, 3));
    TRY(syscall(SYS_get_mempolicy, &mode, 0, 0, p, 2));
    TRY(syscall(SYS_get_mempolicy, 8, 0, 0, 0, 0));
    TRY(syscall(SYS_set_mempolicy, 0, 0, 0));
    TRY(syscall(SYS_set_mempolicy, 99, 0, 0));
    TRY(syscall(SYS_set_mempolicy, 2, 8, 64));
    TRY(syscall(SYS_mbind, p, 2 * PAGE, 0, 0, 0, 0));
    TRY(syscall(SYS_mbind, p, 4 * PAGE, 0, 0, 0, 0));
    TRY(syscall(SYS_mbind, p + 1, PAGE, 0, 0, 0, 0));
    TRY(syscall(SYS_mbind, p, PAGE, 2, nodes, 64, 0));
    TRY(syscall(SYS_move_pages, 0, 2, pages, 0, status, 0));
    printf("%d %d\n", status[0], status[1]);
    TRY(syscall(SYS_move_pages, 0, 2, 8, 0, status, 0));
    TRY(syscall(SYS_migrate_pages, 0, 64, nodes, nodes));
    for (int i = 0; i < 4; i++)
        pwrite(file, &"abcd"[i], 1, i * PAGE);
    char *view = mmap(0, 4 * PAGE, RW, MAP_SHARED, file, 0);
    TRY(syscall(SYS_remap_file_pages, view, PAGE, 0, 3, 0));
    printf("%c%c\n", view[0], view[PAGE]);
    TRY(syscall(SYS_remap_file_pages, view, PAGE, 1, 3, 0));
    TRY(syscall(SYS_remap_file_pages, p, PAGE, 0, 3, 0));
    TRY(syscall(SYS_remap_file_pages, view, 0, 0, 3, 0));
    IS(mremap(view, PAGE, 2 * PAGE, 0) == MAP_FAILED);
    int secret = syscall(447, 0);
    if (secret >= 0) {
        ftruncate(secret, PAGE);
        char *hidden = mmap(0, PAGE, RW, MAP_SHARED, secret, 0);
        if (hidden != MAP_FAILED)
            hidden[0] = 7, printf("secret %d\n", hidden[0]);
    } else
        say("secret", secret);
    unlink("file");
}

static void sealing(void) {
    char *p = mmap(0, 8 * PAGE, RW, ANONYMOUS, -1, 0);
    p[0] = 1;
    munmap(p + 6 * PAGE, PAGE);
    TRY(syscall(462, p, 0, 0));
    TRY(syscall(462, p, PAGE, 1));
    TRY(syscall(462, p + 1, PAGE, 0));
    TRY(syscall(462, p, 8 * PAGE, 0));
    TRY(syscall(462, p, -PAGE, 0));
    TRY(mprotect(p + PAGE, PAGE, PROT_READ));
    TRY(syscall(462, p, 2 * PAGE, 0));
    TRY(munmap(p, PAGE));
    TRY(munmap(p - PAGE, 8 * PAGE));
    TRY(mprotect(p, 4 * PAGE, PROT_READ));
    TRY(mprotect(p + PAGE, PAGE, PROT_READ));
    TRY(mmap(p, PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0));
    TRY(mremap(p, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    TRY(mremap(p + 4 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p));
    TRY(madvise(p + PAGE, PAGE, MADV_DONTNEED));
    TRY(madvise(p, PAGE, MADV_DONTNEED));
    TRY(madvise(p + PAGE, PAGE, MADV_WILLNEED));
    printf("%d\n", p[0]);
}

static unsigned words[2] = {5, 6};
static void *wake_later(void *unused) {
    usleep(30000);
    words[1] = 7;
    syscall(454, &words[1], 0xffffffffL, 1, 2);
    return 0;
}
static void on_futexes(void) {
    struct timespec past = {0, 0};
    struct waiter waiters[2] = {{5, (long)&words[0], 2, 0}, {6, (long)&words[1], 2, 0}}, bad[2] = {{5, 8, 2, 0}, {6, (long)&words[1], 2, 0}};
    pthread_t thread;
    TRY(syscall(SYS_futex_waitv, waiters, 0, 0, 0, 0));
    TRY(syscall(SYS_futex_waitv, waiters, 129, 0, 0, 0));
    TRY(syscall(SYS_futex_waitv, waiters, 2, 1, 0, 0));
    TRY(syscall(SYS_futex_waitv, 8, 2, 0, 0, 0));
    TRY(syscall(SYS_futex_waitv, bad, 2, 0, 0, 0));
    TRY(syscall(SYS_futex_waitv, waiters, 2, 0, &past, CLOCK_MONOTONIC));
    TRY(syscall(SYS_futex_waitv, waiters, 2, 0, &past, 99));
    pthread_create(&thread, 0, wake_later, 0);
    TRY(syscall(SYS_futex_waitv, waiters, 2, 0, 0, 0));
    pthread_join(thread, 0);
    TRY(syscall(SYS_futex_waitv, waiters, 2, 0, 0, 0));
    TRY(syscall(454, &words[0], 0xffffffffL, 1, 2));
    TRY(syscall(454, &words[0], 0xffffffffL, 1, 99));
    TRY(syscall(454, (char *)&words[0] + 1, 0xffffffffL, 1, 2));
    TRY(syscall(455, &words[0], 9L, 0xffffffffL, 2, 0, 0));
    TRY(syscall(455, &words[0], 5L, 0xffffffffL, 2, &past, CLOCK_MONOTONIC));
    TRY(syscall(455, &words[0], 5L, 0L, 2, &past, CLOCK_MONOTONIC));
    TRY(syscall(456, waiters, 0, 1, 1));
    words[1] = 6;
    TRY(syscall(456, waiters, 1, 1, 1));
    TRY(syscall(456, 0, 0, 1, 1));
}

static volatile int notified;
static void on_message(union sigval value) { notified = value.sival_int; }
static void on_queues(void) {
    char name[32];
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16};
    snprintf(name, sizeof name, "/tandemu-rare-%d", getpid());
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT, 0600, &attributes);
    struct sigevent thread = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_message, .sigev_value.sival_int = 77};
    struct sigevent bad = {.sigev_notify = 99}, signal_bad = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 99}, none = {.sigev_notify = SIGEV_NONE};
    TRY(syscall(SYS_mq_notify, queue, &bad));
    TRY(syscall(SYS_mq_notify, queue, &signal_bad));
    TRY(syscall(SYS_mq_notify, queue, 8));
    TRY(syscall(SYS_mq_notify, 99, &none));
    TRY(mq_notify(queue, &thread));
    TRY(mq_notify(queue, &none));
    mq_send(queue, "x", 1, 0);
    while (!notified)
        usleep(1000);
    printf("%d\n", notified);
    TRY(mq_notify(queue, 0));
    mq_unlink(name);
}

static void on_keys(void) {
    char text[64] = "";
    long key = syscall(SYS_add_key, "user", "tandemu", "secret", 6, KEY_SPEC_PROCESS_KEYRING);
    if (key < 0) {
        say("add_key", key);
        return;
    }
    TRY(syscall(SYS_keyctl, KEYCTL_READ, key, text, 64));
    puts(text);
    IS(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "tandemu", 0) == key);
    IS(syscall(SYS_request_key, "user", "tandemu", 0, 0) == key);
    TRY(syscall(SYS_keyctl, KEYCTL_UPDATE, key, "other", 5));
    TRY(syscall(SYS_keyctl, KEYCTL_READ, key, (char *)8, 64));
    TRY(syscall(SYS_keyctl, KEYCTL_REVOKE, key));
    TRY(syscall(SYS_keyctl, KEYCTL_READ, key, text, 64));
    TRY(syscall(SYS_keyctl, 9999));
    TRY(syscall(SYS_add_key, "user", "tandemu", (char *)8, 6, KEY_SPEC_PROCESS_KEYRING));
    TRY(syscall(SYS_add_key, 8, "tandemu", "x", 1, KEY_SPEC_PROCESS_KEYRING));
}

int main(void) {
    on_files();
    on_memory();
    sealing();
    on_futexes();
    on_queues();
    on_keys();
    int size = 4096;
    char text[4096];
    TRY(syscall(459, 100, text, &size, 0));
    TRY(syscall(461, text, &size, 9));
}
