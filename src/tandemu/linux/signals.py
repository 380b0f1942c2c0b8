"""Signals: what Python does with them. `native.signals` takes and delivers them.

What the guest leaves at its default or ignores, the host's kernel does to the process or to
nobody; each guest thread has its guest's mask on the host. Threads of ours block everything.

SIGSEGV and SIGBUS cannot be blocked: the engine tells refused accesses by them, and hands
those that somebody sent to the handler of all others.

Left out: of the signals that the host cannot block (SIGSEGV, SIGBUS and the last real-time
signal, which kicks) one at a time is held while the guest blocks it, and seen by sigpending,
sigtimedwait and signalfd of nobody.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import struct
from typing import TYPE_CHECKING, Any

from tandemu.linux import host
from tandemu.linux.host import NEVER_BLOCKED, NUMBERS, SIGNAL_KICK, bit

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel
    from tandemu.linux.task import Task

SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGSEGV, SIGPIPE = 4, 5, 6, 7, 8, 9, 11, 13
SIGINT, SIGCHLD, SIGCONT, SIGSTOP, SIGXFSZ, SIGSYS = 2, 17, 18, 19, 25, 31
SIGNALS = 64

SA_NOCLDSTOP, SA_NOCLDWAIT, SA_SIGINFO = 1, 2, 4
SA_ONSTACK, SA_RESTART, SA_NODEFER, SA_RESETHAND = 0x08000000, 0x10000000, 0x40000000, 0x80000000
SS_ONSTACK, SS_DISABLE, SS_AUTODISARM = 1, 2, 1 << 31

IGNORED_BY_DEFAULT = frozenset((SIGCHLD, SIGCONT, 23, 28))
STOPPING = frozenset((SIGSTOP, 20, 21, 22))
NAMES = (
    "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV",
    "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU",
    "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
)  # fmt: skip

_ENDS = (1, 2, 15)
"""SIGHUP, SIGINT, SIGTERM."""
_SI_USER = 0
_ALL = (1 << 64) - 1
_RLIMIT_CORE = 4


def name_of(signal: int) -> str:
    """SIGINT and the like."""
    if signal < len(NAMES):
        return "SIG" + NAMES[signal]
    return f"SIGRT_{signal - 32}"


def information(
    signal: int, code: int = _SI_USER, *, pid: int = 0, uid: int = 0, value: int = 0
) -> bytes:
    """A siginfo_t of a signal that somebody sent."""
    return struct.pack("<iiiiIIQ", signal, 0, code, 0, pid, uid, value).ljust(128, b"\0")


def fault_information(signal: int, code: int, address: int) -> bytes:
    """A siginfo_t of a fault at *address*."""
    return struct.pack("<iiiiQ", signal, 0, code, 0, address & _ALL).ljust(128, b"\0")


class Signals:
    """The signal state of one process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._process = kernel.native.process
        self.actions: Any = self._process.actions
        """What the guest wants done, by number: `native.layout.ACTION`."""
        native = kernel.native
        self._process.signal_handler = native.helper_address("handle_signal")
        kernel.engine.take_signals(
            native.helper_address("settle"), native.helper_address("handle_signal")
        )

    def adopt_host(self) -> int:
        """Take over what the parent left: ignored signals, the mask; undo Python's."""
        # Python ignores SIGPIPE and SIGXFSZ: a program does not expect that. It catches SIGINT,
        # unless that was ignored.
        for signal in (SIGPIPE, SIGXFSZ):
            host.set_disposition(signal, 0)
        if host.get_disposition(SIGINT) != 1:
            host.set_disposition(SIGINT, 0)
        for signal in range(1, SIGNALS + 1):
            if not bit(signal) & NEVER_BLOCKED and host.get_disposition(signal) == 1:
                self.actions[signal].handler = 1
        self._process.restorer = host.install_handler(SIGNAL_KICK, self._process.signal_handler)
        return host.get_mask()

    def be_told_of_ends(self) -> None:
        """Take what people end programs with, as if it were handled: somebody wants a report."""
        for signal in _ENDS:
            if host.get_disposition(signal) != 1:
                host.install_handler(signal, self._process.signal_handler)

    def catch_access(self, task: Task, signal: int) -> None:
        """The guest has another action for SIGSEGV or SIGBUS, which stays the engine's."""
        if self.actions[signal].handler > 1:
            task.kernel.engine.be_precise()

    def reset(self, task: Task) -> None:
        """execve: what was handled is at its default again; ignored signals stay so."""
        for signal in range(1, SIGNALS + 1):
            action = self.actions[signal]
            if action.handler > 1:
                action.handler = action.flags = action.mask = 0
                if not bit(signal) & NEVER_BLOCKED:
                    host.set_disposition(signal, 0)
        task.native.alternate_start = task.native.alternate_size = 0
        task.native.alternate_flags = 0


def dump_no_memory() -> None:
    """Have a core dump hold no memory: it would be ours, not the program's.

    That there is one is for the parent to see in the wait status.
    """
    try:
        with open("/proc/self/coredump_filter", "wb", buffering=0) as file:
            file.write(b"0")
    except OSError:
        none = (ctypes.c_uint64 * 2)(0, 0)
        host.quick(NUMBERS["setrlimit"], _RLIMIT_CORE, ctypes.addressof(none))


def act_by_default(signal: int) -> None:
    """Have the host's kernel do to this process what *signal* does by default."""
    host.set_disposition(signal, 0)
    mask = host.get_mask()
    if signal not in IGNORED_BY_DEFAULT and signal not in STOPPING:
        dump_no_memory()
    host.set_mask(mask | bit(signal))
    if signal not in IGNORED_BY_DEFAULT and signal not in STOPPING:
        host.quick(NUMBERS["kill"], os.getpid(), signal)
    else:
        host.quick(NUMBERS["tgkill"], os.getpid(), _thread.get_native_id(), signal)
    host.set_mask(mask & ~bit(signal))
    host.set_mask(mask)
