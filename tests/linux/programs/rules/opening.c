#include "rules.h"
#include <linux/openat2.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

static long open2(int folder, const char *path, long flags, long mode, long resolve) {
    struct open_how how = {flags, mode, resolve};
    return syscall(SYS_openat2, folder, path, &how, sizeof how);
}
static int opened(long fd) {
    if (fd < 0) return -1;
    close(fd);
    return 0;
}
#define OPEN(...) (errno = 0, say("open2 " #__VA_ARGS__, opened(open2(__VA_ARGS__))))

static void opening(void) {
    mkdir("folder", 0700);
    symlink("folder", "link");
    symlink("/etc/passwd", "absolute");
    symlink("loop", "loop");
    close(open("folder/file", O_CREAT | O_WRONLY, 0640));
    int here = open(".", O_PATH), folder = open("folder", O_RDONLY), file = open("folder/file", O_RDONLY);
    char self[64];
    OPEN(here, "folder/file", O_RDONLY, 0, 0);
    OPEN(here, "folder/file", O_RDONLY, 0600, 0);
    OPEN(here, "folder/file", 1L << 40, 0, 0);
    OPEN(here, "new", O_CREAT | O_RDWR, 0600, 0);
    OPEN(here, "new", O_CREAT | O_EXCL | O_RDWR, 0600, 0);
    OPEN(here, "new", O_CREAT | O_RDWR, 010000, 0);
    OPEN(here, "link/file", O_RDONLY, 0, RESOLVE_NO_SYMLINKS);
    OPEN(here, "link", O_RDONLY, 0, RESOLVE_NO_SYMLINKS);
    OPEN(here, "link", O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS);
    OPEN(here, "loop", O_RDONLY, 0, 0);
    OPEN(folder, "../new", O_RDONLY, 0, RESOLVE_BENEATH);
    OPEN(folder, "../new", O_RDONLY, 0, RESOLVE_IN_ROOT);
    OPEN(folder, "../file", O_RDONLY, 0, RESOLVE_IN_ROOT);
    OPEN(folder, "/file", O_RDONLY, 0, RESOLVE_IN_ROOT);
    OPEN(here, "absolute", O_RDONLY, 0, RESOLVE_BENEATH);
    OPEN(here, "absolute", O_RDONLY, 0, RESOLVE_NO_XDEV);
    OPEN(here, "/etc/passwd", O_RDONLY, 0, RESOLVE_BENEATH);
    OPEN(here, "/proc/self/exe", O_RDONLY, 0, 0);
    OPEN(here, "/proc/self/fd/0", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS);
    OPEN(here, "/proc/self/cwd", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS);
    OPEN(here, "/proc/self/maps", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS);
    OPEN(here, "folder/file", O_RDONLY, 0, RESOLVE_CACHED);
    OPEN(here, "folder/file", O_RDONLY, 0, 0x100);
    OPEN(here, "folder/file", O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT);
    OPEN(99, "folder/file", O_RDONLY, 0, 0);
    OPEN(file, "file", O_RDONLY, 0, 0);
    OPEN(here, "", O_RDONLY, 0, 0);
    OPEN(here, (char *)8, O_RDONLY, 0, 0);
    struct open_how how = {O_RDONLY};
    struct { struct open_how how; long more; } longer = {{O_RDONLY}, 0}, wrong = {{O_RDONLY}, 1};
    TRY(opened(syscall(SYS_openat2, here, "new", &how, 8)));
    TRY(opened(syscall(SYS_openat2, here, "new", &how, 0)));
    TRY(opened(syscall(SYS_openat2, here, "new", 8, sizeof how)));
    TRY(opened(syscall(SYS_openat2, here, "new", &longer, sizeof longer)));
    TRY(opened(syscall(SYS_openat2, here, "new", &wrong, sizeof wrong)));
    TRY(opened(syscall(SYS_openat2, here, "new", &how, 8192)));
    TRY(opened(open("folder", O_RDWR)));
    TRY(opened(open("new", O_DIRECTORY)));
    TRY(opened(open("new/", O_RDONLY)));
    TRY(opened(open("new/file", O_RDONLY)));
    TRY(opened(open("link", O_NOFOLLOW)));
    TRY(opened(open("folder", O_TMPFILE | O_RDWR, 0600)));
    TRY(opened(open("folder", O_TMPFILE | O_RDONLY, 0600)));
    TRY(opened(open("none", O_RDONLY)));
    TRY(opened(open("none/", O_CREAT | O_RDWR, 0600)));
    TRY(opened(open("/dev/tty0000", O_RDONLY)));
    char longest[5000];
    memset(longest, 'a', 4999), longest[4999] = 0;
    TRY(opened(open(longest, O_RDONLY)));
    longest[256] = 0;
    TRY(opened(open(longest, O_RDONLY)));
    TRY(opened(open((char *)-1, O_RDONLY)));
    IS((fcntl(open("new", O_RDWR | O_APPEND | O_CLOEXEC), F_GETFL) & (O_ACCMODE | O_APPEND)) == (O_RDWR | O_APPEND));
    int temporary = open(".", O_TMPFILE | O_RDWR, 0600);
    write(temporary, "temporary", 9);
    snprintf(self, sizeof self, "/proc/self/fd/%d", temporary);
    TRY(linkat(AT_FDCWD, self, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
    struct stat details;
    TRY(stat("linked", &details));
    printf("%ld %o %ld\n", (long)details.st_size, details.st_mode, (long)details.st_nlink);
    TRY(linkat(folder, "file", here, "second", 0));
    TRY(linkat(file, "", here, "third", AT_EMPTY_PATH));
    TRY(linkat(here, "folder", here, "fourth", 0));
    TRY(linkat(here, "link", here, "fifth", 0x40));
}

static void names(void) {
    struct stat details;
    struct statx extended;
    char text[256];
    int here = open(".", O_RDONLY);
    TRY(syscall(SYS_renameat2, here, "second", here, "third", RENAME_NOREPLACE));
    TRY(syscall(SYS_renameat2, here, "second", here, "folder", RENAME_EXCHANGE));
    TRY(syscall(SYS_renameat2, here, "second", here, "folder", RENAME_EXCHANGE));
    TRY(syscall(SYS_renameat2, here, "second", here, "none", RENAME_EXCHANGE));
    TRY(syscall(SYS_renameat2, here, "second", here, "third", RENAME_EXCHANGE | RENAME_NOREPLACE));
    TRY(syscall(SYS_renameat2, here, "second", here, "third", 99));
    TRY(rename("folder", "folder/inside"));
    TRY(rename("new", "folder"));
    TRY(rename("folder", "new"));
    TRY(rename("none", "other"));
    TRY(rename(".", "other"));
    TRY(unlink("folder"));
    TRY(rmdir("folder"));
    TRY(rmdir("new"));
    TRY(rmdir("."));
    TRY(unlinkat(here, "new", 0x100));
    TRY(unlinkat(here, "", 0));
    TRY(mkdir("folder", 0700));
    TRY(mkdir("new/sub", 0700));
    TRY(mkdirat(99, "sub", 0700));
    TRY(symlink("", "empty"));
    TRY(symlink("target", "new"));
    TRY(readlink("link", text, 3));
    TRY(readlink("link", text, 0));
    TRY(readlink("new", text, 9));
    TRY(readlink("link", (char *)8, 9));
    int link = open("link", O_PATH | O_NOFOLLOW);
    TRY(readlinkat(link, "", text, 100));
    TRY(fstat(link, &details));
    printf("%o\n", details.st_mode & S_IFMT);
    TRY(fchmod(link, 0600));
    TRY(read(link, text, 1));
    TRY(fstatat(here, "link", &details, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT));
    TRY(fstatat(here, "", &details, 0));
    TRY(fstatat(here, "", &details, AT_EMPTY_PATH));
    TRY(fstatat(here, "new", &details, 0x8000));
    TRY(fstatat(here, "new", (void *)8, 0));
    TRY(fstatat(99, "/etc/passwd", &details, 0));
    TRY(fstatat(99, "etc", &details, 0));
    TRY(statx(here, "new", 0, STATX_ALL, &extended));
    printf("%o %d %d\n", extended.stx_mode, extended.stx_nlink, (extended.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    TRY(statx(here, "new", 0, 0x80000000, &extended));
    TRY(statx(here, "new", 0x6000, STATX_ALL, &extended));
    TRY(statx(here, "", AT_EMPTY_PATH, STATX_MODE, &extended));
    TRY(statx(here, "none", 0, STATX_MODE, &extended));
    TRY(faccessat(here, "new", 8, 0));
    TRY(faccessat(here, "new", X_OK, 0));
    TRY(syscall(SYS_faccessat2, here, "new", R_OK, AT_EACCESS));
    TRY(syscall(SYS_faccessat2, here, "new", R_OK, 0x40000));
    TRY(syscall(SYS_faccessat2, here, "", F_OK, AT_EMPTY_PATH));
    TRY(syscall(452, here, "new", 0604, 0));
    TRY(syscall(452, here, "link", 0604, AT_SYMLINK_NOFOLLOW));
    TRY(syscall(452, here, "new", 0604, 0x10000));
    stat("new", &details);
    printf("%o\n", details.st_mode);
    TRY(mknod("fifo", S_IFIFO | 0600, 0));
    TRY(mknod("plain", 0600, 0));
    TRY(mknod("folder2", S_IFDIR | 0600, 0));
    TRY(mknod("null", S_IFCHR | 0600, makedev(1, 3)));
    stat("null", &details);
    printf("%d %d %o\n", major(details.st_rdev), minor(details.st_rdev), details.st_mode);
    TRY(truncate("new", 5000));
    TRY(truncate("new", -1));
    TRY(truncate("folder", 1));
    TRY(truncate("none", 1));
    struct timespec times[2] = {{1000, 5}, {2000, 6}}, odd[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}}, bad[2] = {{0, 2000000000}, {0, 0}};
    TRY(utimensat(here, "new", times, 0));
    TRY(utimensat(here, "new", odd, 0));
    stat("new", &details);
    printf("%ld %ld %d\n", (long)details.st_atime, details.st_atim.tv_nsec, details.st_mtime > 2000);
    TRY(utimensat(here, "new", bad, 0));
    TRY(utimensat(here, "new", times, 0x8000));
    TRY(futimens(here, times));
    TRY(setxattr("new", "user.colour", "red", 3, 0));
    TRY(setxattr("new", "user.colour", "blue", 4, XATTR_CREATE));
    TRY(setxattr("new", "user.none", "blue", 4, XATTR_REPLACE));
    TRY(getxattr("new", "user.colour", text, 256));
    TRY(getxattr("new", "user.colour", text, 2));
    TRY(getxattr("new", "user.colour", 0, 0));
    TRY(getxattr("new", "user.none", text, 256));
    TRY(setxattr("new", "strange.none", "x", 1, 0));
    TRY(listxattr("new", text, 256));
    TRY(removexattr("new", "user.colour"));
    TRY(removexattr("new", "user.colour"));
    TRY(lsetxattr("link", "user.colour", "x", 1, 0));
    struct statfs system;
    TRY(statfs("none", &system));
    TRY(statfs(".", (void *)8));
    IS(!statfs("/proc", &system) && system.f_type == 0x9fa0);
    TRY(chdir("new"));
    TRY(chdir("none"));
    TRY(fchdir(open("new", O_RDONLY)));
    TRY(fchdir(99));
    TRY(chown("new", 5, 6));
    TRY(lchown("link", 7, 8));
    TRY(fchownat(here, "", 1, 1, AT_EMPTY_PATH));
    TRY(fchownat(here, "new", 1, 1, 0x40));
    stat("new", &details);
    printf("%d %d\n", details.st_uid, details.st_gid);
    lstat("link", &details);
    printf("%d %d\n", details.st_uid, details.st_gid);
    umask(027);
    close(open("masked", O_CREAT | O_WRONLY, 0666));
    stat("masked", &details);
    printf("%o %o\n", details.st_mode, umask(0));
}

int main(void) {
    opening();
    names();
    system("rm -rf folder folder2 link absolute loop new linked second third fourth fifth empty fifo plain null masked");
}
