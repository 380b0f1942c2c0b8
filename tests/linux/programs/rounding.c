/* Conversions to nearest, ties away from zero: results and flags. */
#include <stdio.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#define CONV(NAME,INS,FT,IT) static inline IT NAME(FT x,unsigned*f){IT r; __asm__ volatile("fsflags zero\n" INS " %0,%2,rmm\nfrflags %1":"=r"(r),"=r"(*f):"f"(x)); return r;}
CONV(wd,"fcvt.w.d",double,int64_t) CONV(wud,"fcvt.wu.d",double,int64_t) CONV(ld,"fcvt.l.d",double,int64_t) CONV(lud,"fcvt.lu.d",double,uint64_t)
CONV(ws,"fcvt.w.s",float,int64_t) CONV(wus,"fcvt.wu.s",float,int64_t) CONV(ls,"fcvt.l.s",float,int64_t) CONV(lus,"fcvt.lu.s",float,uint64_t)
int main(){ uint64_t s=88172645463325252ull; unsigned long h=0; double sp[]={0,-0.0,0.5,-0.5,0.49999999999999994,1.5,2.5,-2.5,1e300,-1e300,INFINITY,-INFINITY,NAN,2147483647.5,2147483647.4,-2147483648.5,-2147483648.4,4294967295.5,4294967295.4,9223372036854775807.0,-9223372036854775808.0,18446744073709551615.0,4503599627370495.5,4503599627370496.0,9007199254740993.0,1e-320};
 for(int i=0;i<20000;i++){ double d; float f; uint64_t b; s^=s<<13;s^=s>>7;s^=s<<17; b=s; if(i<26) d=sp[i]; else { if(i&1){ b=(b&~(0x7ffull<<52))|((uint64_t)(1015+ (s>>20)%72)<<52);} memcpy(&d,&b,8);} uint32_t c=s; if(i&1) c=(c&~(0xffu<<23))|((119+(s>>40)%72)<<23); memcpy(&f,&c,4); if(i<26) f=d; unsigned x[8]; uint64_t r[8]={wd(d,x),wud(d,x+1),ld(d,x+2),lud(d,x+3),ws(f,x+4),wus(f,x+5),ls(f,x+6),lus(f,x+7)}; for(int k=0;k<8;k++){h=h*31+r[k]*7+x[k]; if(i<26) printf("%lx/%x ",(long)r[k],x[k]);} if(i<26)puts(""); }
 printf("%lx\n",h);
 return 0;
}
