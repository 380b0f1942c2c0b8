"""The host's kernel, called by number: Linux on x86-64.

Everything goes through `call`, which takes plain integers (addresses included) and
returns what the kernel returned: a result, or a negative error number. `quick` is the
same for calls that never wait: it keeps Python's lock, which is cheaper.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Callable

from tandemu.linux.errors import LinuxError
from tandemu.linux.numbers_x86_64 import X86_64

NUMBERS = X86_64

_LIBRARY = ctypes.CDLL(None, use_errno=True)
_QUICK_LIBRARY = ctypes.PyDLL(None, use_errno=True)
_ARGUMENTS = [ctypes.c_long] * 7
_syscall = _LIBRARY.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = _ARGUMENTS
_quick_syscall = _QUICK_LIBRARY.syscall
_quick_syscall.restype = ctypes.c_long
_quick_syscall.argtypes = _ARGUMENTS
_errno = ctypes.get_errno

PAGE = 4096
SIGNAL_KICK = 33
"""The host signal that gets a thread out of a waiting call, if it is queued with `KICK_VALUE`.

C libraries keep it for calls between the threads of a process.
"""
KICK_VALUE = 0x7A6E64656D75
_SI_QUEUE = -1

_RT_SIGACTION = NUMBERS["rt_sigaction"]
_RT_SIGPROCMASK = NUMBERS["rt_sigprocmask"]
_PROCESS_VM_READV = NUMBERS["process_vm_readv"]
_ARCH_SET_GS = 0x1001
_SIGSEGV = 11
_SA_RESTORER = 0x04000000
_SA_SIGINFO = 4
SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK = 0, 1, 2

_Words4 = ctypes.c_uint64 * 4
_Word = ctypes.c_uint64


def call(
    number: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0
) -> int:
    """System call *number* of the host; -errno if it failed."""
    result: int = _syscall(number, a, b, c, d, e, f)
    return result if result != -1 else -(_errno() or 1)


def quick(
    number: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0
) -> int:
    """System call *number* that never waits; -errno if it failed."""
    result: int = _quick_syscall(number, a, b, c, d, e, f)
    return result if result != -1 else -(_errno() or 1)


def bound(count: int, *, without_waiting: bool = False) -> Callable[..., int]:
    """syscall(2) itself for *count* arguments behind the number: -1 and `failure` if it fails.

    Each further argument costs 60 ns in ctypes, and a Python function around it 100.
    """
    function = (_QUICK_LIBRARY if without_waiting else _LIBRARY)["syscall"]
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_long] * (count + 1)
    return function


def bound_openat2() -> Callable[..., int]:
    """`bound` for openat2(2): path and structure are bytes here, in our memory."""
    function = _LIBRARY["syscall"]
    function.restype = ctypes.c_long
    function.argtypes = [
        ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long,
    ]  # fmt: skip
    return function


def failure() -> int:
    """The negative error number of the call that just returned -1."""
    return -(_errno() or 1)


def check_host() -> None:
    """LinuxError if this host is none that programs can be run on."""
    machine = os.uname().machine
    if machine != "x86_64":
        raise LinuxError(
            f"programs can be run on x86-64 Linux only as yet, and this host is {machine};"
            " 'tandemu run' boots a whole machine instead"
        )


CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 14, 21, 24
_CAPABILITIES = (0x20080522).to_bytes(8, "little")  # version, the process itself


def has_capability(number: int) -> bool:
    """Whether this thread has a capability of number below 32 in effect (capabilities(7))."""
    head = ctypes.create_string_buffer(_CAPABILITIES, 8)
    data = ctypes.create_string_buffer(24)
    done = quick(NUMBERS["capget"], ctypes.addressof(head), ctypes.addressof(data))
    return done >= 0 and bool(int.from_bytes(data.raw[:4], "little") >> number & 1)


# Signals --------------------------------------------------------------------------------


def bit(signal: int) -> int:
    """The bit of *signal* in a mask."""
    return 1 << (signal - 1)


UNBLOCKABLE = bit(9) | bit(19)
NEVER_BLOCKED = UNBLOCKABLE | bit(7) | bit(11) | bit(SIGNAL_KICK)
"""Signals that guest threads never block on the host: SIGKILL, SIGSTOP; SIGBUS and SIGSEGV, which
tell of refused accesses; the kick."""


def kick(process: int, thread: int) -> None:
    """Get a thread of ours out of what it waits for; whoever it is for has been told."""
    information = struct.pack("<iii4xIIQ", SIGNAL_KICK, 0, _SI_QUEUE, 0, 0, KICK_VALUE)
    buffer = ctypes.create_string_buffer(information, 128)
    number = NUMBERS["rt_tgsigqueueinfo"]
    quick(number, process, thread, SIGNAL_KICK, ctypes.addressof(buffer))


def block_all() -> None:
    """Block all signals that can be: a thread of ours runs no guest code."""
    set_mask(((1 << 64) - 1) & ~NEVER_BLOCKED)


def set_mask(mask: int) -> None:
    """Set the calling thread's signal mask."""
    word = _Word(mask)
    quick(_RT_SIGPROCMASK, SIG_SETMASK, ctypes.addressof(word), 0, 8)


