/* /proc: what it tells a program of itself, of its threads and of its relatives, by whatever name. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static char *self;
static volatile int variable = 1234;
int main(int count, char **arguments);

static char *whole(const char *path) {
    static char text[1 << 20];
    int file = open(path, O_RDONLY), size = 0;
    ssize_t got;
    while (file >= 0 && (got = read(file, text + size, 1000)) > 0)
        size += got;
    text[size] = 0;
    close(file);
    return text;
}

/* The line of *path* (maps or smaps) that holds *address*: what it allows, and its name. */
static const char *mapping(const char *path, const volatile void *address) {
    static char found[256];
    char letters[8], name[256];
    unsigned long start, end;
    char *line = strtok(whole(path), "\n");
    for (; line; line = strtok(NULL, "\n")) {
        name[0] = 0;
        if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %255[^\n]", &start, &end, letters, name) >= 3 &&
            start <= (unsigned long)address && (unsigned long)address < end) {
            char *last = strrchr(name, '/');
            snprintf(found, sizeof found, "%s %s", letters, last ? last + 1 : name);
            return found;
        }
    }
    return "none";
}

static void mappings(const char *prefix) {
    char path[128];
    const char *files[] = {"maps", "smaps"};
    for (int index = 0; index < 2; index++) {
        snprintf(path, sizeof path, "%s/%s", prefix, files[index]);
        printf(" %s: code %s", files[index], mapping(path, main));
        printf(", data %s", mapping(path, &variable));
        printf(", stack %s\n", mapping(path, path));
    }
}

static const char *field(const char *path, const char *key) {
    static char value[256];
    char *place = strstr(whole(path), key);
    if (!place || sscanf(place + strlen(key), " %255[^\n]", value) != 1)
        return "none";
    return value;
}

static int tasks(const char *path) {
    DIR *folder = opendir(path);
    int found = 0;
    struct dirent *entry;
    while (folder && (entry = readdir(folder)))
        found += entry->d_name[0] != '.';
    if (folder)
        closedir(folder);
    return found;
}

static void names(void) {
    char target[4096] = "", own[4096];
    struct stat by_name, by_link;
    readlink("/proc/self/exe", own, sizeof own);
    printf("exe: %s\n", strrchr(own, '/') + 1);
    stat("/proc/self/exe", &by_link);
    stat(own, &by_name);
    printf("the file itself: %d\n", by_link.st_ino == by_name.st_ino && by_link.st_size == by_name.st_size);
    lstat("/proc/self/exe", &by_link);
    printf("a link: %d\n", S_ISLNK(by_link.st_mode));
    printf("to be written: %s\n", open("/proc/self/exe", O_RDWR) < 0 ? strerrorname_np(errno) : "open");
    printf("not followed: %s\n", open("/proc/self/exe", O_RDONLY | O_NOFOLLOW) < 0 ? strerrorname_np(errno) : "open");
    symlink("/proc/self/exe", "link-exe");
    symlink("/proc/self/exe", "other");
    symlink("link-exe", "chain-exe");
    const char *paths[] = {"/proc/self/exe", "/proc/thread-self/exe", "/proc//self/./exe", "link-exe", "chain-exe",
                           "other", "/proc/self/task/../exe", "/proc/self/cwd/link-exe", "/proc/self/root/proc/self/exe"};
    for (int index = 0; index < sizeof paths / sizeof *paths; index++) {
        char head[5] = "";
        int file = open(paths[index], O_RDONLY);
        struct stat details;
        fstat(file, &details);
        printf("%s: %d\n", paths[index], details.st_ino == by_name.st_ino);
        close(file);
    }
    /* What is not the link, but is called so. */
    close(open("plain-exe", O_CREAT | O_WRONLY, 0600));
    printf("plain: %zd\n", readlink("plain-exe", target, 10));
    printf("absent: %d\n", open("absent-exe", O_RDONLY));
    printf("cut: %zd %.5s\n", readlink("/proc/self/exe", target, 5), target);
    int result = readlink("/proc/self/exe", target, 0);
    printf("no room: %d %s\n", result, strerrorname_np(errno));
    /* Maps by many names: one content. */
    char pid[64], task[64];
    snprintf(pid, sizeof pid, "/proc/%d/maps", getpid());
    snprintf(task, sizeof task, "/proc/self/task/%d/maps", (int)syscall(SYS_gettid));
    symlink("/proc/self/maps", "mine");
    const char *ways[] = {"/proc/self/maps", pid, task, "/proc/thread-self/maps", "//proc/self/../self/maps", "mine"};
    for (int index = 0; index < 6; index++)
        printf("way %d: %s\n", index, mapping(ways[index], main));
    chdir("/proc/self");
    printf("from within: %s\n", mapping("maps", main));
    int folder = open("/proc", O_RDONLY | O_DIRECTORY);
    int below = openat(folder, "self/maps", O_RDONLY);
    snprintf(target, sizeof target, "/proc/self/fd/%d", below);
    printf("by a descriptor: %s\n", mapping(target, main));
    int copied = dup(below), third = fcntl(below, F_DUPFD, 50);
    dup2(below, 60);
    for (int index = 0; index < 3; index++) {
        int file = (int[]){copied, third, 60}[index];
        char text[32] = "";
        pread(file, text, 8, 0);
        printf("copy %d: %d\n", index, strlen(text) == 8 && !strchr(text, '7'));
    }
    chdir("/");
}

