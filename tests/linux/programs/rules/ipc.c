#include "rules.h"
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

union semun { int value; struct semid_ds *details; unsigned short *array; struct seminfo *info; };

static void semaphores(void) {
    struct semid_ds details = {0};
    struct sembuf up = {1, 2, 0}, none[600] = {{0}};
    unsigned short values[3] = {7, 8, 9};
    struct seminfo info;
    int set = semget(IPC_PRIVATE, 3, 0600 | IPC_CREAT);
    TRY(semget(IPC_PRIVATE, -1, IPC_CREAT));
    TRY(semctl(set, 0, IPC_STAT, &details));
    printf("%ld %d %o %d\n", details.sem_nsems, details.sem_otime != 0, details.sem_perm.mode, details.sem_ctime > 1600000000);
    TRY(semop(set, &up, 1));
    TRY(semop(set, &up, 0));
    TRY(semop(set, (void *)1, 0));
    TRY(semop(set, (void *)1, 1));
    TRY(semop(set, none, 600));
    TRY(semctl(set, 0, IPC_STAT, &details));
    printf("%ld %d %d\n", details.sem_nsems, details.sem_otime > 1600000000, details.sem_perm.uid == geteuid());
    details.sem_perm.mode = 0640;
    details.sem_nsems = 77;
    TRY(semctl(set, 0, IPC_SET, &details));
    TRY(semctl(set, 0, IPC_STAT, &details));
    printf("%ld %o\n", details.sem_nsems, details.sem_perm.mode);
    TRY(semctl(set, 0, SETALL, values));
    memset(values, 0, sizeof values);
    TRY(semctl(set, 0, GETALL, values));
    printf("%d %d %d\n", values[0], values[1], values[2]);
    TRY(semctl(set, 1, SETVAL, 70000));
    TRY(semctl(set, 1, SETVAL, 5));
    TRY(semctl(set, 1, GETVAL));
    TRY(semctl(set, 1, GETNCNT));
    TRY(semctl(set, 1, GETZCNT));
    IS(semctl(set, 1, GETPID) == getpid());
    TRY(semctl(set, 7, GETVAL));
    TRY(semctl(set, 0, 99));
    TRY(syscall(SYS_semctl, set, 0, IPC_STAT | 0x100, &details));
    TRY(semctl(set, 0, IPC_STAT, (void *)1));
    TRY(semctl(-1, 0, IPC_STAT, &details));
    TRY(semctl(set, 0, GETALL, (void *)1));
    IS(semctl(0, 0, IPC_INFO, &info) >= 0 && info.semmsl > 100);
    IS(semctl(0, 0, SEM_INFO, &info) >= 0 && info.semusz >= 1);
    int found = 0;
    for (int index = semctl(0, 0, SEM_INFO, &info); index >= 0; index--)
        found |= semctl(index, 0, SEM_STAT, &details) == set && details.sem_nsems == 3;
    printf("found %d\n", found);
    struct timespec soon = {0, 1000000}, bad = {0, -1};
    struct sembuf zero = {0, 0, 0};
    TRY(semtimedop(set, &zero, 1, &soon));
    TRY(semtimedop(set, &zero, 1, &bad));
    TRY(semctl(set, 0, IPC_RMID));
    TRY(semctl(set, 0, IPC_STAT, &details));
}

