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
    return 0;
}