static void reading(void) {
    char one[4096] = "", two[4096] = "", three[100];
    struct stat details;
    struct statfs system;
    int file = open("/proc/self/maps", O_RDONLY);
    fstat(file, &details);
    fstatfs(file, &system);
    printf("maps: size %ld, mode %o, system %lx\n", (long)details.st_size, details.st_mode, (long)system.f_type);
    int size = read(file, one, 100);
    size += read(file, one + 100, 57);
    printf("read %d at %ld\n", size, (long)lseek(file, 0, SEEK_CUR));
    lseek(file, 0, SEEK_SET);
    size = read(file, two, 157);
    printf("again %d the same %d\n", size, !memcmp(one, two, 157));
    pread(file, three, 50, 20);
    printf("pread %d, still at %ld\n", !memcmp(three, one + 20, 50), (long)lseek(file, 0, SEEK_CUR));
    struct iovec parts[3] = {{three, 10}, {two, 0}, {two, 30}};
    lseek(file, 0, SEEK_SET);
    size = readv(file, parts, 3);
    printf("readv %d %d\n", size, !memcmp(three, one, 10) && !memcmp(two, one + 10, 30));
    size = preadv(file, parts, 3, 5);
    printf("preadv %d %d\n", size, !memcmp(three, one + 5, 10));
    printf("at the end %zd\n", pread(file, three, 10, 1 << 20));
    size = read(file, (void *)16, 100);
    printf("a bad place %d %s\n", size, strerrorname_np(errno));
    size = pread(file, three, 10, -1);
    printf("before the start %d %s\n", size, strerrorname_np(errno));
    int child = fork();
    if (child == 0) {
        /* The position is one, and the file still tells of the parent. */
        lseek(file, 33, SEEK_SET);
        _exit(0);
    }
    waitpid(child, 0, 0);
    printf("moved by a child: %ld\n", (long)lseek(file, 0, SEEK_CUR));
    int out = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    lseek(file, 0, SEEK_SET);
    sendfile(out, file, NULL, 157);
    memset(two, 0, sizeof two);
    pread(out, two, 157, 0);
    printf("sendfile: %d\n", !memcmp(one, two, 157));
    size = write(file, "x", 1);
    printf("write: %d %s\n", size, strerrorname_np(errno));
    close(file);
    file = open("/proc/self/stat", O_RDONLY);
    printf("for writing: %s\n", open("/proc/self/maps", O_WRONLY) < 0 ? strerrorname_np(errno) : "open");
    close(file);
    /* The number is another file's now. */
    file = open("/dev/zero", O_RDONLY);
    size = read(file, three, 3);
    printf("the number again: %d %d\n", size, three[0]);
    close(file);
}

