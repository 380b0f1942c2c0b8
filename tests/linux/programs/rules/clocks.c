#include "rules.h"
#include <sched.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <sys/time.h>
#include <linux/futex.h>
#include <grp.h>
#include <linux/capability.h>

static void clocks(void) {
    struct timespec now, later, bad = {0, 1000000000}, negative = {-1, 0}, soon = {0, 1000000}, rest = {7, 7};
    for (int clock = -1; clock < 13; clock++)
        printf("clock %d %s\n", clock, clock_gettime(clock, &now) ? strerrorname_np(errno) : now.tv_sec >= 0 ? "ok" : "negative");
    TRY(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, 8));
    TRY(syscall(SYS_clock_gettime, 99, 8));
    TRY(clock_getres(CLOCK_MONOTONIC, &now));
    printf("%ld %ld\n", (long)now.tv_sec, now.tv_nsec);
    TRY(clock_getres(CLOCK_REALTIME_COARSE, 0));
    TRY(syscall(SYS_clock_settime, CLOCK_MONOTONIC, &now));
    TRY(syscall(SYS_clock_settime, CLOCK_REALTIME, &bad));
    TRY(syscall(SYS_clock_settime, CLOCK_REALTIME, 8));
    clockid_t of_process;
    TRY(clock_getcpuclockid(getpid(), &of_process));
    TRY(clock_gettime(of_process, &now));
    TRY(clock_gettime(~(99999999 << 3) | 2, &now));
    TRY(nanosleep(&bad, 0));
    TRY(nanosleep(&negative, 0));
    TRY(nanosleep((void *)8, 0));
    TRY(nanosleep(&soon, &rest));
    printf("%ld\n", rest.tv_nsec);
    TRY(syscall(SYS_clock_nanosleep, 99, 0, &soon, 0));
    TRY(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &bad, 0));
    TRY(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &soon, 0));
    TRY(syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &soon, 0));
    struct itimerval timer = {{0, 0}, {100, 5}}, old;
    struct itimerval wrong = {{0, 0}, {0, 1000000}};
    TRY(setitimer(ITIMER_REAL, &timer, 0));
    TRY(getitimer(ITIMER_REAL, &old));
    IS(old.it_value.tv_sec == 100 || old.it_value.tv_sec == 99);
    TRY(setitimer(ITIMER_REAL, &wrong, 0));
    TRY(setitimer(9, &timer, 0));
    TRY(getitimer(9, &old));
    TRY(getitimer(ITIMER_REAL, (void *)8));
    TRY(setitimer(ITIMER_REAL, (void *)8, 0));
    IS(alarm(0) >= 99);
    timer_t made;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 99}, none = {.sigev_notify = SIGEV_NONE};
    TRY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &made));
    event.sigev_signo = SIGUSR1, event.sigev_notify = 77;
    TRY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &made));
    TRY(syscall(SYS_timer_create, 99, &none, &made));
    TRY(syscall(SYS_timer_create, CLOCK_MONOTONIC, 8, &made));
    TRY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &none, 8));
    int number = -1;
    TRY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &none, &number));
    struct itimerspec value = {{0, 0}, {50, 0}}, got, broken = {{0, -1}, {0, 1}};
    TRY(syscall(SYS_timer_settime, number, 0, &value, 0));
    TRY(syscall(SYS_timer_gettime, number, &got));
    IS(got.it_value.tv_sec == 49 || got.it_value.tv_sec == 50);
    TRY(syscall(SYS_timer_settime, number, 0, &broken, 0));
    TRY(syscall(SYS_timer_settime, number, 0, 0, 0));
    TRY(syscall(SYS_timer_getoverrun, number));
    TRY(syscall(SYS_timer_delete, number));
    TRY(syscall(SYS_timer_delete, number));
    TRY(syscall(SYS_timer_gettime, 12345, &got));
    struct timex adjust = {0};
    IS(adjtimex(&adjust) >= 0);
    adjust.modes = 0x7fff;
    TRY(syscall(SYS_adjtimex, 8));
    struct timeval day;
    struct timezone zone;
    TRY(gettimeofday(&day, &zone));
    TRY(syscall(SYS_gettimeofday, 8, 0));
    TRY(syscall(SYS_settimeofday, 8, 0));
    struct tms used;
    IS(times(&used) != -1);
    TRY(syscall(SYS_times, 8));
    struct rusage usage;
    TRY(getrusage(RUSAGE_SELF, &usage));
    TRY(getrusage(RUSAGE_THREAD, &usage));
    TRY(getrusage(9, &usage));
    TRY(getrusage(RUSAGE_SELF, (void *)8));
    IS(usage.ru_maxrss > 100);
    struct sysinfo system;
    TRY(sysinfo(&system));
    IS(system.mem_unit == 1 && system.totalram > 1 << 20 && system.procs > 0);
    TRY(sysinfo((void *)8));
}

