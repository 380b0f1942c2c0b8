/* Files and directories: what is printed must be the same on every kernel. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static int by_name(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

int main(void) {
    char folder[] = "/tmp/tandemu-files-XXXXXX";
    if (!mkdtemp(folder) || chdir(folder)) return 1;
    int fd = open("one", O_RDWR | O_CREAT | O_EXCL, 0640);
    printf("write %zd\n", write(fd, "hello, world\n", 13));
    printf("again %d %s\n", open("one", O_CREAT | O_EXCL, 0600), strerror(errno));
    struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
    printf("writev %zd\n", writev(fd, parts, 2));
    struct stat st;
    printf("fstat %d size %ld mode %o nlink %ld blksize %d\n", fstat(fd, &st), (long)st.st_size,
           st.st_mode, (long)st.st_nlink, (int)st.st_blksize);
    printf("link %d symlink %d rename %d\n", link("one", "two"), symlink("two", "sym"),
           rename("two", "three"));
    printf("stat sym %d %s\n", stat("sym", &st), strerror(errno));
    printf("lstat sym %d %o %ld\n", lstat("sym", &st), st.st_mode & S_IFMT, (long)st.st_size);
    struct statx sx;
    printf("statx %d size %ld\n", statx(AT_FDCWD, "three", 0, STATX_ALL, &sx), (long)sx.stx_size);
    char text[64] = {0};
    printf("readlink %zd %s\n", readlink("sym", text, sizeof text), text);
    printf("chmod %d access %d\n", chmod("one", 0400), access("missing", R_OK));
    struct timespec times[2] = {{1000, 5}, {2000, 6}};
    utimensat(AT_FDCWD, "one", times, 0);
    stat("one", &st);
    printf("times %ld.%ld %ld.%ld\n", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec,
           (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    mkdir("sub", 0755);
    DIR *dir = opendir(".");
    char *names[16];
    int count = 0;
    for (struct dirent *e; (e = readdir(dir)) && count < 16;) names[count++] = strdup(e->d_name);
    closedir(dir);
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) printf("entry %s\n", names[i]);
    int out = open("copy", O_RDWR | O_CREAT, 0600);
    lseek(fd, 0, SEEK_SET);
    printf("sendfile %zd\n", sendfile(out, fd, NULL, 100));
    off_t from = 0;
    printf("copy_file_range %zd\n", copy_file_range(fd, &from, out, NULL, 5, 0));
    printf("pread %zd %.4s\n", pread(out, text, 4, 7), text);
    printf("truncate %d seek %ld\n", ftruncate(out, 3), (long)lseek(out, 0, SEEK_END));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    printf("lock %d flock %d\n", fcntl(out, F_SETLK, &lock), flock(out, LOCK_EX));
    int copy = fcntl(out, F_DUPFD_CLOEXEC, 50);
    printf("dup %d flags %d\n", copy, fcntl(copy, F_GETFD));
    struct termios t;
    printf("tcgetattr %d %s\n", tcgetattr(out, &t), strerror(errno));
    int available = -1, ends[2];
    pipe2(ends, O_NONBLOCK);
    write(ends[1], "xyz", 3);
    printf("fionread %d %d\n", ioctl(ends[0], FIONREAD, &available), available);
    printf("unlink %d %d %d %d\n", unlink("one"), unlink("three"), unlink("sym"), unlink("copy"));
    printf("rmdir %d %d\n", rmdir("sub"), rmdir(folder));
    printf("bad pointers: %zd %s\n", write(1, (void *)0x10, 5), strerror(errno));
    printf("%zd ", read(ends[0], (void *)0x3ffffffff0, 3)), printf("%s\n", strerror(errno));
    printf("%d ", open((char *)-1, O_RDONLY)), printf("%s\n", strerror(errno));
    printf("%d ", stat("/", (struct stat *)8)), printf("%s\n", strerror(errno));
    printf("%d ", fstat(0, (struct stat *)0x7ffffffff000)), printf("%s\n", strerror(errno));
    return 42;
}
