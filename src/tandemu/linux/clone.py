"""New processes by the host's kernel: fork(2) as Python does it, and clone3(2) with flags.

Python's fork makes a child that sends SIGCHLD and shares nothing. What a program asks for
beyond that (another signal, one table of descriptors, one directory, another parent) only the
system call itself can give; what Python and the C library do around a fork is done here then.
Source: clone(2); struct clone_args of uapi linux/sched.h.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import struct

from tandemu.linux import host
from tandemu.linux.host import NUMBERS

CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_PIDFD = 0x100, 0x200, 0x400, 0x800, 0x1000
CLONE_PTRACE, CLONE_VFORK, CLONE_PARENT, CLONE_THREAD = 0x2000, 0x4000, 0x8000, 0x10000
CLONE_SYSVSEM, CLONE_SETTLS, CLONE_PARENT_SETTID = 0x40000, 0x80000, 0x100000
CLONE_CHILD_CLEARTID, CLONE_DETACHED, CLONE_UNTRACED = 0x200000, 0x400000, 0x800000
CLONE_CHILD_SETTID, CLONE_IO = 0x1000000, 0x80000000
CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP = 1 << 32, 1 << 33
NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""

_HOSTS_OWN = (
    CLONE_FS | CLONE_FILES | CLONE_PARENT | CLONE_SYSVSEM | CLONE_UNTRACED | CLONE_IO
    | CLONE_INTO_CGROUP
)  # fmt: skip
_SIGCHLD = 17
_ARGUMENTS = struct.Struct("<11Q")
_TID_OFFSET = 720
"""Of the thread's number in the C library's struct pthread, on x86-64."""
_DESCRIPTOR_SIZE = 2048

_python = ctypes.pythonapi


class Wish:
    """What a program asks of clone, as far as it is the host's affair."""

    __slots__ = ("cgroup", "flags", "numbers", "signal")

    def __init__(
        self, flags: int = 0, signal: int = _SIGCHLD, numbers: tuple[int, ...] = (), cgroup: int = 0
    ) -> None:
        self.flags = flags & _HOSTS_OWN
        # With CLONE_PARENT it is the one of the caller itself, and clone3 takes no other.
        self.signal = 0 if flags & CLONE_PARENT else signal
        self.numbers = numbers
        """set_tid: which number the child is to have, innermost name space first."""
        self.cgroup = cgroup

    def is_plain(self) -> bool:
        """Whether fork(2) does it."""
        return self.signal == _SIGCHLD and not self.numbers and not self.flags & ~CLONE_UNTRACED


def _own_number() -> int:
    """Where the C library keeps the calling thread's number; 0 if it is not found."""
    library = ctypes.CDLL(None)
    library.pthread_self.restype = ctypes.c_size_t
    start, tid = library.pthread_self(), _thread.get_native_id()
    if ctypes.c_int32.from_address(start + _TID_OFFSET).value == tid:
        return int(start + _TID_OFFSET)
    for offset in range(0, _DESCRIPTOR_SIZE, 4):
        if ctypes.c_int32.from_address(start + offset).value == tid:
            return int(start + offset)
    return 0


def adopt() -> None:
    """In a child that the C library's fork has made without Python: tell Python."""
    _python.PyOS_AfterFork_Child()


def new_process(wish: Wish) -> int:
    """Fork as *wish* says: 0 in the child, its number in the parent; a negative error number."""
    if wish.is_plain():
        try:
            return os.fork()
        except OSError as error:
            return -(error.errno or errno.EAGAIN)
    numbers = (ctypes.c_int32 * max(len(wish.numbers), 1))(*wish.numbers)
    own = _own_number()
    arguments = _ARGUMENTS.pack(
        wish.flags | (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID if own else 0), 0, own, 0,
        wish.signal, 0, 0, 0,
        ctypes.addressof(numbers) if wish.numbers else 0, len(wish.numbers), wish.cgroup,
    )  # fmt: skip
    place = ctypes.create_string_buffer(arguments, _ARGUMENTS.size)
    _python.PyOS_BeforeFork()
    pid = host.quick(NUMBERS["clone3"], ctypes.addressof(place), _ARGUMENTS.size)
    if pid == 0:
        _python.PyOS_AfterFork_Child()
    else:
        _python.PyOS_AfterFork_Parent()
    return pid
