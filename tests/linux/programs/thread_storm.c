/* Many threads at once: memory mapped and protected, code that runs while its page is protected anew,
   signals to anybody, children that start programs, calls that wait. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <errno.h>
#include <poll.h>
static volatile int stop; static volatile long signals, forks, maps, calls, execs; static char *code; static pthread_t threads[200]; static int count; static char *self;
static void on(int n){ __sync_fetch_and_add(&signals,1); }
static void *mapper(void *x){ long seed=(long)x; while(!stop){ seed=seed*1103515245+12345; long size=((seed>>16)&15)*4096+4096; char*p=mmap(0,size,3,0x22,-1,0); if(p==MAP_FAILED){printf("mmap %d\n",errno);exit(1);} memset(p,seed,size); if(p[size-1]!=(char)seed){printf("memory\n");exit(1);} if(mprotect(p,4096,PROT_READ)){printf("mprotect %d\n",errno);exit(1);} madvise(p,size,4); munmap(p,size); maps++; } return 0; }
static void *runner(void *x){ int(*f)(int)=(void*)code; while(!stop){ for(int i=0;i<1000;i++) if(f(i)!=i+1){printf("code\n");exit(1);} calls++; } return 0; }
static void *protector(void *x){ int k=0; while(!stop){ if(mprotect(code,4096,k++&1?7:5)){printf("prot\n");exit(1);} } return 0; }
static void *killer(void *x){ unsigned s=(long)x; while(!stop){ s=s*1103515245+12345; pthread_kill(threads[(s>>8)%count],SIGUSR1); struct timespec t={0,200000}; nanosleep(&t,0);} return 0; }
static void *forker(void *x){ while(!stop){ pid_t c=fork(); if(!c){ if((long)x&1){ char*a[]={self,"child",0}; execv(self,a); _exit(9);} _exit(7);} if(c<0){printf("fork %d\n",errno);exit(1);} int st; pid_t r; do r=waitpid(c,&st,0); while(r<0&&errno==EINTR); if(r!=c||(WEXITSTATUS(st)!=7)){printf("wait %d %x %d\n",r,st,errno);exit(1);} forks++; } return 0; }
static void *waiter(void *x){ int e[2]; pipe(e); char b; while(!stop){ struct pollfd p={e[0],POLLIN}; poll(&p,1,5); write(e[1],&b,1); if(read(e[0],&b,1)!=1&&errno!=EINTR){printf("read %d\n",errno);exit(1);} } return 0; }
int main(int c,char**v){ if(c>1&&!strcmp(v[1],"child")) return 7; self=v[0]; int seconds=c>1?atoi(v[1]):5, n=c>2?atoi(v[2]):20; struct sigaction a={.sa_handler=on,.sa_flags=SA_RESTART}; sigaction(SIGUSR1,&a,0); sigaction(SIGALRM,&a,0); code=mmap(0,4096,7,0x22,-1,0); unsigned i[]={0x0015051b,0x00008067}; memcpy(code,i,8); __builtin___clear_cache(code,code+8); struct itimerval t={{0,1000},{0,1000}}; setitimer(ITIMER_REAL,&t,0);
 void*(*kinds[])(void*)={mapper,runner,waiter,mapper,runner,killer,protector,forker}; for(count=0;count<n;count++){ threads[count]=pthread_self(); } for(long k=0;k<n;k++) if(pthread_create(&threads[k],0,kinds[k%8],(void*)k)){printf("create\n");return 1;} sleep(0); struct timespec s={seconds,0},rest; while(nanosleep(&s,&rest)&&errno==EINTR) s=rest; stop=1; for(int k=0;k<n;k++) pthread_join(threads[k],0); printf("signals %d forks %d maps %d calls %d\n",signals>0,forks>0,maps>0,calls>0); fprintf(stderr,"%ld %ld %ld %ld\n",signals,forks,maps,calls); return 0; }