static void memory(void) {
    int file = open("/proc/self/mem", O_RDWR), value = 0;
    int size = pread(file, &value, 4, (off_t)&variable);
    printf("mem: %d %d\n", size, value);
    value = 77;
    size = pwrite(file, &value, 4, (off_t)&variable);
    printf("%d %d\n", size, variable);
    lseek(file, (off_t)&variable, SEEK_SET);
    printf("%zd", read(file, &value, 4));
    printf(" %d\n", lseek(file, 0, SEEK_CUR) == (off_t)&variable + 4);
    size = pread(file, &value, 4, 4096);
    printf("nothing there: %d %s\n", size, strerrorname_np(errno));
    size = pwrite(file, &value, 4, 4096);
    printf("nothing there: %d %s\n", size, strerrorname_np(errno));
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), text[8192];
    munmap(pages + 4096, 4096);
    printf("half: %zd\n", pread(file, text, 8192, (off_t)pages));
    close(file);
    uint64_t entries[2];
    pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pages[4096] = 1;
    file = open("/proc/self/pagemap", O_RDONLY);
    pread(file, entries, 16, (uintptr_t)pages / 4096 * 8);
    printf("pagemap: %d %d\n", (int)(entries[0] >> 63), (int)(entries[1] >> 63));
    close(file);
}

static int release[2];
static void *wait_here(void *unused) {
    char byte;
    prctl(PR_SET_NAME, "waiting");
    read(release[0], &byte, 1);
    return 0;
}

static void handler(int number) {}

static void states(void) {
    pthread_t threads[2];
    pipe(release);
    printf("threads: %s, tasks %d\n", field("/proc/self/status", "Threads:"), tasks("/proc/self/task"));
    pthread_create(&threads[0], 0, wait_here, 0);
    pthread_create(&threads[1], 0, wait_here, 0);
    usleep(100000);
    printf("threads: %s, tasks %d\n", field("/proc/self/status", "Threads:"), tasks("/proc/self/task"));
    DIR *folder = opendir("/proc/self/task");
    struct dirent *entry;
    int waiting = 0;
    while ((entry = readdir(folder))) {
        char path[300];
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        waiting += entry->d_name[0] != '.' && !strcmp(whole(path), "waiting\n");
    }
    closedir(folder);
    printf("waiting: %d\n", waiting);
    write(release[1], "xx", 2);
    pthread_join(threads[0], 0);
    pthread_join(threads[1], 0);
    signal(SIGUSR1, handler);
    signal(SIGRTMAX, handler);
    signal(SIGUSR2, SIG_IGN);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGRTMAX);
    sigprocmask(SIG_BLOCK, &mask, 0);
    raise(SIGTERM);
    char masks[5][64];
    const char *keys[] = {"SigBlk:", "SigIgn:", "SigPnd:"};
    for (int index = 0; index < 3; index++)
        printf("%s %s\n", keys[index], field("/proc/self/status", keys[index]));
    /* The C library may catch signals of its own. */
    printf("SigCgt: %llx\n", strtoull(field("/proc/self/status", "SigCgt:"), 0, 16) & ~0x180000000ull);
    signal(SIGTERM, SIG_IGN);
    sigprocmask(SIG_UNBLOCK, &mask, 0);
    prctl(PR_SET_NAME, "a name) with (");
    char *stat = whole("/proc/self/stat");
    printf("stat: %.*s\n", (int)(strrchr(stat, ')') - strchr(stat, '(') + 1), strchr(stat, '('));
    unsigned long long numbers[53];
    char *rest = strrchr(stat, ')') + 4;
    for (int index = 4; index < 53; index++)
        numbers[index] = strtoull(rest, &rest, 10);
    printf("parent %d, threads %llu, code %d, arguments %d, brk %d, size %d\n", numbers[4] == getppid(), numbers[20],
           numbers[26] <= (uintptr_t)main && (uintptr_t)main < numbers[27],
           numbers[48] <= (uintptr_t)self && (uintptr_t)self < numbers[49], numbers[47] <= (uintptr_t)sbrk(0),
           numbers[23] < 64 << 20);
    long before = atol(field("/proc/self/status", "VmSize:")), data = atol(field("/proc/self/status", "VmData:"));
    long resident = atol(field("/proc/self/status", "VmRSS:"));
    char *pages = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 1, 4 << 20);
    printf("grown by %ld and %ld\n", atol(field("/proc/self/status", "VmSize:")) - before,
           atol(field("/proc/self/status", "VmData:")) - data);
    long more = atol(field("/proc/self/status", "VmRSS:")) - resident;
    printf("there %d\n", more >= 4096 && more < 4500);
    printf("rollup %d\n", strstr(whole("/proc/self/smaps_rollup"), "[rollup]") != NULL);
}

