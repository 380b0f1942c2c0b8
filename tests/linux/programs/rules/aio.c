#include "rules.h"
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

static long setup(unsigned count, aio_context_t *context) { return syscall(SYS_io_setup, count, context); }
static long submit(aio_context_t context, long count, void *list) { return syscall(SYS_io_submit, context, count, list); }
static long take(aio_context_t context, long least, long most, void *events, void *timeout) {
    return syscall(SYS_io_getevents, context, least, most, events, timeout);
}

int main(void) {
    aio_context_t context = 0, other = 0, used = 1;
    struct io_event events[8] = {0};
    struct timespec now = {0, 0}, soon = {0, 1000000};
    char text[16] = "", more[16] = "";
    int file = open("file", O_CREAT | O_RDWR, 0600), event = eventfd(0, 0);
    write(file, "hello world", 11);
    TRY(setup(0, &context));
    TRY(setup(8, &used));
    TRY(setup(8, (void *)8));
    TRY(setup(1 << 30, &context));
    TRY(setup(8, &context));
    TRY(setup(8, &context));
    TRY(setup(100, &other));
    IS(context != other && context % PAGE == 0);
    IS(((unsigned *)context)[4] == 0xa10a10a1);
    struct iovec vectors[2] = {{text, 5}, {more, 6}};
    struct iocb read_one = {.aio_data = 77, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = file, .aio_buf = (long)text, .aio_nbytes = 16};
    struct iocb *list[8] = {&read_one};
    TRY(submit(context, 1, list));
    TRY(take(context, 1, 8, events, 0));
    printf("%lld %lld %lld %s %d\n", events[0].data, events[0].res, events[0].res2, text, events[0].obj == (unsigned long)&read_one);
    IS(read_one.aio_buf == (unsigned long)text);
    struct iocb read_several = {.aio_data = 78, .aio_lio_opcode = IOCB_CMD_PREADV, .aio_fildes = file, .aio_buf = (long)vectors, .aio_nbytes = 2,
                                .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = event};
    struct iocb write_one = {.aio_data = 79, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = file, .aio_buf = (long)"HE", .aio_nbytes = 2};
    struct iocb sync_one = {.aio_data = 80, .aio_lio_opcode = IOCB_CMD_FSYNC, .aio_fildes = file};
    memset(text, 0, 16);
    list[0] = &read_several, list[1] = &write_one, list[2] = &sync_one;
    TRY(submit(other, 3, list));
    int got = 0, found = 0;
    while (got < 3)
        got += take(other, 1, 3, events + got, 0);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            if (events[i].obj == (unsigned long)list[j] && events[i].data == list[j]->aio_data)
                printf("%d %lld\n", j, events[i].res), found++;
    printf("%d %s%s\n", found, text, more);
    unsigned long count = 0;
    read(event, &count, 8);
    printf("%ld\n", count);
    pread(file, text, 5, 0);
    printf("%.5s\n", text);
    /* What is wrong is told at once, behind what was right. */
    struct iocb bad_file = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = 99}, bad_code = {.aio_lio_opcode = 99, .aio_fildes = file};
    struct iocb bad_buffer = {.aio_data = 5, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = file, .aio_buf = 8, .aio_nbytes = 4};
    struct iocb reserved = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = file, .aio_reserved2 = 1};
    list[0] = &bad_file;
    TRY(submit(context, 1, list));
    list[0] = &bad_code;
    TRY(submit(context, 1, list));
    list[0] = &reserved;
    TRY(submit(context, 1, list));
    list[0] = (void *)8;
    TRY(submit(context, 1, list));
    list[0] = &read_one, list[1] = &bad_file;
    TRY(submit(context, 2, list));
    TRY(take(context, 1, 8, events, 0));
    list[0] = &bad_buffer;
    if (submit(context, 1, list) == 1)
        take(context, 1, 8, events, 0);
    else
        events[0].res = -errno;
    printf("%lld\n", events[0].res);
    TRY(submit(context, 1, (void *)8));
    TRY(submit(context, 0, list));
    TRY(submit(context, -1, list));
    TRY(submit(8, 1, list));
    TRY(take(context, 0, 8, events, &now));
    TRY(take(context, 1, 8, events, &soon));
    TRY(take(context, 9, 8, events, &soon));
    TRY(take(context, -1, 8, events, &soon));
    TRY(take(context + PAGE * 50, 1, 8, events, &soon));
    struct { void *mask; unsigned long size; } masked = {events, 4}, unmasked = {0, 4}, bad_mask = {(void *)8, 8};
    TRY(syscall(SYS_io_pgetevents, context, 0, 8, events, &now, 0L));
    TRY(syscall(SYS_io_pgetevents, context, 0, 8, events, &now, &masked));
    TRY(syscall(SYS_io_pgetevents, context, 0, 8, events, &now, &unmasked));
    TRY(syscall(SYS_io_pgetevents, context, 0, 8, events, &now, &bad_mask));
    TRY(syscall(SYS_io_pgetevents, context, 0, 8, events, &now, 8L));
    sigset_t nothing;
    sigfillset(&nothing);
    masked.mask = &nothing, masked.size = 8;
    list[0] = &read_one;
    TRY(submit(context, 1, list));
    TRY(syscall(SYS_io_pgetevents, context, 1, 8, events, 0, &masked));
    IS(events[0].obj == (unsigned long)&read_one);
    TRY(submit(context, 1, list));
    TRY(take(context, 1, 8, 8, 0));
    struct pollfd entry = {event, POLLIN};
    struct iocb poll_one = {.aio_data = 81, .aio_lio_opcode = 5, .aio_fildes = event, .aio_buf = POLLIN};
    list[0] = &poll_one;
    TRY(submit(context, 1, list));
    TRY(take(context, 0, 8, events, &now));
    count = 3;
    write(event, &count, 8);
    TRY(take(context, 1, 8, events, 0));
    printf("%lld %lld\n", events[0].data, events[0].res & POLLIN);
    TRY(syscall(SYS_io_cancel, context, &read_one, events));
    TRY(syscall(SYS_io_destroy, other));
    TRY(syscall(SYS_io_destroy, other));
    TRY(syscall(SYS_io_destroy, 8));
    printf("%d\n", probe((char *)other, 0));
    fflush(stdout);
    if (!fork()) {
        list[0] = &read_one;
        TRY(submit(context, 1, list));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    TRY(syscall(SYS_io_destroy, context));
    unlink("file");
}