static void memory(void) {
    char *hole = mmap(0, 64 * PAGE, PROT_NONE, ANONYMOUS, -1, 0);
    munmap(hole, 64 * PAGE);
    hole += 16 * PAGE;
    int id = shmget(IPC_PRIVATE, 4 * PAGE - 100, 0600 | IPC_CREAT);
    struct shmid_ds details;
    IS(shmat(id, hole, 0) == hole);
    TRY(shmat(id, hole, 0));
    TRY(shmat(id, hole + 2 * PAGE, 0));
    TRY(shmat(id, hole + 5, 0));
    TRY(shmat(id, 0, SHM_REMAP));
    TRY(shmat(-1, hole, 0));
    TRY(shmat(id + 1000, hole, 0));
    TRY(shmat(id, (void *)(1L << 60), 0));
    IS(shmat(id, hole + 8 * PAGE + 123, SHM_RND | SHM_RDONLY) == hole + 8 * PAGE);
    hole[5] = 7;
    printf("%d %d %d\n", hole[8 * PAGE + 5], probe(hole + 8 * PAGE, 1), probe(hole + 4 * PAGE, 0));
    IS(shmat(id, hole + 9 * PAGE, SHM_REMAP) == hole + 9 * PAGE);
    shmctl(id, IPC_STAT, &details);
    printf("%ld %ld %d\n", (long)details.shm_nattch, (long)details.shm_segsz, details.shm_cpid == getpid());
    TRY(shmdt(hole + 1));
    TRY(shmdt(hole + PAGE));
    TRY(shmdt(hole + 20 * PAGE));
    TRY(mprotect(hole + PAGE, PAGE, PROT_READ));
    TRY(munmap(hole, PAGE));
    TRY(shmdt(hole));
    printf("%d %d %d\n", probe(hole + PAGE, 0), probe(hole + 3 * PAGE, 0), probe(hole + 10 * PAGE, 0));
    TRY(shmdt(hole));
    TRY(shmdt(hole + 8 * PAGE));
    TRY(shmdt(hole + 9 * PAGE));
    char *p = shmat(id, 0, 0);
    printf("%d\n", p[5]);
    char *moved = mremap(p, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, hole);
    IS(moved == hole);
    TRY(shmdt(hole));
    p = shmat(id, 0, 0);
    int status;
    fflush(stdout);
    if (!fork()) {
        p[6] = 9;
        _exit(shmdt(p));
    }
    wait(&status);
    printf("%d %d\n", status, p[6]);
    TRY(shmctl(id, IPC_RMID, 0));
    p[7] = 1;
    TRY(shmdt(p));
    TRY(shmat(id, 0, 0));
    TRY(shmget(IPC_PRIVATE, 0, IPC_CREAT));
}

static void messages(void) {
    struct { long type; char text[16]; } message = {3, "hello"};
    int queue = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
    struct msqid_ds details;
    TRY(msgsnd(queue, (void *)1, -1, 0));
    TRY(msgsnd(queue, (void *)1, 1 << 20, 0));
    TRY(msgsnd(queue, (void *)1, 5, 0));
    TRY(msgsnd(-1, (void *)1, 5, 0));
    message.type = 0;
    TRY(msgsnd(queue, &message, 5, 0));
    message.type = 3;
    TRY(msgsnd(queue, &message, 5, 0));
    TRY(msgctl(queue, IPC_STAT, &details));
    printf("%ld %ld\n", (long)details.msg_qnum, (long)details.__msg_cbytes);
    TRY(msgrcv(queue, (void *)1, -1, 0, 0));
    TRY(msgrcv(queue, &message, 2, 0, 0));
    TRY(msgrcv(queue, &message, 2, 0, MSG_NOERROR | MSG_COPY));
    TRY(msgrcv(queue, &message, 16, 4, IPC_NOWAIT));
    TRY(msgrcv(queue, &message, 16, -5, IPC_NOWAIT));
    printf("%ld %s\n", message.type, message.text);
    TRY(msgctl(queue, IPC_RMID, 0));
    TRY(msgrcv(queue, &message, 16, 0, IPC_NOWAIT));
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16}, now;
    char name[32], text[16];
    unsigned priority;
    snprintf(name, sizeof name, "/tandemu-%d", getpid());
    int mq = mq_open(name, O_RDWR | O_CREAT | O_NONBLOCK, 0600, &attributes);
    TRY(mq_send(mq, "low", 3, 1));
    TRY(mq_send(mq, "high", 4, 9));
    TRY(mq_send(mq, "more", 4, 9));
    TRY(mq_send(mq, text, 17, 9));
    TRY(mq_getattr(mq, &now));
    printf("%ld %ld\n", now.mq_curmsgs, now.mq_msgsize);
    TRY(mq_receive(mq, text, 3, &priority));
    TRY(mq_receive(mq, text, 16, &priority));
    printf("%d %.4s\n", priority, text);
    TRY(mq_unlink(name));
    TRY(mq_unlink(name));
}

int main(void) {
    semaphores();
    memory();
    messages();
}
