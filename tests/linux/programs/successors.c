/* execve and execveat: from threads, by descriptors, of what is gone, of what cannot be run. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *line_of(const char *path, const char *key) {
    static char line[256];
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key))) {
            fclose(file);
            line[strcspn(line, "\n")] = 0;
            return line;
        }
    return "none";
}

static int copy(const char *name, const char *head) {
    char block[65536];
    ssize_t size;
    int to = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0755), from = open("/proc/self/exe", O_RDONLY);
    if (head)
        write(to, head, strlen(head));
    else
        while ((size = read(from, block, sizeof block)) > 0)
            write(to, block, size);
    close(from);
    close(to);
    return 0;
}

/* What the new program says of itself. */
static int second(int count, char **arguments) {
    char name[16];
    sigset_t mask;
    prctl(PR_GET_NAME, name);
    sigprocmask(SIG_BLOCK, 0, &mask);
    struct sigaction first, other;
    sigaction(SIGUSR1, 0, &first);
    sigaction(SIGUSR2, 0, &other);
    printf("  %s: called %s, %d arguments, alone %d, %s, blocked %d, USR1 %d USR2 %d, X %s\n", arguments[1], name,
           count, getpid() == syscall(SYS_gettid), line_of("/proc/self/status", "Threads:"),
           sigismember(&mask, SIGTERM), first.sa_handler != SIG_DFL, other.sa_handler == SIG_IGN,
           getenv("X") ? getenv("X") : "unset");
    fflush(stdout);
    return 5;
}

static void *wait_for_ever(void *unused) {
    pause();
    return 0;
}
static void *compute(void *unused) {
    for (volatile int turn = 0;; turn++)
        ;
}
static char *next[] = {"next", "second", "thread", 0}, *environment[] = {"X=1", "PYTHONHOME=/nowhere", 0};
static void *start_next(void *unused) {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &mask, 0);
    execve("/proc/self/exe", next, environment);
    return 0;
}
static void *end_later(void *unused) {
    usleep(50000);
    execve("later", next, environment);
    return 0;
}
static void handler(int number) {}

/* Run *body* in a child; say how it ended. */
static void in_child(const char *what, void (*body)(void)) {
    int status;
    printf("%s\n", what);
    fflush(stdout);
    int child = fork();
    if (child == 0) {
        alarm(30);
        body();
        printf("  failed: %s\n", strerrorname_np(errno));
        fflush(stdout);
        _exit(1);
    }
    waitpid(child, &status, 0);
    printf("  status %x\n", status);
}

static void from_thread(void) {
    pthread_t thread;
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    pthread_create(&thread, 0, wait_for_ever, 0);
    pthread_create(&thread, 0, compute, 0);
    pthread_create(&thread, 0, start_next, 0);
    pthread_join(thread, 0);
}
static void from_main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, wait_for_ever, 0);
    pthread_create(&thread, 0, compute, 0);
    execve("/proc/self/exe", next, environment);
}
static void after_main(void) {
    pthread_t thread;
    copy("later", 0);
    pthread_create(&thread, 0, end_later, 0);
    pthread_exit(0);
}
static void gone(void) {
    copy("gone", 0);
    int file = open("gone", O_PATH);
    unlink("gone");
    syscall(SYS_execveat, file, "", next, environment, AT_EMPTY_PATH);
}
static void closing(void) {
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    syscall(SYS_execveat, file, "", next, environment, AT_EMPTY_PATH);
}
static void relative(void) {
    mkdir("folder", 0755);
    copy("folder/file", 0);
    int folder = open("folder", O_RDONLY | O_DIRECTORY);
    syscall(SYS_execveat, folder, "file", next, environment, 0);
}
static void script(void) {
    copy("target", 0);
    copy("script", "#!./target second \n");
    execve("./script", next, environment);
}
static void scripts(void) {
    char name[8], text[32];
    copy("s0", "#!./target second\n");
    for (int index = 1; index < 8; index++) {
        sprintf(name, "s%d", index);
        sprintf(text, "#!./s%d\n", index - 1);
        copy(name, text);
    }
    for (int index = 7; index >= 0; index--) {
        sprintf(name, "./s%d", index);
        fflush(stdout);
        execve(name, next, environment);
        printf("  %s %s\n", name, strerrorname_np(errno));
    }
}
static void descriptor_script(void) {
    int file = open("script", O_RDONLY | O_CLOEXEC);
    syscall(SYS_execveat, file, "", next, environment, AT_EMPTY_PATH);
    printf("  closing %s\n", strerrorname_np(errno));
    fflush(stdout);
    file = open("script", O_RDONLY);
    syscall(SYS_execveat, file, "", next, environment, AT_EMPTY_PATH);
}
static void no_arguments(void) {
    char *none[] = {0};
    copy("none", 0);
    execve("./none", none, none);
}
static void at_limit(void) {
    struct rlimit limit = {10, 10};
    setrlimit(RLIMIT_NOFILE, &limit);
    while (open("/dev/null", O_RDONLY) >= 0)
        ;
    execve("/proc/self/exe", next, environment);
}
static void closed_ones(void) {
    fcntl(100, F_DUPFD, 100);
    dup2(1, 100);
    fcntl(100, F_SETFD, FD_CLOEXEC);
    char *list[] = {"next", "list", 0};
    execve("/proc/self/exe", list, environment);
}

