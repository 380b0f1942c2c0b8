/* fork while other threads come and go; the child makes threads too. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int over;

static void *nothing(void *argument) { return argument; }

static void make_one(void) {
    pthread_t id;
    if (!pthread_create(&id, NULL, nothing, NULL)) pthread_join(id, NULL);
}

static void *churn(void *unused) {
    while (!over) make_one();
    return NULL;
}

int main(int argc, char **argv) {
    int forks = atoi(argv[1]), good = 0, status;
    pthread_t ids[3];
    for (int i = 0; i < 3; i++) pthread_create(&ids[i], NULL, churn, NULL);
    for (int i = 0; i < forks; i++) {
        pid_t child = fork();
        if (!child) {
            for (int j = 0; j < 3; j++) make_one();
            _exit(7);
        }
        good += waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7;
    }
    over = 1;
    for (int i = 0; i < 3; i++) pthread_join(ids[i], NULL);
    printf("%d of %d\n", good, forks);
    return 0;
}