static void scheduling(void) {
    cpu_set_t set;
    struct sched_param parameters = {0};
    unsigned cpu = 99, node = 99;
    struct { unsigned size, policy; unsigned long flags; int nice; unsigned priority; unsigned long rest[5]; } attributes = {48};
    struct timespec slice;
    TRY(syscall(SYS_sched_getaffinity, 0, sizeof set, &set));
    TRY(syscall(SYS_sched_getaffinity, 0, 1, &set));
    TRY(syscall(SYS_sched_getaffinity, 0, 4, &set));
    TRY(syscall(SYS_sched_getaffinity, 0, 8, 8));
    TRY(syscall(SYS_sched_getaffinity, 99999999, 8, &set));
    TRY(sched_setaffinity(0, sizeof set, &set));
    CPU_ZERO(&set);
    TRY(sched_setaffinity(0, sizeof set, &set));
    TRY(sched_setaffinity(0, 8, (void *)8));
    TRY(sched_getscheduler(0));
    TRY(sched_getscheduler(-1));
    TRY(sched_getscheduler(99999999));
    TRY(sched_setscheduler(0, SCHED_OTHER, &parameters));
    TRY(sched_setscheduler(0, SCHED_BATCH, &parameters));
    TRY(sched_getscheduler(0));
    TRY(sched_setscheduler(0, 99, &parameters));
    TRY(sched_setscheduler(0, SCHED_FIFO, &parameters));
    TRY(sched_setscheduler(0, SCHED_OTHER, 0));
    TRY(sched_getparam(0, &parameters));
    TRY(sched_getparam(0, 0));
    TRY(sched_setparam(0, &parameters));
    TRY(sched_get_priority_max(SCHED_FIFO));
    TRY(sched_get_priority_min(SCHED_FIFO));
    TRY(sched_get_priority_max(99));
    TRY(sched_rr_get_interval(0, &slice));
    TRY(sched_rr_get_interval(-1, &slice));
    TRY(syscall(SYS_sched_getattr, 0, &attributes, 48, 0));
    printf("%d %d\n", attributes.size, attributes.policy);
    TRY(syscall(SYS_sched_getattr, 0, &attributes, 4, 0));
    TRY(syscall(SYS_sched_getattr, 0, &attributes, 48, 9));
    attributes.nice = 3, attributes.policy = 0;
    TRY(syscall(SYS_sched_setattr, 0, &attributes, 0));
    TRY(getpriority(PRIO_PROCESS, 0));
    attributes.size = 7;
    TRY(syscall(SYS_sched_setattr, 0, &attributes, 0));
    TRY(setpriority(PRIO_PROCESS, 0, 5));
    TRY(setpriority(PRIO_PROCESS, 0, 50));
    TRY(getpriority(PRIO_PROCESS, 0));
    TRY(getpriority(9, 0));
    TRY(getpriority(PRIO_PROCESS, 99999999));
    TRY(syscall(SYS_getpriority, PRIO_PROCESS, 0));
    TRY(syscall(SYS_getcpu, &cpu, &node, 0));
    IS(cpu < 99 && node < 99);
    TRY(syscall(SYS_getcpu, 8, 0, 0));
    TRY(syscall(SYS_ioprio_get, 1, 0));
    TRY(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5));
    TRY(syscall(SYS_ioprio_get, 1, 0) - (2 << 13));
    TRY(syscall(SYS_ioprio_set, 1, 0, 9 << 13));
    TRY(syscall(SYS_ioprio_get, 9, 0));
}

static void identity(void) {
    gid_t groups[8] = {5, 6, 7};
    uid_t real, effective, saved;
    struct __user_cap_header_struct head = {0x20080522, 0};
    struct __user_cap_data_struct caps[2];
    TRY(setgroups(3, groups));
    TRY(getgroups(0, 0));
    TRY(getgroups(1, groups));
    TRY(getgroups(8, groups));
    TRY(getgroups(8, (void *)8));
    TRY(setgroups(1 << 17, groups));
    TRY(setgroups(2, (void *)8));
    TRY(capget(&head, caps));
    head.version = 1;
    TRY(capget(&head, caps));
    printf("%x\n", head.version);
    TRY(capget((void *)8, caps));
    head.pid = 99999999;
    TRY(capget(&head, caps));
    TRY(setresgid(1, 2, 3));
    TRY(getresgid(&real, &effective, &saved));
    printf("%d %d %d\n", real, effective, saved);
    TRY(getresuid((void *)8, &effective, &saved));
    TRY(setreuid(-1, -1));
    TRY(setfsuid(7));
    TRY(setfsuid(-1));
    TRY(setresuid(5, 6, 7));
    TRY(getresuid(&real, &effective, &saved));
    printf("%d %d %d %d\n", real, effective, saved, setfsuid(-1));
    TRY(setuid(9));
    TRY(setuid(7));
    TRY(setresuid(0, 0, 0));
    TRY(setgid(0));
    TRY(setgroups(0, 0));
    TRY(getpgid(99999999));
    TRY(setpgid(0, -1));
    TRY(setpgid(99999999, 0));
    TRY(getsid(99999999));
    TRY(setsid() > 0);
    TRY(setsid());
    IS(getsid(0) == getpid());
}

