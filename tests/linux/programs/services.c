/* What the other programs do not use of the kernel: timers, locks, queues, copies, lookups. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t alarms, threads;
static void ring(int n) { alarms++; }
static void run(union sigval value) { threads = value.sival_int; }
static pthread_mutex_t inherited;
static void *hold(void *unused) {
    pthread_mutex_lock(&inherited);
    usleep(20000);
    pthread_mutex_unlock(&inherited);
    return NULL;
}

static void timers(void) {
    signal(SIGALRM, ring);
    struct itimerval soon = {{0, 2000}, {0, 2000}}, off = {{0}};
    setitimer(ITIMER_REAL, &soon, NULL);
    while (alarms < 3) pause();
    setitimer(ITIMER_REAL, &off, NULL);
    printf("itimer 1\n");
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec once = {{0, 0}, {0, 2000000}};
    alarms = 0;
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    timer_settime(timer, 0, &once, NULL);
    while (!alarms) usleep(1000);
    printf("timer %d delete %d\n", alarms, timer_delete(timer));
    struct sigevent thread = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = run,
                              .sigev_value.sival_int = 9};
    timer_create(CLOCK_REALTIME, &thread, &timer);
    timer_settime(timer, 0, &once, NULL);
    while (!threads) usleep(1000);
    printf("timer thread %d\n", threads);
    timer_delete(timer);
    struct timespec resolution;
    printf("resolution %d %ld\n", clock_getres(CLOCK_MONOTONIC, &resolution), resolution.tv_nsec);
    struct rusage usage;
    printf("usage %d %d\n", getrusage(RUSAGE_SELF, &usage), usage.ru_maxrss > 0);
}

static void locks(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    printf("inherit %d\n", pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
    printf("init %d\n", pthread_mutex_init(&inherited, &attributes));
    pthread_t id;
    pthread_create(&id, NULL, hold, NULL);
    usleep(5000);
    printf("lock %d\n", pthread_mutex_lock(&inherited));
    pthread_join(id, NULL);
    printf("unlock %d\n", pthread_mutex_unlock(&inherited));
    FILE *file = tmpfile();
    int number = fileno(file);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 10};
    printf("flock %d lockf %d\n", flock(number, LOCK_EX), fcntl(number, F_SETLK, &lock));
    if (!fork()) {
        lock.l_pid = 0;
        fcntl(number, F_GETLK, &lock);
        printf("held %d by parent %d\n", lock.l_type == F_WRLCK, lock.l_pid == getppid());
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_NONE);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(shared, &attributes);
    int *count = (int *)(shared + 2);
    for (int i = 0; i < 4; i++)
        if (!fork()) {
            for (int j = 0; j < 200; j++) {
                pthread_mutex_lock(shared);
                ++*count;
                pthread_mutex_unlock(shared);
            }
            _exit(0);
        }
    while (wait(NULL) > 0);
    printf("shared %d\n", *count);
}

static void queues(void) {
    struct { long type; char text[8]; } message = {3, "hello"};
    int queue = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
    printf("msgsnd %d\n", msgsnd(queue, &message, 8, 0));
    printf("msgrcv %zd\n", msgrcv(queue, &message, 8, 0, IPC_NOWAIT));
    msgctl(queue, IPC_RMID, NULL);
    int set = semget(IPC_PRIVATE, 1, 0600 | IPC_CREAT);
    struct sembuf up = {0, 2, 0}, down = {0, -1, 0};
    printf("semop %d\n", semop(set, &up, 1));
    printf("semop %d\n", semop(set, &down, 1));
    printf("value %d\n", semctl(set, 0, GETVAL));
    semctl(set, 0, IPC_RMID);
    int segment = shmget(IPC_PRIVATE, 10000, 0600 | IPC_CREAT);
    char *first = shmat(segment, NULL, 0), *second = shmat(segment, NULL, SHM_RDONLY);
    strcpy(first + 9000, "shared");
    printf("shm %s\n", second + 9000);
    printf("detached %d %d\n", shmdt(first), shmdt(second));
    shmctl(segment, IPC_RMID, NULL);
    char name[32], text[64];
    sprintf(name, "/tandemu-%d", getpid());
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 64};
    mqd_t box = mq_open(name, O_RDWR | O_CREAT, 0600, &attributes);
    printf("mq %d\n", mq_send(box, "box", 4, 1));
    printf("mq %zd %s\n", mq_receive(box, text, 64, NULL), text);
    mq_unlink(name);
}

static void files(void) {
    char folder[] = "/tmp/tandemu-services-XXXXXX", text[256];
    mkdtemp(folder);
    chdir(folder);
    int watch = inotify_init1(IN_NONBLOCK);
    inotify_add_watch(watch, ".", IN_CREATE | IN_DELETE);
    int one = open("one", O_RDWR | O_CREAT, 0640), two = open("two", O_RDWR | O_CREAT, 0600);
    char events[512];
    ssize_t got = read(watch, events, sizeof events);
    struct inotify_event *event = (void *)events;
    printf("inotify %d %s\n", got > 0, event->name);
    struct iovec parts[2] = {{"gather ", 7}, {"scatter", 7}};
    printf("pwritev %zd\n", pwritev(one, parts, 2, 3));
    off_t from = 0, to = 2;
    printf("sendfile %zd copy %zd\n", sendfile(two, one, &from, 10), copy_file_range(one, &from, two, &to, 7, 0));
    printf("pread %zd %.6s\n", pread(two, text, 6, 2), text);
    printf("xattr %d\n", setxattr("one", "user.colour", "red", 3, 0) == 0 ? (int)getxattr("one", "user.colour", text, 9) : 3);
    struct statx details;
    statx(AT_FDCWD, "one", 0, STATX_ALL, &details);
    printf("statx %o %lld\n", details.stx_mode, (long long)details.stx_size);
    struct timespec times[2] = {{1000, 5}, {2000, 7}};
    utimensat(AT_FDCWD, "one", times, 0);
    struct stat status;
    stat("one", &status);
    printf("times %ld %ld\n", status.st_atim.tv_sec, status.st_mtim.tv_nsec);
    printf("rename %d %d\n", renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE), errno = 0);
    printf("link %d %d\n", link("one", "three"), symlink("three", "four"));
    printf("readlink %zd access %d\n", readlink("four", text, 9), faccessat(AT_FDCWD, "four", R_OK, AT_EACCESS));
    struct dirent **names;
    int count = scandir(".", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) printf("%s%c", names[i]->d_name, i == count - 1 ? '\n' : ' ');
    struct statfs system;
    printf("statfs %d %d\n", statfs("/proc", &system), system.f_type == 0x9fa0);
    int ends[2], waiting = 0;
    pipe(ends);
    from = 0;
    printf("splice %zd tee\n", splice(two, &from, ends[1], NULL, 5, 0));
    ioctl(ends[0], FIONREAD, &waiting);
    printf("waiting %d\n", waiting);
    unlink("one"), unlink("two"), unlink("three"), unlink("four");
    chdir("/");
    printf("rmdir %d\n", rmdir(folder));
}

static void sockets(void) {
    int server = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, from;
    socklen_t size = sizeof address, length = sizeof from;
    bind(server, (void *)&address, sizeof address);
    getsockname(server, (void *)&address, &size);
    printf("sendto %zd\n", sendto(client, "datagram", 8, 0, (void *)&address, size));
    char text[64];
    printf("recvfrom %zd %d\n", recvfrom(server, text, 64, 0, (void *)&from, &length), from.sin_family);
    struct mmsghdr both[2] = {0};
    struct iovec parts[2] = {{"one", 3}, {"two2", 4}};
    for (int i = 0; i < 2; i++) {
        both[i].msg_hdr.msg_iov = &parts[i], both[i].msg_hdr.msg_iovlen = 1;
        both[i].msg_hdr.msg_name = &address, both[i].msg_hdr.msg_namelen = size;
    }
    printf("sendmmsg %d %u\n", sendmmsg(client, both, 2, 0), both[1].msg_len);
    int stream = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct timeval limit = {3, 0};
    printf("options %d %d %d\n", setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one),
           setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit),
           setsockopt(stream, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one));
    size = sizeof limit;
    limit.tv_sec = 0;
    getsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &limit, &size);
    printf("timeout %ld\n", limit.tv_sec);
    int pair[2];
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    struct ucred who;
    size = sizeof who;
    getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &who, &size);
    printf("peer %d\n", who.pid == getpid());
    struct sockaddr_un abstract = {AF_UNIX, "\0tandemu"};
    sprintf(abstract.sun_path + 1, "tandemu-%d", getpid());
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(listener, (void *)&abstract, sizeof abstract);
    listen(listener, 1);
    int caller = socket(AF_UNIX, SOCK_STREAM, 0);
    printf("abstract %d\n", connect(caller, (void *)&abstract, sizeof abstract));
    struct pollfd entry = {accept4(listener, NULL, NULL, SOCK_CLOEXEC), POLLIN, 0};
    shutdown(caller, SHUT_WR);
    printf("hang up %d %d\n", poll(&entry, 1, 1000), entry.revents & POLLIN);
}

static void process(void) {
    struct utsname name;
    uname(&name);
    printf("uname %s %s\n", name.sysname, name.machine);
    char text[17] = "renamed";
    prctl(PR_SET_NAME, text);
    memset(text, 0, sizeof text);
    printf("name %d %s\n", prctl(PR_GET_NAME, text), text);
    printf("random %zd %d\n", getrandom(text, 16, 0), personality(0xffffffff));
    struct sysinfo system;
    printf("sysinfo %d %d\n", sysinfo(&system), system.totalram > 0);
    cpu_set_t set;
    printf("affinity %d %d\n", sched_getaffinity(0, sizeof set, &set), CPU_COUNT(&set) > 0);
    printf("cpu %d\n", sched_getcpu() >= 0);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[0] = 1;
    printf("dontneed %d %d\n", madvise(page, 8192, MADV_DONTNEED), page[0]);
    unsigned char core[2];
    printf("mincore %d lock %d\n", mincore(page, 8192, core), mlock(page, 4096));
    pid_t child = fork();
    if (!child) {
        setsid();
        _exit(getsid(0) == getpid() && getpgid(0) == getpid() ? 4 : 5);
    }
    siginfo_t info = {0};
    int descriptor = syscall(SYS_pidfd_open, child, 0);
    printf("pidfd %d\n", waitid(P_PIDFD, descriptor, &info, WEXITED));
    printf("child %d %d\n", info.si_status, info.si_pid == child);
    struct rusage usage;
    if (!(child = fork())) _exit(0);
    printf("wait4 %d\n", wait4(child, NULL, 0, &usage) == child);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    timers();
    locks();
    queues();
    files();
    sockets();
    process();
    return 0;
}
