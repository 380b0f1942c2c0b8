/* Signals as a kernel sends them: numbers that are none, children, threads, timers, files, ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int number, code, value, descriptor, band, tid, times, overruns;

static void note(int signal, siginfo_t *details, void *context) {
    number = signal;
    code = details->si_code;
    value = details->si_value.sival_int;
    descriptor = details->si_fd;
    band = details->si_band;
    tid = syscall(SYS_gettid);
    overruns += code == SI_TIMER ? details->si_overrun : 0;
    times++;
}

static void catch(int signal) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(signal, &action, 0);
    number = times = overruns = 0;
}

static const char *result(long done) { return done < 0 ? strerrorname_np(errno) : "sent"; }

static void numbers(void) {
    const int tried[] = {0, -1, 65, 64, 1000, 1 << 30};
    int me = getpid(), self = syscall(SYS_gettid);
    signal(64, SIG_IGN);
    for (int index = 0; index < 6; index++) {
        int one = tried[index];
        siginfo_t details = {.si_code = SI_QUEUE};
        printf("signal %d: %s", one, result(syscall(SYS_kill, me, one)));
        printf(" %s", result(syscall(SYS_tkill, self, one)));
        printf(" %s", result(syscall(SYS_tgkill, me, self, one)));
        printf(" %s", result(syscall(SYS_rt_sigqueueinfo, me, one, &details)));
        printf(" %s\n", result(syscall(SYS_rt_tgsigqueueinfo, me, self, one, &details)));
    }
    printf("no process: %s", result(syscall(SYS_kill, 999999, 0)));
    printf(" %s", result(syscall(SYS_tkill, 999999, 0)));
    printf(" %s", result(syscall(SYS_tkill, -1, 0)));
    printf(" %s", result(syscall(SYS_tkill, 0, 0)));
    printf(" %s", result(syscall(SYS_tgkill, 0, self, 0)));
    printf(" %s", result(syscall(SYS_tgkill, 1, self, 0)));
    printf(" %s\n", result(syscall(SYS_tgkill, me, 0, 0)));
    struct sigaction action = {.sa_handler = SIG_DFL};
    printf("actions: %s", result(syscall(SYS_rt_sigaction, 0, 0, 0, 8)));
    printf(" %s", result(syscall(SYS_rt_sigaction, 65, 0, 0, 8)));
    printf(" %s\n", result(syscall(SYS_rt_sigaction, SIGKILL, &action, 0, 8)));
    siginfo_t forged = {.si_code = SI_TKILL};
    int child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    printf("forged: %s", result(syscall(SYS_rt_sigqueueinfo, child, SIGURG, &forged)));
    forged.si_code = SI_USER;
    printf(" %s", result(syscall(SYS_rt_sigqueueinfo, child, SIGURG, &forged)));
    forged.si_code = SI_QUEUE;
    printf(" %s\n", result(syscall(SYS_rt_sigqueueinfo, child, SIGURG, &forged)));
    kill(child, SIGKILL);
    wait(0);
}

static void children(void) {
    /* A signal right after fork is the child's, whatever the parent has for it. */
    const int sent[] = {SIGSEGV, SIGBUS, SIGUSR1, SIGILL, SIGTERM, SIGRTMAX};
    int status, wrong = 0;
    for (int caught = 0; caught < 2; caught++) {
        for (int index = 0; index < 6; index++) {
            if (caught)
                catch(sent[index]);
            else
                signal(sent[index], SIG_DFL);
            for (int time = 0; time < 5; time++) {
                int child = fork();
                if (child == 0) {
                    while (caught && !times)
                        usleep(1000);
                    if (!caught)
                        pause();
                    _exit(number == sent[index] ? 7 : 8);
                }
                kill(child, sent[index]);
                waitpid(child, &status, 0);
                wrong += caught ? !WIFEXITED(status) || WEXITSTATUS(status) != 7
                                : !WIFSIGNALED(status) || WTERMSIG(status) != sent[index];
            }
            wrong += times;
        }
        printf("after fork, caught %d: %d wrong\n", caught, wrong);
    }
}

/* How a program ends is in its wait status: the signal, and whether a core was dumped. */
static void ends(void) {
    const int sent[] = {SIGTERM, SIGKILL, SIGABRT, SIGSEGV, SIGQUIT, SIGXCPU, SIGUSR1, SIGRTMIN + 5, 33};
    struct rlimit none = {0, 0};
    for (int index = 0; index < 9; index++) {
        int status, child = fork();
        if (child == 0) {
            setrlimit(RLIMIT_CORE, &none);
            signal(sent[index], SIG_DFL);
            if (index % 2)
                syscall(SYS_tkill, syscall(SYS_gettid), sent[index]);
            else
                kill(getpid(), sent[index]);
            pause();
        }
        waitpid(child, &status, 0);
        printf("ended by %d: %x\n", sent[index], status);
    }
    int status, child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile int *)8 = 1;
    }
    waitpid(child, &status, 0);
    printf("a bad access: %d\n", WTERMSIG(status));
    if ((child = fork()) == 0) {
        kill(getpid(), SIGSTOP);
        _exit(4);
    }
    waitpid(child, &status, WUNTRACED);
    printf("stopped: %x\n", status);
    kill(child, SIGCONT);
    waitpid(child, &status, WCONTINUED);
    printf("continued: %x\n", status);
    waitpid(child, &status, 0);
    printf("exited: %x\n", status);
}

