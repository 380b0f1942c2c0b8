"""ioctl(2): which commands are passed to the host, and how their argument goes there.

A command is a number that tells less than one would wish: whether its argument is a number, a
pointer to flat memory, or to memory that holds pointers in its turn. A number must not be passed
on as an address nor the other way round, so a command that is not known here fails with ENOTTY, as
with a driver that does not know it (asm-generic/ioctl.h: direction in bits 30 and 31, size in
bits 16 to 29, type in bits 8 to 15).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import for_host
from tandemu.linux.host import NUMBERS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

WITH_POINTER = frozenset((
    # Files: FIBMAP, FIGETBSZ; a disk's geometry.
    0x0001, 0x0002, 0x0301,
    # Terminals: TCGETS … TCSETAF, TIOCGPGRP, TIOCSPGRP, TIOCOUTQ, windows, modems, pairs.
    0x5401, 0x5402, 0x5403, 0x5404, 0x5405, 0x5406, 0x5407, 0x5408, 0x540F, 0x5410, 0x5411,
    0x5412, 0x5413, 0x5414, 0x5415, 0x5416, 0x5417, 0x5418, 0x5419, 0x541A, 0x541B, 0x541E,
    0x541F, 0x5420, 0x5421, 0x5423, 0x5424, 0x5429, 0x542E, 0x542F, 0x5432, 0x5433, 0x5434,
    0x5435, 0x5452, 0x5456, 0x5457, 0x545D, 0x5460,
    # Consoles: KDGKBTYPE, KDGETMODE, KDGKBMODE, VT_OPENQRY … VT_GETSTATE.
    0x4B33, 0x4B3B, 0x4B44, 0x5600, 0x5601, 0x5602, 0x5603,
    # Sockets: owner, at-mark, time stamp; names, flags, addresses of interfaces; the ARP table.
    0x8901, 0x8902, 0x8903, 0x8904, 0x8905, 0x8906, 0x8907,
    0x8910, 0x8913, 0x8914, 0x8915, 0x8916, 0x8917, 0x8918, 0x8919, 0x891A, 0x891B, 0x891C,
    0x891D, 0x891E, 0x8921, 0x8922, 0x8923, 0x8924, 0x8927, 0x8931, 0x8932, 0x8933, 0x8934,
    0x8935, 0x8936, 0x8938, 0x8942, 0x8943, 0x8947, 0x8948, 0x894B, 0x8953, 0x8954, 0x8955,
    0x8970,
    # Block devices: read-only, sizes, alignment, discarding; loop devices: status.
    0x125D, 0x125E, 0x1260, 0x1263, 0x1265, 0x1267, 0x1268, 0x1277, 0x1278, 0x1279, 0x127A,
    0x127B, 0x127C, 0x127D, 0x127E, 0x127F, 0x4C04, 0x4C05, 0x4C0A,
))  # fmt: skip
WITH_NUMBER = frozenset((
    # TCSBRK, TCXONC, TCFLSH, TIOCEXCL, TIOCNXCL, TIOCSCTTY, TIOCCONS, TIOCNOTTY, TCSBRKP,
    # TIOCSBRK, TIOCCBRK, TIOCGPTPEER, TIOCVHANGUP, FIOCLEX, FIONCLEX, TIOCMIWAIT, TIOCSIG.
    0x5409, 0x540A, 0x540B, 0x540C, 0x540D, 0x540E, 0x541D, 0x5422, 0x5425, 0x5427, 0x5428,
    0x5441, 0x5437, 0x5450, 0x5451, 0x545C, 0x40045436,
    # KDSETMODE, KDSKBMODE, VT_RELDISP, VT_ACTIVATE, VT_WAITACTIVE, VT_DISALLOCATE.
    0x4B3A, 0x4B45, 0x5605, 0x5606, 0x5607, 0x5608,
    # FICLONE takes a descriptor; the next one that inotify gives; a socket's name space.
    0x40049409, 0x40044900, 0x894C,
    # Block devices: partitions, flushing, read-ahead; loop devices: file, size.
    0x125F, 0x1261, 0x1262, 0x1264, 0x4C00, 0x4C01, 0x4C06, 0x4C07, 0x4C08, 0x4C09,
    0x4C80, 0x4C81, 0x4C82,
    # TUNSETPERSIST, TUNSETOWNER, TUNSETLINK, TUNSETGROUP, TUNSETOFFLOAD; RNDZAPENTCNT,
    # RNDCLEARPOOL, RNDRESEEDCRNG; alarms of a real-time clock, its rate and epoch.
    0x400454CB, 0x400454CC, 0x400454CD, 0x400454CE, 0x400454D0, 0x5204, 0x5206, 0x5207,
    0x7001, 0x7002, 0x7003, 0x7004, 0x7005, 0x7006, 0x700F, 0x7010, 0x4008700C, 0x4008700E,
    # EVIOCRMFF, EVIOCGRAB, EVIOCREVOKE; name spaces by descriptor.
    0x40044581, 0x40044590, 0x40044591, 0xB701, 0xB702, 0xB703,
    *range(0xFF01, 0xFF0B),
))  # fmt: skip

_FLAT_TYPES = frozenset(b"TRWEfvp=\x12\x15\x89\x8a\xb4\xff")
"""Their commands with a size have a flat structure: terminals and timers, random numbers,
watchdogs, input devices, file attributes, clocks, block devices, sockets, epoll, GPIO."""
_FLAT = frozenset((
    # FIFREEZE, FITHAW, FITRIM, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FS_IOC_GETFSMAP.
    0xC0045877, 0xC0045878, 0xC0185879, 0x801C581F, 0x401C5820, 0xC0C0583B,
    # FICLONERANGE, FIDEDUPERANGE, FS_IOC_GETFSLABEL, FS_IOC_SETFSLABEL.
    0x4020940D, 0xC0189436, 0x81009431, 0x41009432,
))  # fmt: skip
_NOT_FLAT = frozenset((
    # EVIOCSFF, FS_IOC_ENABLE_VERITY, FS_IOC_READ_VERITY_METADATA, TUNATTACHFILTER, TUNGETFILTER.
    0x40304580, 0x40806685, 0xC0286687, 0x401054D5, 0x801054DB,
))  # fmt: skip
_SIOCGIFCONF, _SIOCETHTOOL = 0x8912, 0x8946
_INTERFACES = struct.Struct("<iiQ")
"""struct ifconf: bytes, none, pointer to them."""
_NAME_SIZE, _REQUEST_SIZE = 16, 40
_O_PATH = 0o10000000


@calls.row(
    "ioctl", "fd hex hex", native=True,
    missing="commands whose structure holds pointers, but for SIOCGIFCONF and SIOCETHTOOL",
)  # fmt: skip
def _ioctl(task: Task, descriptor: int, command: int, argument: int) -> int:
    command &= 0xFFFFFFFF
    if command in WITH_POINTER or _is_flat(command):
        argument = for_host(task.memory, argument) if argument else 0
    elif command == _SIOCGIFCONF:
        return _list_interfaces(task, descriptor, argument)
    elif command == _SIOCETHTOOL:
        return _ethernet(task, descriptor, argument)
    elif command not in WITH_NUMBER:
        flags = host.call(NUMBERS["fcntl"], descriptor, 3)
        if flags < 0:
            return flags
        return -errno.EBADF if flags & _O_PATH else -errno.ENOTTY
    return host.call(NUMBERS["ioctl"], descriptor, command, argument)


def _is_flat(command: int) -> bool:
    """Whether the argument is a pointer to flat memory whose size the command tells."""
    if not command >> 30 or command in WITH_NUMBER:
        return False
    return command in _FLAT or (command >> 8 & 0xFF in _FLAT_TYPES and command not in _NOT_FLAT)


def _list_interfaces(task: Task, descriptor: int, address: int) -> int:
    memory = task.memory
    result = host.call(NUMBERS["fcntl"], descriptor, 3)
    if result < 0:
        return result
    size, rest, place = _INTERFACES.unpack(memory.read(address, _INTERFACES.size))
    given = _INTERFACES.pack(size, rest, for_host(memory, place) if place else 0)
    buffer = ctypes.create_string_buffer(given, _INTERFACES.size)
    result = host.call(NUMBERS["ioctl"], descriptor, _SIOCGIFCONF, ctypes.addressof(buffer))
    if result >= 0:
        memory.write(address, buffer.raw[:4])
    return result


def _ethernet(task: Task, descriptor: int, address: int) -> int:
    """What the request points to is flat."""
    memory = task.memory
    result = host.call(NUMBERS["fcntl"], descriptor, 3)
    if result < 0:
        return result
    request = bytearray(memory.read(address, _REQUEST_SIZE))
    place = int.from_bytes(request[_NAME_SIZE : _NAME_SIZE + 8], "little")
    moved = for_host(memory, place) & 0xFFFFFFFFFFFFFFFF
    request[_NAME_SIZE : _NAME_SIZE + 8] = moved.to_bytes(8, "little")
    buffer = ctypes.create_string_buffer(bytes(request), _REQUEST_SIZE)
    return host.call(NUMBERS["ioctl"], descriptor, _SIOCETHTOOL, ctypes.addressof(buffer))