static void relatives(char **arguments) {
    char path[64];
    int pipes[2];
    pipe(pipes);
    strcpy(arguments[0], "TITLE");
    prctl(PR_SET_NAME, "parent");
    fflush(stdout);
    if (fork() == 0) {
        prctl(PR_SET_NAME, "child");
        snprintf(path, sizeof path, "/proc/%d", getppid());
        mappings(path);
        const char *files[] = {"cmdline", "comm"};
        for (int index = 0; index < 2; index++) {
            snprintf(path, sizeof path, "/proc/%d/%s", getppid(), files[index]);
            printf(" %s: %s\n", files[index], strtok(whole(path), "\n"));
        }
        snprintf(path, sizeof path, "/proc/%d/status", getppid());
        printf(" status: %s", field(path, "Name:"));
        printf(", %d", atol(field(path, "VmSize:")) < 65536);
        printf(", %s\n", field(path, "Threads:"));
        snprintf(path, sizeof path, "/proc/%d/task", getppid());
        printf(" tasks: %d\n", tasks(path));
        char target[4096] = "", own[4096] = "";
        snprintf(path, sizeof path, "/proc/%d/exe", getppid());
        readlink(path, target, sizeof target);
        readlink("/proc/self/exe", own, sizeof own);
        printf(" exe: %d\n", !strcmp(own, target));
        struct stat one, two;
        stat(path, &one), stat(own, &two);
        printf(" its file: %d\n", one.st_ino == two.st_ino);
        variable = 5;
        int value = 0;
        snprintf(path, sizeof path, "/proc/%d/mem", getppid());
        pread(open(path, O_RDONLY), &value, 4, (off_t)&variable);
        printf(" mem: %d\n", value);
        struct iovec here = {&value, 4}, there = {(void *)&variable, 4};
        printf(" process_vm_readv: %zd", process_vm_readv(getppid(), &here, 1, &there, 1, 0));
        printf(" %d\n", value);
        value = 99;
        printf(" process_vm_writev: %zd\n", process_vm_writev(getppid(), &here, 1, &there, 1, 0));
        there.iov_base = (void *)64;
        printf(" nothing there: %zd", process_vm_readv(getppid(), &here, 1, &there, 1, 0));
        printf(" %s\n", strerrorname_np(errno));
        printf(" flags: %zd", process_vm_readv(getppid(), &here, 1, &there, 1, 1));
        printf(" %s\n", strerrorname_np(errno));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    printf("written by the child: %d\n", variable);
    /* A relative that runs a program of the host. */
    int child = fork();
    if (child == 0) {
        execl("/bin/sleep", "sleep", "5", NULL);
        _exit(1);
    }
    usleep(200000);
    snprintf(path, sizeof path, "/proc/%d/cmdline", child);
    printf("a program of the host: %s\n", whole(path));
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    printf("it has maps: %d\n", strlen(whole(path)) > 100);
    kill(child, SIGKILL);
    wait(0);
    int nobody = open("/proc/999999/maps", O_RDONLY);
    printf("nobody: %d %s\n", nobody, strerrorname_np(errno));
}

int main(int count, char **arguments) {
    self = arguments[0];
    printf("self\n");
    mappings("/proc/self");
    names();
    reading();
    memory();
    states();
    printf("parent\n");
    relatives(arguments);
    return 0;
}