static void refuse(const char *what, int directory, const char *path, int flags) {
    fflush(stdout);
    int child = fork();
    if (child == 0) {
        syscall(SYS_execveat, directory, path, next, environment, flags);
        printf("%s: %s\n", what, strerrorname_np(errno));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, 0, 0);
}

/* A parent puts its child into a group; not once that has started a program. */
static void groups(void) {
    int pipes[2], ends[2], status;
    char byte;
    for (int starts = 0; starts < 2; starts++) {
        pipe2(pipes, O_CLOEXEC);
        pipe(ends);
        fflush(stdout);
        int child = fork();
        if (child == 0) {
            char *list[] = {"next", "wait", 0};
            dup2(ends[0], 0);
            close(ends[1]);
            if (starts)
                execve("/proc/self/exe", list, environment);
            close(pipes[0]);
            close(pipes[1]);
            read(0, &byte, 1);
            _exit(0);
        }
        close(pipes[1]);
        read(pipes[0], &byte, 1);
        int done = setpgid(child, child);
        printf("  starts %d: %s", starts, done ? strerrorname_np(errno) : "moved");
        done = setpgid(child, -5);
        printf(", %s\n", done ? strerrorname_np(errno) : "moved");
        write(ends[1], "x", 1);
        waitpid(child, &status, 0);
        done = setpgid(child, child);
        printf("  gone: %s\n", done ? strerrorname_np(errno) : "moved");
    }
    fflush(stdout);
    _exit(0);
}

int main(int count, char **arguments) {
    char byte;
    if (count > 1 && !strcmp(arguments[1], "wait"))
        return read(0, &byte, 1) < 0;
    if (count == 0) {
        puts("  without arguments");
        return 6;
    }
    if (count == 1 && !arguments[0][0]) {
        puts("  with an empty one");
        return 6;
    }
    if (count > 1 && !strcmp(arguments[1], "list"))
        return printf("  closed %d\n", fcntl(100, F_GETFD)) < 0;
    if (count > 1)
        return second(count, arguments);
    in_child("from a thread", from_thread);
    in_child("from the main thread", from_main);
    in_child("after the main thread", after_main);
    in_child("a file that is gone", gone);
    in_child("by a descriptor that closes", closing);
    in_child("relative to a folder", relative);
    in_child("a script", script);
    in_child("scripts of scripts", scripts);
    in_child("a script by descriptor", descriptor_script);
    in_child("without arguments", no_arguments);
    in_child("with no free descriptor", at_limit);
    in_child("descriptors that close", closed_ones);
    copy("plain", 0);
    chmod("plain", 0644);
    symlink("target", "link");
    mkfifo("pipe", 0777);
    copy("text", "text\n");
    copy("empty", "");
    copy("blank", "#!   \n");
    copy("absent", "#!/nowhere/interpreter\n");
    refuse("no permission", AT_FDCWD, "plain", 0);
    refuse("a folder", AT_FDCWD, "folder", 0);
    refuse("a pipe", AT_FDCWD, "pipe", 0);
    refuse("a device", AT_FDCWD, "/dev/null", 0);
    refuse("nothing", AT_FDCWD, "nothing", 0);
    refuse("below a file", AT_FDCWD, "text/x", 0);
    refuse("text", AT_FDCWD, "text", 0);
    refuse("an empty file", AT_FDCWD, "empty", 0);
    refuse("an empty interpreter", AT_FDCWD, "blank", 0);
    refuse("an absent interpreter", AT_FDCWD, "absent", 0);
    refuse("a link, not followed", AT_FDCWD, "link", AT_SYMLINK_NOFOLLOW);
    refuse("unknown flags", AT_FDCWD, "target", 0x4000);
    refuse("no path", AT_FDCWD, "", 0);
    refuse("an empty path", AT_FDCWD, "", AT_EMPTY_PATH);
    refuse("no descriptor", 77, "target", 0);
    refuse("no descriptor, empty path", 77, "", AT_EMPTY_PATH);
    refuse("below a descriptor of a file", open("text", O_RDONLY), "x", 0);
    refuse("a path from nowhere", AT_FDCWD, (void *)16, 0);
    int writer = open("target", O_WRONLY);
    refuse("what is being written", AT_FDCWD, "target", 0);
    close(writer);
    refuse("it, written", AT_FDCWD, "target/", 0);
    in_child("the same, written", script);
    in_child("groups", groups);
    return 0;
}