static void futexes(void) {
    static unsigned word = 5, other = 9;
    struct timespec soon = {0, 1000000}, bad = {0, -1}, past = {0, 0};
    TRY(syscall(SYS_futex, &word, FUTEX_WAIT, 6, 0));
    TRY(syscall(SYS_futex, &word, FUTEX_WAIT, 5, &soon));
    TRY(syscall(SYS_futex, &word, FUTEX_WAIT, 5, &bad));
    TRY(syscall(SYS_futex, &word, FUTEX_WAIT, 5, 8));
    TRY(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAIT, 5, &soon));
    TRY(syscall(SYS_futex, 8, FUTEX_WAIT, 5, &soon));
    TRY(syscall(SYS_futex, &word, FUTEX_WAKE, 5));
    TRY(syscall(SYS_futex, 8, FUTEX_WAKE, 5));
    TRY(syscall(SYS_futex, 8, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 5));
    TRY(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 5, &past, 0, -1));
    TRY(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 5, 0, 0, 0));
    TRY(syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, 5, 0, 0, 0));
    TRY(syscall(SYS_futex, &word, FUTEX_REQUEUE, 1, 1, &other));
    TRY(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, 1, 1, &other, 6));
    TRY(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, 1, 1, &other, 5));
    TRY(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, -1, 1, &other, 5));
    TRY(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, 1, 1, 8, 5));
    TRY(syscall(SYS_futex, &word, FUTEX_WAKE_OP, 1, 1, &other, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 9)));
    printf("%u\n", other);
    TRY(syscall(SYS_futex, &word, FUTEX_WAKE_OP, 1, 1, 8, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 9)));
    word = 0;
    TRY(syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, 0));
    IS(word == syscall(SYS_gettid));
    TRY(syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, 0));
    TRY(syscall(SYS_futex, &word, FUTEX_TRYLOCK_PI, 0, 0));
    TRY(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI, 0, 0));
    TRY(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI, 0, 0));
    TRY(syscall(SYS_futex, &word, 99, 0, 0));
    TRY(syscall(SYS_set_robust_list, 8, 20));
    TRY(syscall(SYS_get_robust_list, 99999999, &word, &other));
    TRY(syscall(SYS_membarrier, 0, 0, 0) > 0);
    TRY(syscall(SYS_membarrier, 0, 9, 0));
    TRY(syscall(SYS_membarrier, 8, 0, 0));
    TRY(syscall(SYS_membarrier, 16, 0, 0));
    TRY(syscall(SYS_membarrier, 8, 0, 0));
    TRY(syscall(SYS_getrandom, &word, 4, 99));
    TRY(syscall(SYS_getrandom, 8, 4, 0));
    TRY(syscall(SYS_getrandom, &word, 4, 1));
    TRY(syscall(SYS_getrandom, &word, 4, 6));
    TRY(syscall(SYS_syslog, 99, 0, 0));
    TRY(syscall(SYS_syslog, 3, 8, -1));
    TRY(syscall(SYS_syslog, 3, 0, 10));
    IS(syscall(SYS_syslog, 10, 0, 0) > 0);
    TRY(syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
    TRY(syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 1) > 0);
    TRY(syscall(SYS_kcmp, getpid(), getpid(), 99, 0, 1));
    TRY(syscall(SYS_kcmp, 99999999, getpid(), 0, 0, 1));
    TRY(syscall(SYS_pidfd_open, 99999999, 0));
    TRY(syscall(SYS_pidfd_open, getpid(), 99));
    TRY(syscall(SYS_pidfd_open, -1, 0));
    TRY(syscall(SYS_pidfd_getfd, 0, 0, 0));
    TRY(syscall(SYS_pidfd_send_signal, 0, 0, 0, 0));
    TRY(syscall(9999));
    TRY(syscall(-1));
    TRY(syscall(1000000));
}

int main(void) {
    child(clocks);
    child(scheduling);
    child(identity);
    child(futexes);
}
