#include "rules.h"
#include <pthread.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/utsname.h>

static void attributes(void) {
    int value = -1, *where = 0, word;
    char name[32] = "";
    TRY(prctl(PR_SET_PDEATHSIG, 65));
    TRY(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    TRY(prctl(PR_GET_PDEATHSIG, &value));
    printf("%d\n", value);
    TRY(prctl(PR_GET_PDEATHSIG, 8));
    TRY(prctl(PR_SET_NAME, "a name that is too long"));
    TRY(prctl(PR_GET_NAME, name));
    puts(name);
    TRY(prctl(PR_SET_NAME, 8));
    TRY(prctl(PR_GET_DUMPABLE));
    TRY(prctl(PR_SET_DUMPABLE, 2));
    TRY(prctl(PR_SET_DUMPABLE, 0));
    TRY(prctl(PR_GET_DUMPABLE));
    TRY(prctl(PR_SET_DUMPABLE, 1));
    TRY(prctl(PR_GET_KEEPCAPS));
    TRY(prctl(PR_SET_KEEPCAPS, 2));
    TRY(prctl(PR_GET_TIMING));
    TRY(prctl(PR_SET_TIMING, 1));
    TRY(prctl(PR_CAPBSET_READ, 0));
    TRY(prctl(PR_CAPBSET_READ, 99));
    TRY(prctl(PR_SET_TIMERSLACK, 1234));
    TRY(prctl(PR_GET_TIMERSLACK));
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    TRY(prctl(PR_GET_CHILD_SUBREAPER, &value));
    printf("%d\n", value);
    TRY(prctl(PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0));
    TRY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0));
    TRY(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    TRY(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    TRY(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    TRY(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
    TRY(prctl(PR_MCE_KILL, 1, 1, 0, 0));
    TRY(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    TRY(prctl(PR_GET_SECUREBITS));
    TRY(prctl(PR_CAP_AMBIENT, 1, 99, 0, 0));
    TRY(prctl(PR_CAP_AMBIENT, 1, 0, 0, 0));
    TRY(prctl(PR_GET_SECCOMP));
    TRY(prctl(PR_GET_SECCOMP, 1, 2, 3, 4));
    TRY(prctl(PR_SET_SECCOMP, 0));
    TRY(prctl(PR_SET_SECCOMP, 7));
    TRY(prctl(PR_SET_FPEXC, 1));
    TRY(prctl(PR_GET_ENDIAN, &value));
    TRY(prctl(PR_SVE_GET_VL));
    TRY(prctl(99999));
    TRY(prctl(-1));
    syscall(SYS_set_tid_address, &word);
    if (prctl(PR_GET_TID_ADDRESS, &where) < 0 && errno == EINVAL)
        where = &word;
    IS(where == &word);
    unsigned long vector[128] = {0};
    int size = prctl(0x41555856, vector, sizeof vector, 0, 0);
    IS(size > 100 && vector[0] != 0);
    TRY(prctl(0x41555856, vector, sizeof vector, 1, 0));
    TRY(prctl(0x41555856, 8, sizeof vector, 0, 0));
}

static const char *answers[] = {
    "prctl(0x53564d41, 0, p, PAGE, \"bad[]\"): EINVAL", "prctl(0x53564d41, 0, p + 1, PAGE, \"good\"): EINVAL",
    "prctl(0x53564d41, 0, p, 4 * PAGE, \"good\"): ENOMEM", "prctl(0x53564d41, 1, p, PAGE, \"good\"): EINVAL",
    "prctl(0x53564d41, 0, p, PAGE, 8): EFAULT", "prctl(0x53564d41, 0, p, PAGE, 0): 0"};
static void names_of_memory(void) {
    char *p = mmap(0, 4 * PAGE, RW, ANONYMOUS, -1, 0), line[256];
    munmap(p + 3 * PAGE, PAGE);
    int named = prctl(0x53564d41, 0, p, PAGE, "my arena");
    if (named < 0 && errno == EINVAL) {
        /* A kernel without CONFIG_ANON_VMA_NAME. */
        for (int i = 0; i < 6; i++)
            puts(answers[i]);
        return;
    }
    TRY(prctl(0x53564d41, 0, p, PAGE, "bad[]"));
    TRY(prctl(0x53564d41, 0, p + 1, PAGE, "good"));
    TRY(prctl(0x53564d41, 0, p, 4 * PAGE, "good"));
    TRY(prctl(0x53564d41, 1, p, PAGE, "good"));
    TRY(prctl(0x53564d41, 0, p, PAGE, 8));
    TRY(prctl(0x53564d41, 0, p, PAGE, 0));
}

static void persona(void) {
    struct utsname before, now;
    uname(&before);
    IS(personality(0xffffffff) == PER_LINUX);
    IS(personality(ADDR_NO_RANDOMIZE) == PER_LINUX);
    IS(personality(0xffffffff) == ADDR_NO_RANDOMIZE);
    fflush(stdout);
    if (!fork()) {
        IS(personality(0xffffffff) == ADDR_NO_RANDOMIZE);
        IS(personality(PER_LINUX | 0x20000) == ADDR_NO_RANDOMIZE);
        uname(&now);
        IS(!strncmp(now.release, "2.6.", 4));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    uname(&now);
    IS(!strcmp(before.release, now.release) && !strcmp(before.domainname, now.domainname));
    puts(now.domainname);
    puts(now.nodename);
    TRY(uname((void *)8));
    TRY(sethostname((void *)8, -1));
    TRY(sethostname((void *)8, 65));
    TRY(setdomainname((void *)8, 65));
    TRY(setdomainname((void *)8, 5));
}

static void denied(void) {
    char *p = mmap(0, 2 * PAGE, RW, ANONYMOUS, -1, 0), *q = mmap(0, PAGE, PROT_READ | PROT_EXEC, ANONYMOUS, -1, 0);
    TRY(prctl(65, 2, 0, 0, 0));
    TRY(prctl(65, 1, 1, 0, 0));
    TRY(prctl(66, 0, 0, 0, 0));
    TRY(prctl(65, 1, 0, 0, 0));
    TRY(prctl(66, 0, 0, 0, 0));
    TRY(prctl(65, 0, 0, 0, 0));
    TRY(mmap(0, PAGE, RW | PROT_EXEC, ANONYMOUS, -1, 0));
    TRY(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
    TRY(mprotect(q, PAGE, PROT_EXEC));
    TRY(mprotect(q, PAGE, PROT_EXEC | RW));
    TRY(mprotect(q, PAGE, RW));
    TRY(mprotect(q, PAGE, PROT_EXEC));
    IS(mmap(0, PAGE, PROT_READ | PROT_EXEC, ANONYMOUS, -1, 0) != MAP_FAILED);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        IS(personality(0xffffffff) == (ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS));
        return 0;
    }
    child(attributes);
    names_of_memory();
    child(persona);
    child(denied);
    personality(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS);
    fflush(stdout);
    char *next[] = {argv[0], "again", 0};
    execv("/proc/self/exe", next);
}