def get_mask() -> int:
    """The calling thread's signal mask."""
    word = _Word()
    quick(_RT_SIGPROCMASK, SIG_SETMASK, 0, ctypes.addressof(word), 8)
    return word.value


def set_disposition(signal: int, handler: int) -> None:
    """Give *signal* the default action (0) or ignore it (1)."""
    words = _Words4(handler, 0, 0, 0)
    quick(_RT_SIGACTION, signal, ctypes.addressof(words), 0, 8)


def get_disposition(signal: int) -> int:
    """0 default, 1 ignored, otherwise an address."""
    words = _Words4()
    quick(_RT_SIGACTION, signal, 0, ctypes.addressof(words), 8)
    return words[0]


def set_thread_pointer(address: int) -> None:
    """Have generated code find the structure at *address* on the calling thread (gs)."""
    quick(NUMBERS["arch_prctl"], _ARCH_SET_GS, address)


def _do_nothing() -> None:
    pass


def install_handler(signal: int, handler: int) -> int:
    """Have the native *handler* called for *signal*; what the kernel needs to return from one."""
    # libc takes the kick for itself when it makes its first thread. It shall have made one, and
    # that may still be there when the program gets its first signal, which is not for it.
    before = get_mask()
    block_all()
    _thread.start_new_thread(_do_nothing, ())
    set_mask(before)
    words = _Words4()
    # libc refuses to say anything of that signal; what returns from handlers is that of others.
    quick(_RT_SIGACTION, _SIGSEGV, 0, ctypes.addressof(words), 8)
    restorer = words[2]
    words = _Words4(handler, _SA_RESTORER | _SA_SIGINFO, restorer, (1 << 64) - 1)
    quick(_RT_SIGACTION, signal, ctypes.addressof(words), 0, 8)
    return restorer


# Memory ---------------------------------------------------------------------------------


class HostFault(OSError):
    """Memory that is not there, or not to be used so: EFAULT."""

    def __init__(self) -> None:
        super().__init__(errno.EFAULT, "bad address")


_copy_for_us = bound(6, without_waiting=True)


def copy(target: int, source: int, size: int, *, write: bool) -> None:
    """Copy between host addresses such that a bad one is `HostFault`, never a crash.

    The kernel does it for us, on ourselves: *write* says which side is in doubt.
    """
    if write:
        vectors = _Words4(source, size, target, size)
        number = _PROCESS_VM_READV + 1
    else:
        vectors = _Words4(target, size, source, size)
        number = _PROCESS_VM_READV
    place = ctypes.addressof(vectors)
    done = _copy_for_us(number, os.getpid(), place, 1, place + 16, 1, 0)
    if done != size:
        done = done if done != -1 else failure()
        if done in (-errno.EPERM, -errno.ENOSYS):
            raise LinuxError(
                "the host forbids process_vm_readv on the process itself, which running a"
                " program needs; allow it in the container's seccomp profile"
            )
        raise HostFault


def copied_prefix(target: int, source: int, size: int) -> int:
    """Copy as much as is there, at most *size* bytes; return how much."""
    vectors = _Words4(target, size, source, size)
    place = ctypes.addressof(vectors)
    return max(0, _copy_for_us(_PROCESS_VM_READV, os.getpid(), place, 1, place + 16, 1, 0))


def high_descriptor(descriptor: int) -> int:
    """Move *descriptor* out of the way of the guest's numbers; closed on exec."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least = min(soft, 1 << 16) - 16 if soft != resource.RLIM_INFINITY else 1 << 16
    moved = call(NUMBERS["fcntl"], descriptor, 1030, max(least, 3))
    if moved < 0:
        return descriptor
    os.close(descriptor)
    return moved
