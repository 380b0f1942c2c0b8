/* clone, clone3 and vfork: flags, exit signals, what is shared, what is refused. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int told[65];
static void count(int number) { told[number]++; }

static void say(const char *what, long result) {
    printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "made");
}

/* riscv64 and x86-64 differ in the order of the last two arguments; both are 0 here. */
static long plain(unsigned long flags) {
    long child = syscall(SYS_clone, flags, 0, 0, 0, 0);
    if (child == 0)
        _exit(0);
    return child;
}

static void refusals(void) {
    say("SIGHAND alone", plain(CLONE_SIGHAND | SIGCHLD));
    say("THREAD alone", plain(CLONE_THREAD | SIGCHLD));
    say("THREAD and VM", plain(CLONE_THREAD | CLONE_VM | SIGCHLD));
    say("THREAD and SIGHAND", plain(CLONE_THREAD | CLONE_SIGHAND | SIGCHLD));
    say("PIDFD and PARENT_SETTID", plain(CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD));
}

static long with3(struct clone_args *arguments, size_t size) {
    fflush(stdout);
    long child = syscall(SYS_clone3, arguments, size);
    if (child == 0)
        _exit(7);
    if (child > 0) {
        int status;
        waitpid(child, &status, __WALL);
        printf("(%d) ", WEXITSTATUS(status));
    }
    return child;
}

static void clone3s(void) {
    struct clone_args usual = {.exit_signal = SIGCHLD}, other;
    char wide[8192] = "";
    int numbers[2] = {0, 0};
    say("clone3", with3(&usual, sizeof usual));
    say("of 64 bytes", with3(&usual, 64));
    say("of 63 bytes", with3(&usual, 63));
    say("of 5000 bytes", with3((void *)wide, 5000));
    memcpy(wide, &usual, sizeof usual);
    say("of 100 bytes", with3((void *)wide, 100));
    wide[99] = 1;
    say("of 100 bytes, one of them not 0", with3((void *)wide, 100));
    say("from nowhere", with3((void *)16, 64));
    other = usual, other.exit_signal = 65;
    say("signal 65", with3(&other, 64));
    other = usual, other.exit_signal = 300;
    say("signal 300", with3(&other, 64));
    other = usual, other.flags = SIGCHLD;
    say("a signal among the flags", with3(&other, 64));
    other = usual, other.flags = CLONE_DETACHED;
    say("DETACHED", with3(&other, 64));
    other = usual, other.flags = CLONE_SIGHAND | CLONE_CLEAR_SIGHAND | CLONE_VM;
    say("SIGHAND and CLEAR_SIGHAND", with3(&other, 88));
    other = usual, other.stack = (uintptr_t)wide;
    say("a stack without size", with3(&other, 64));
    other = usual, other.stack_size = 4096;
    say("a size without stack", with3(&other, 64));
    other = usual, other.flags = CLONE_PARENT;
    say("PARENT with a signal", with3(&other, 64));
    other = usual, other.set_tid = (uintptr_t)numbers;
    say("set_tid without size", with3(&other, 88));
    other = usual, other.set_tid_size = 1;
    say("size without set_tid", with3(&other, 88));
    other = usual, other.set_tid = (uintptr_t)numbers, other.set_tid_size = 33;
    say("33 numbers", with3(&other, 88));
    other = usual, other.flags = 1ull << 40;
    say("an unknown flag", with3(&other, 88));
    int descriptor = -1;
    other = usual, other.flags = CLONE_PIDFD, other.pidfd = (uintptr_t)&descriptor;
    say("PIDFD", with3(&other, 64));
    printf("its descriptor: %d\n", fcntl(descriptor, F_GETFD));
}

static void signals(void) {
    int status;
    signal(SIGUSR2, count);
    signal(SIGCHLD, count);
    const int wanted[] = {SIGUSR2, SIGCHLD, 0, SIGRTMAX};
    signal(SIGRTMAX, count);
    for (int index = 0; index < 4; index++) {
        memset((void *)told, 0, sizeof told);
        int child = plain(wanted[index]);
        siginfo_t details;
        while (waitid(P_PID, child, &details, WEXITED | WNOWAIT | __WALL) < 0)
            ;
        usleep(20000);
        errno = 0;
        int found = waitpid(child, &status, 0) == child;
        printf("exit signal %d: %d %d %d, waited for %d %s\n", wanted[index], told[SIGUSR2],
               told[SIGCHLD], told[SIGRTMAX], found, found ? "" : strerrorname_np(errno));
        if (!found)
            printf("by clone %d\n", waitpid(child, &status, __WCLONE) == child);
    }
    signal(SIGCHLD, SIG_DFL);
}

