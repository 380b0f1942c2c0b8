/* Paths of a sysroot: links are what is removed, renamed and read; new files go beside old ones. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *state(const char *path) {
    struct stat status;
    if (lstat(path, &status)) return strerror(errno);
    return S_ISLNK(status.st_mode) ? "link" : S_ISDIR(status.st_mode) ? "folder" : "file";
}

/* openat2(2), which the C library does not know. */
static int open_how(int folder, const char *path, unsigned long flags, unsigned long resolve) {
    unsigned long how[3] = {flags, 0, resolve};
    int file = syscall(437, folder, path, how, sizeof how);
    return file >= 0 ? 0 : -errno;
}

static char place[2][300];
static const char *in(const char *folder, int which, const char *name) {
    snprintf(place[which], sizeof place[which], "%s/%s", folder, name);
    return place[which];
}

/* What is in a folder of the host, by absolute paths that the sysroot is asked for first. */
static int on_the_host(const char *folder) {
    char text[300];
    struct stat status;
    struct timespec times[2] = {{5, 0}, {7, 0}};
    printf("folder %d again %d %s\n", mkdir(in(folder, 0, "new"), 0755), mkdir(in(folder, 0, "new"), 0755), strerror(errno));
    int file = open(in(folder, 0, "new/file"), O_CREAT | O_EXCL | O_WRONLY, 0600);
    printf("file %d %zd again %d %s\n", file > 0, write(file, "12345", 5),
           open(in(folder, 0, "new/file"), O_CREAT | O_EXCL | O_WRONLY, 0600), strerror(errno));
    printf("open %d none %d %s\n", open(in(folder, 0, "new/file"), O_CREAT | O_RDWR, 0600) > 0,
           open(in(folder, 0, "none/file"), O_CREAT | O_RDWR, 0600), strerror(errno));
    printf("mode %d size %d", chmod(in(folder, 0, "new/file"), 0640), truncate(in(folder, 0, "new/file"), 3));
    printf(" times %d\n", utimensat(AT_FDCWD, in(folder, 0, "new/file"), times, 0));
    stat(in(folder, 0, "new/file"), &status);
    printf("%o %ld %ld\n", status.st_mode & 0777, (long)status.st_mtime == 7, (long)status.st_size);
    printf("link %d symlink %d\n", link(in(folder, 0, "new/file"), in(folder, 1, "new/second")),
           symlink("second", in(folder, 0, "new/link")));
    printf("rename %d none %d %s\n", rename(in(folder, 0, "new/second"), in(folder, 1, "new/third")),
           rename(in(folder, 0, "new/second"), in(folder, 1, "new/fourth")), strerror(errno));
    printf("link %s third %s second %s\n", state(in(folder, 0, "new/link")), state(in(folder, 1, "new/third")),
           state(in(folder, 1, "new/second")));
    printf("chmod %d %s\n", chmod(in(folder, 0, "new/link"), 0600), strerror(errno));
    /* A link that leads to nothing yet: the file is made there. */
    file = open(in(folder, 0, "new/link"), O_CREAT | O_WRONLY, 0600);
    printf("through the link %d second %s\n", file > 0, state(in(folder, 1, "new/second")));
    /* A link to what only the sysroot has: that is opened, nothing is made on the host. */
    file = open(in(folder, 0, "outside"), O_CREAT | O_RDWR, 0600);
    printf("outside %zd %.5s\n", read(file, text, 5), text);
    printf("mode of it %d", chmod(in(folder, 0, "outside"), 0604));
    stat("/only/here/file", &status);
    printf(" %o\n", status.st_mode & 0777);
    printf("chdir %d ", chdir(in(folder, 0, "new")));
    printf("%s\n", strcmp(getcwd(text, sizeof text) + strlen(text) - 4, "/new") ? "elsewhere" : "new");
    printf("chdir %d %s\n", chdir(in(folder, 0, "new/file")), strerror(errno));
    printf("remove %d %d %d %d %d\n", unlink(in(folder, 0, "new/file")), unlink(in(folder, 0, "new/link")),
           unlink(in(folder, 0, "new/third")), unlink(in(folder, 0, "new/second")), rmdir(in(folder, 0, "new")));
    printf("none %d %s\n", unlink(in(folder, 0, "new/file")), strerror(errno));
    return 0;
}

int main(int argc, char **argv) {
    char text[300] = {0};
    const char *outside = argv[1]; /* A link on the host to a file that only the sysroot has. */
    printf("rename %d\n", rename("/only/here/link", "/only/here/moved"));
    printf("moved %s file %s\n", state("/only/here/moved"), state("/only/here/file"));
    printf("unlink %d\n", unlink("/only/here/moved"));
    printf("moved %s file %s\n", state("/only/here/moved"), state("/only/here/file"));
    printf("symlink %d\n", symlink("/only/here/file", "/only/here/again"));
    readlink("/only/here/again", text, sizeof text);
    printf("again %s to %s\n", state("/only/here/again"), text);
    int file = open("/only/here/again", O_RDWR);
    printf("read %zd", read(file, text, 5));
    printf(" %.5s\n", text);
    printf("mkdir %d new %d\n", mkdir("/only/here/new", 0755), open("/only/here/new/file", O_CREAT | O_RDWR, 0644) > 0);
    printf("new %s\n", state("/only/here/new/file"));
    printf("chdir %d %s\n", chdir("/only/here"), getcwd(text, sizeof text));
    printf("up %d %s\n", chdir("/"), getcwd(text, sizeof text));
    printf("short %d %s\n", getcwd(text, 1) == NULL, strerror(errno));
    file = open(outside, O_RDONLY);
    printf("outside %d %zd\n", file > 0, read(file, text, 5));
    printf("escape %s\n", state("/only/../../../../only/here/file"));
    printf("folder as file %d %s\n", open("/only/here", O_WRONLY), strerror(errno));
    int folder = open("/only", O_PATH);
    printf("how %d link %d no links %d none %d\n", open_how(-1, "/only/here/file", O_RDONLY, 0),
           open_how(-1, "/only/here/again", O_RDONLY, 0), open_how(-1, "/only/here/again", O_RDONLY, 4),
           open_how(-1, "/only/here/none", O_RDONLY, 0));
    printf("beneath %d %d in root %d short %d\n", open_how(folder, "here/file", O_RDONLY, 8),
           open_how(folder, "/only/here/file", O_RDONLY, 8), open_how(folder, "/here/file", O_RDONLY, 16),
           (int)syscall(437, -1, "/only/here/file", text, 8));
    printf("flags %d create %d\n", open_how(-1, "/only/here/file", 1L << 40, 0),
           open_how(-1, "/only/here/made", O_CREAT | O_RDWR, 0));
    printf("made %s\n", state("/only/here/made"));
    return argc > 2 ? on_the_host(argv[2]) : 0;
}
