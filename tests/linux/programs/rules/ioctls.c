#include "rules.h"
#include <linux/fs.h>
#include <linux/random.h>
#include <linux/rtc.h>
#include <net/if.h>
#include <poll.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

static int errno_of(int result) { return result < 0 ? errno : 0; }

static void interfaces(void) {
    char buffer[4096];
    struct ifconf list = {.ifc_len = sizeof buffer, .ifc_buf = buffer}, none = {0};
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), found = 0;
    TRY(ioctl(fd, SIOCGIFCONF, &list));
    for (int i = 0; i < list.ifc_len / (int)sizeof(struct ifreq); i++) {
        struct sockaddr_in *address = (void *)&list.ifc_req[i].ifr_addr;
        found += !strcmp(list.ifc_req[i].ifr_name, "lo") && address->sin_addr.s_addr == htonl(0x7f000001);
    }
    ioctl(fd, SIOCGIFCONF, &none);
    printf("%d %d\n", found, none.ifc_len == list.ifc_len);
    list.ifc_len = 10;
    TRY(ioctl(fd, SIOCGIFCONF, &list));
    printf("%d\n", list.ifc_len);
    list.ifc_len = 4096, list.ifc_buf = (void *)8;
    TRY(ioctl(fd, SIOCGIFCONF, &list));
    TRY(ioctl(fd, SIOCGIFCONF, 8));
    TRY(ioctl(99, SIOCGIFCONF, &list));
    strcpy(request.ifr_name, "lo");
    TRY(ioctl(fd, SIOCGIFINDEX, &request));
    TRY(ioctl(fd, SIOCGIFMTU, &request));
    IS(ioctl(fd, SIOCGIFFLAGS, &request) == 0 && request.ifr_flags & IFF_LOOPBACK);
    IS(ioctl(fd, SIOCGIFHWADDR, &request) == 0 && request.ifr_hwaddr.sa_family == 772);
    request.ifr_ifindex = 1;
    TRY(ioctl(fd, SIOCGIFNAME, &request));
    IS(!strcmp(request.ifr_name, "lo"));
    strcpy(request.ifr_name, "none");
    TRY(ioctl(fd, SIOCGIFINDEX, &request));
    unsigned link[16] = {10};
    strcpy(request.ifr_name, "lo");
    request.ifr_data = (void *)link;
    TRY(ioctl(fd, 0x8946, &request));
    printf("link %d\n", link[1]);
    request.ifr_data = (void *)8;
    TRY(ioctl(fd, 0x8946, &request));
}

static void files(void) {
    int one = open("one", O_CREAT | O_RDWR, 0600), two = open("two", O_CREAT | O_RDWR, 0600);
    int path = open("one", O_PATH), folder = open(".", O_RDONLY), zero = open("/dev/zero", O_RDONLY);
    struct { unsigned long start, length; unsigned flags, mapped, count, reserved; } map = {0, ~0UL};
    struct { long fd; unsigned long offset, length, to; } range = {one, 0, 0, 0};
    int number = 0, bits = -1;
    long flags = 0;
    write(one, "hello", 5);
    TRY(ioctl(one, FIONREAD, &number));
    printf("%d\n", number);
    TRY(ioctl(one, FIGETBSZ, &number));
    printf("%d\n", number);
    printf("%d\n", errno_of(ioctl(one, 0xc020660b, &map)));
    printf("%d\n", errno_of(ioctl(two, 0x40049409, one)));
    printf("%d\n", errno_of(ioctl(two, 0x4020940d, &range)));
    printf("%d\n", errno_of(ioctl(two, 0x4020940d, 8)));
    printf("%d %d\n", errno_of(ioctl(one, FS_IOC_GETFLAGS, &flags)), errno_of(ioctl(one, FS_IOC_GETFLAGS, 8)));
    printf("%d\n", errno_of(ioctl(one, FS_IOC_GETVERSION, &flags)));
    char label[256];
    printf("%d\n", errno_of(ioctl(one, 0x81009431, label)));
    struct fsxattr attributes;
    printf("%d\n", errno_of(ioctl(one, FS_IOC_FSGETXATTR, &attributes)));
    TRY(ioctl(path, FIONREAD, &number));
    TRY(ioctl(path, 0x12345678, &number));
    TRY(ioctl(path, TCGETS, &number));
    TRY(ioctl(99, FIONREAD, &number));
    TRY(ioctl(99, 0x12345678, &number));
    TRY(ioctl(one, 0x12345678, &number));
    TRY(ioctl(one, TCGETS, &number));
    TRY(ioctl(folder, FIONREAD, &number));
    TRY(ioctl(zero, FIONREAD, &number));
    TRY(ioctl(zero, RNDGETENTCNT, &bits));
    TRY(ioctl(one, BLKGETSIZE64, &flags));
    TRY(ioctl(one, RTC_RD_TIME, label));
    TRY(ioctl(one, FIONREAD, 8));
    TRY(ioctl(one, FIOCLEX));
    IS(fcntl(one, F_GETFD) == FD_CLOEXEC);
    TRY(ioctl(one, FIONCLEX));
    IS(fcntl(one, F_GETFD) == 0);
    number = 1;
    TRY(ioctl(one, FIONBIO, &number));
    IS(fcntl(one, F_GETFL) & O_NONBLOCK);
    int random = open("/dev/random", O_RDONLY);
    TRY(ioctl(random, RNDGETENTCNT, &bits));
    printf("%d\n", bits);
    TRY(ioctl(random, RNDGETENTCNT, 8));
    unlink("one"), unlink("two");
}

static void terminals(void) {
    int master = posix_openpt(O_RDWR | O_NOCTTY), number = 0, locked = 0;
    TRY(ioctl(master, TIOCGPTN, &number) < 0);
    TRY(ioctl(master, TIOCSPTLCK, &locked));
    TRY(ioctl(master, TIOCGPTLCK, &locked));
    printf("%d\n", locked);
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    IS(slave >= 0);
    struct winsize size = {24, 80}, got = {0};
    TRY(ioctl(master, TIOCSWINSZ, &size));
    TRY(ioctl(slave, TIOCGWINSZ, &got));
    printf("%d %d\n", got.ws_row, got.ws_col);
    struct termios settings;
    TRY(tcgetattr(slave, &settings));
    printf("%x %x\n", settings.c_lflag, (unsigned)cfgetospeed(&settings));
    cfmakeraw(&settings);
    TRY(tcsetattr(slave, TCSANOW, &settings));
    write(master, "abc", 3);
    struct pollfd ready = {slave, POLLIN};
    poll(&ready, 1, -1);
    TRY(ioctl(slave, FIONREAD, &number));
    printf("%d\n", number);
    TRY(tcflush(slave, TCIFLUSH));
    ioctl(slave, FIONREAD, &number);
    printf("%d\n", number);
    TRY(ioctl(slave, TIOCGSID, &number));
    TRY(tcgetpgrp(slave));
    number = 1;
    TRY(ioctl(master, TIOCPKT, &number));
    TRY(ioctl(master, 0x80045438, &number));
    printf("%d\n", number);
    TRY(ioctl(slave, 0x542a, &settings));
    TRY(ioctl(slave, TIOCMGET, &number));
    TRY(tcdrain(slave));
    TRY(ioctl(slave, TIOCEXCL));
    TRY(ioctl(slave, 0x80045440, &number));
    printf("%d\n", number);
}

int main(void) {
    interfaces();
    files();
    terminals();
}