static void shared(void) {
    int status, child;
    char place[256];
    fflush(stdout);
    child = plain(0);
    waitpid(child, &status, __WALL);
    child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        int made = open("/dev/null", O_RDONLY);
        close(0);
        _exit(made);
    }
    waitpid(child, &status, 0);
    printf("FILES: %d %d\n", fcntl(WEXITSTATUS(status), F_GETFD), fcntl(0, F_GETFD));
    open("/dev/null", O_RDONLY);
    child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(open("/dev/null", O_RDONLY));
    waitpid(child, &status, 0);
    printf("no FILES: %d\n", fcntl(WEXITSTATUS(status), F_GETFD));
    umask(022);
    child = syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        umask(027);
        _exit(chdir("/usr"));
    }
    waitpid(child, &status, 0);
    printf("FS: %s %03o\n", getcwd(place, sizeof place), umask(022));
    child = plain(SIGCHLD);
    waitpid(child, &status, 0);
    /* A grandchild that is a sister's. */
    child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        int sister = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (sister == 0)
            _exit(9);
        errno = 0;
        waitpid(sister, &status, 0);
        _exit(errno == ECHILD ? 8 : 1);
    }
    int sum = 0;
    while (wait(&status) > 0)
        sum += WEXITSTATUS(status);
    printf("PARENT: %d\n", sum);
}

static volatile int global = 1;
static volatile int *heap;
static char *volatile page, *volatile gone;
static char *kept;

static void vforks(void) {
    int status, child;
    volatile int local = 1;
    heap = malloc(1 << 20);
    heap[70000] = 1;
    kept = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(kept, 'k', 4 * 4096);
    fflush(stdout);
    if ((child = vfork()) == 0) {
        global = 42, local = 43, heap[70000] = 44;
        page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        page[4096] = 7;
        kept[4096] = 'c';
        munmap(kept + 8192, 4096);
        mprotect(kept, 4096, PROT_READ);
        _exit(3);
    }
    waitpid(child, &status, 0);
    printf("vfork: %d %d %d %d %c%c %d\n", global, local, heap[70000], page[4096], kept[0], kept[4096],
           WEXITSTATUS(status));
    printf("unmapped: %d\n", msync(kept + 8192, 4096, MS_ASYNC) < 0 && errno == ENOMEM);
    int pipes[2];
    pipe(pipes);
    printf("read-only: %d\n", read(open("/dev/zero", O_RDONLY), kept, 1) < 0 && errno == EFAULT);
    fflush(stdout);
    /* A child that starts a program has given back what it wrote; one of another system, too. */
    if ((child = vfork()) == 0) {
        global = 50;
        execl("/bin/sh", "sh", "-c", "exit 4", NULL);
        _exit(99);
    }
    int then = global;
    waitpid(child, &status, 0);
    printf("before exec: %d %d\n", then, WEXITSTATUS(status));
    if ((child = vfork()) == 0) {
        execl("/nowhere", "nowhere", NULL);
        global = errno;
        _exit(5);
    }
    then = global;
    waitpid(child, &status, 0);
    printf("no program: %s %d\n", strerrorname_np(then), WEXITSTATUS(status));
    if ((child = vfork()) == 0) {
        global = 60;
        raise(SIGKILL);
    }
    waitpid(child, &status, 0);
    printf("killed: %d\n", WTERMSIG(status));
    /* Within a child. */
    if ((child = vfork()) == 0) {
        int second = vfork();
        if (second == 0) {
            global = 70;
            _exit(1);
        }
        global += 1;
        _exit(2);
    }
    waitpid(child, &status, 0);
    printf("nested: %d\n", global);
}

static volatile int stop, turns;
static void *work(void *unused) {
    while (!stop)
        turns++;
    return 0;
}

static volatile int words[1024 * 8];
static void *write_words(void *unused) {
    while (!stop)
        for (int index = 0; index < 1024 * 8; index += 2)
            words[index]++;
    return 0;
}

static void beside_threads(void) {
    pthread_t threads[2];
    int status, child;
    pthread_create(&threads[0], 0, work, 0);
    pthread_create(&threads[1], 0, write_words, 0);
    int wrong = 0;
    for (int time = 0; time < 5; time++) {
        int before = turns, first = words[0];
        if ((child = vfork()) == 0) {
            for (int index = 1; index < 1024 * 8; index += 512)
                words[index] = time + 1;
            usleep(20000);
            _exit(0);
        }
        waitpid(child, &status, 0);
        for (int index = 1; index < 1024 * 8; index += 512)
            wrong += words[index] != time + 1;
        /* The others go on, and nothing of theirs was lost. */
        while (turns == before)
            usleep(1000);
        wrong += words[0] < first;
    }
    stop = 1;
    pthread_join(threads[0], 0);
    pthread_join(threads[1], 0);
    for (int index = 2; index < 1024 * 8; index += 2)
        wrong += words[index] != words[0];
    printf("beside threads: %d wrong\n", wrong);
}

int main(void) {
    refusals();
    while (waitpid(-1, 0, __WALL) > 0)
        ;
    clone3s();
    signals();
    shared();
    vforks();
    beside_threads();
    return 0;
}