static void *leave(void *unused) {
    usleep(30000);
    syscall(SYS_exit, 4);
    return 0;
}
static void *leave_all(void *unused) {
    syscall(SYS_exit_group, 300);
    return 0;
}
static void threads_end(void) {
    int status, child = fork();
    pthread_t thread;
    if (child == 0) {
        pthread_create(&thread, 0, leave, 0);
        syscall(SYS_exit, 3);
    }
    waitpid(child, &status, 0);
    printf("each thread by itself: %x\n", status);
    if ((child = fork()) == 0) {
        pthread_create(&thread, 0, leave_all, 0);
        pthread_join(thread, 0);
    }
    waitpid(child, &status, 0);
    printf("all at once: %x\n", status);
}

static volatile int started, stop;
static void *spin(void *unused) {
    started = syscall(SYS_gettid);
    while (!stop)
        ;
    return 0;
}

static void timers(void) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 9};
    struct itimerspec often = {{0, 1000000}, {0, 1000000}}, never = {{0, 0}, {0, 0}};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    catch(SIGUSR1);
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    sigprocmask(SIG_BLOCK, &set, 0);
    timer_settime(timer, 0, &often, 0);
    usleep(100000);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("held back: %d, code %d, value %d, overruns %d\n", times > 0, code, value, overruns > 50);
    timer_settime(timer, 0, &never, 0);
    timer_delete(timer);
    pthread_t thread;
    pthread_create(&thread, 0, spin, 0);
    while (!started)
        usleep(1000);
    /* The handler is installed after the timer is made, too. */
    for (int late = 0; late < 2; late++) {
        signal(SIGUSR2, SIG_IGN);
        if (!late)
            catch(SIGUSR2);
        struct sigevent one = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 6};
        one._sigev_un._tid = started;
        printf("for a thread: %s\n", timer_create(CLOCK_MONOTONIC, &one, &timer) ? strerrorname_np(errno) : "made");
        if (late)
            catch(SIGUSR2);
        timer_settime(timer, 0, &often, 0);
        while (times < 10)
            usleep(1000);
        timer_delete(timer);
        printf("to it alone: %d %d %d\n", tid == started, value, code);
    }
    struct sigevent other = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
    other._sigev_un._tid = 1;
    printf("for another's thread: %s\n", timer_create(CLOCK_MONOTONIC, &other, &timer) ? strerrorname_np(errno) : "made");
    other.sigev_notify = 99;
    printf("in no known way: %s\n", timer_create(CLOCK_MONOTONIC, &other, &timer) ? strerrorname_np(errno) : "made");
    other.sigev_notify = SIGEV_SIGNAL, other.sigev_signo = 65;
    printf("with signal 65: %s\n", timer_create(CLOCK_MONOTONIC, &other, &timer) ? strerrorname_np(errno) : "made");
    printf("of no clock: %s\n", timer_create(77, &event, &timer) ? strerrorname_np(errno) : "made");
    stop = 1;
    pthread_join(thread, 0);
}

static volatile int called;
static void call_back(union sigval given) { called = given.sival_int; }

static void timer_threads(void) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = call_back, .sigev_value.sival_int = 12};
    struct itimerspec once = {.it_value.tv_nsec = 1000000};
    timer_create(CLOCK_REALTIME, &event, &timer);
    timer_settime(timer, 0, &once, 0);
    for (int turn = 0; turn < 2000 && !called; turn++)
        usleep(1000);
    printf("by a thread: %d\n", called);
    timer_delete(timer);
}

static void files(void) {
    int pair[2], pipes[2];
    catch(SIGRTMIN + 3);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    fcntl(pair[0], F_SETOWN, getpid());
    fcntl(pair[0], F_SETSIG, SIGRTMIN + 3);
    fcntl(pair[0], F_SETFL, O_ASYNC | O_NONBLOCK);
    write(pair[1], "x", 1);
    while (!times)
        usleep(1000);
    printf("input: %d %d %d %x\n", number == SIGRTMIN + 3, descriptor == pair[0], code, band);
    catch(SIGIO);
    fcntl(pair[0], F_SETSIG, 0);
    write(pair[1], "x", 1);
    while (!times)
        usleep(1000);
    printf("plain: %d\n", number == SIGIO);
    struct f_owner_ex owner = {F_OWNER_TID, syscall(SYS_gettid)}, told;
    printf("owner: %d", fcntl(pair[0], F_SETOWN_EX, &owner));
    printf(" %d", fcntl(pair[0], F_GETOWN_EX, &told));
    printf(" %d %d\n", told.type, told.pid == owner.pid);
    printf("signal 65: %d\n", fcntl(pair[0], F_SETSIG, 65));
    catch(SIGPIPE);
    pipe(pipes);
    close(pipes[0]);
    int done = write(pipes[1], "x", 1);
    printf("pipe: %d %s, %d at once\n", done, strerrorname_np(errno), times);
}

static void waits(void) {
    siginfo_t details;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMAX), sigaddset(&set, SIGRTMIN), sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    for (int turn = 0; turn < 3; turn++) {
        sigqueue(getpid(), SIGRTMAX, (union sigval){turn});
        sigqueue(getpid(), SIGRTMIN, (union sigval){turn + 10});
        sigqueue(getpid(), SIGUSR1, (union sigval){turn + 20});
    }
    struct timespec none = {0, 0};
    int got;
    while ((got = sigtimedwait(&set, &details, &none)) > 0)
        printf("%d:%d ", got, details.si_value.sival_int);
    printf("%s\n", strerrorname_np(errno));
    if (fork() == 0) {
        sigqueue(getppid(), SIGRTMAX, (union sigval){30});
        _exit(0);
    }
    got = sigwaitinfo(&set, &details);
    printf("from a child: %d %d\n", got, details.si_value.sival_int);
    wait(0);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    numbers();
    children();
    ends();
    threads_end();
    timers();
    timer_threads();
    files();
    waits();
    return 0;
}
