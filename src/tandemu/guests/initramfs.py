"""A small initramfs around a statically linked BusyBox and any ``/init``.

The kernel unpacks it into its root file system and runs ``/init``
(``Documentation/filesystems/ramfs-rootfs-initramfs.rst``). The same input gives
the same bytes, so an image can be told by its checksum.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping

from tandemu.guests import cpio
from tandemu.guests.errors import GuestError

_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp")
_APPLET = re.compile(rb"[a-z0-9_.+\-\[]{1,32}")
_MAXIMUM_APPLETS = 1000

RISCV_FINISHER, X86_FINISHER = 0x10_0000, 0xFE00_0000
"""Where the boards have the register through which a guest reports an exit code."""

_SHELL_INIT = """\
#!/bin/sh
# The first process: prepare the file systems, greet, run a shell, power off.
# BusyBox's poweroff, halt and reboot send it these signals. A halted machine is of no more use.
trap 'sync; poweroff -f' USR1 USR2
trap 'sync; reboot -f' TERM
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /tmp
hostname tandemu
ip link set lo up 2>/dev/null
[ -f /etc/modules ] && for module in $(cat /etc/modules); do insmod "$module"; done
@ROOT@@NETWORK@cd /root
[ -n "$LINES" ] && [ -n "$COLUMNS" ] && stty rows "$LINES" cols "$COLUMNS" 2>/dev/null
echo
uptime=$(cut -d' ' -f1 /proc/uptime)
echo "Linux $(uname -r) on $(uname -m), $(nproc) CPU(s), up after $uptime s." \\
    "'exit' or 'poweroff' powers the machine off, 'reboot' starts it anew."
# The second setsid leaves it running, so that the signals above are heard meanwhile. What the
# shell itself runs in the background ignores Ctrl-C for ever.
mkfifo /run/ended
setsid setsid sh -c 'setsid cttyhack sh; echo $? >/run/ended'
cat /run/ended >/run/status &
wait $!
status=$(cat /run/status)
sync
# The shell's exit status reaches the host through the machine's test finisher
# where there is one: 0x3333 and the status above it. Without it, plain power-off.
[ "$status" -ne 0 ] && devmem @FINISHER@ 32 $((status << 16 | 0x3333)) 2>/dev/null
poweroff -f
"""


_OTHER_ROOT = """\
# With root= on the kernel's command line, the system is there and this was only its begin.
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) type=${word#rootfstype=} ;;
    init=*) init=${word#init=} ;;
    esac
done
if [ -n "$root" ]; then
    tries=0
    while [ ! -b "$root" ] && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    mkdir -p /newroot
    if mount -t "${type:-ext4}" "$root" /newroot; then
        umount /proc /sys /dev/pts /tmp
        exec switch_root /newroot "${init:-/sbin/init}"
    fi
    echo "tandemu: $root cannot be mounted; this shell is to look why"
fi
"""


_NETWORK = """\
# Each network card gets its address from the network's own server.
for card in /sys/class/net/eth*; do
    [ -e "$card" ] || continue
    ip link set "${card##*/}" up
    udhcpc -i "${card##*/}" -O search -q -n -t 3 -T 1 -s /etc/udhcpc.sh >/dev/null 2>&1
done
"""

NETWORK_SCRIPT = b"""\
#!/bin/sh
# What udhcpc(8) runs with what a server told it.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
[ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
[ -n "$router" ] && ip route replace default via "${router%% *}"
: >/etc/resolv.conf
[ -n "$search" ] && echo "search $search" >>/etc/resolv.conf
for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
"""
"""``/etc/udhcpc.sh`` of a guest that sets its network up."""


def shell_init(finisher: int = RISCV_FINISHER, *, network: bool = False) -> str:
    """A ``/init``: a shell on the console, power-off when it ends with its exit status.

    *network*: each card is given what DHCP says, by `NETWORK_SCRIPT`.
    """
    init = _SHELL_INIT.replace("@FINISHER@", f"{finisher:#x}").replace("@ROOT@", _OTHER_ROOT)
    return init.replace("@NETWORK@", _NETWORK if network else "")


SHELL_INIT = shell_init()
"""The default guest's ``/init``."""


def applets(busybox: bytes) -> list[str]:
    """Return the applet names a BusyBox executable holds, from its own sorted table.

    The table starts with ``[`` and ``[[`` and ends with an empty string. It is
    read because the executable is a foreign one and cannot be asked.
    """
    start = busybox.find(b"[\0[[\0")
    if start < 0:
        raise GuestError("no applet table in this BusyBox: is it a BusyBox executable with ash?")
    names: list[str] = []
    while len(names) < _MAXIMUM_APPLETS:
        end = busybox.find(b"\0", start, start + 64)
        name = busybox[start:end] if end >= 0 else b""
        if not _APPLET.fullmatch(name):
            break
        names.append(name.decode())
        start = end + 1
    if "sh" not in names or "mount" not in names:
        raise GuestError("this BusyBox has no sh or no mount applet: a fuller build is needed")
    return names


def build_initramfs(
    *,
    busybox: bytes,
    init: str = SHELL_INIT,
    files: Mapping[str, bytes] | None = None,
    compress: bool = True,
) -> bytes:
    """Return an initramfs: BusyBox with a link for each applet, ``/init``, and *files*.

    *files* maps absolute guest paths to contents; missing directories are made, and
    what starts with ``#!`` or is an ELF file becomes executable. *compress*: gzip.
    """
    entries: dict[str, cpio.Entry] = {}
    for name in _DIRECTORIES:
        entries[name] = cpio.directory(name, 0o1777 if name == "tmp" else 0o755)
    # The kernel opens /dev/console for the first process before anything is mounted.
    entries["dev/console"] = cpio.character_device("dev/console", 5, 1)
    entries["dev/null"] = cpio.character_device("dev/null", 1, 3, 0o666)
    entries["bin/busybox"] = cpio.file("bin/busybox", busybox, 0o755)
    for name in applets(busybox):
        if name != "busybox":
            entries[f"bin/{name}"] = cpio.symlink(f"bin/{name}", "busybox")
    entries["init"] = cpio.file("init", init.encode(), 0o755)
    for path, data in (files or {}).items():
        relative = path.strip("/")
        parents = relative.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = "/".join(parents[:depth])
            entries.setdefault(parent, cpio.directory(parent))
        mode = 0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644
        # A file takes the place of what stood there, an applet's link for one.
        entries[relative] = cpio.file(relative, data, mode)
    archive = cpio.write(entries.values())
    return gzip.compress(archive, compresslevel=6, mtime=0) if compress else archive


def busybox_of(archive: bytes) -> bytes:
    """The BusyBox in an archive that `build_initramfs` made without compressing it."""
    for entry in cpio.read(archive):
        if entry.path == "bin/busybox":
            return entry.data
    raise GuestError("there is no bin/busybox in this archive")
