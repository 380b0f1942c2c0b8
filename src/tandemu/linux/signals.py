"""Signals of a program: actions, masks, delivery; signal(7) of Linux.

What the guest leaves at its default or ignores, the host's kernel does to this very
process. A signal that the guest handles is blocked on every host thread and fetched by
one thread of ours through a signalfd, as long as some guest thread would take it; it is
queued to that guest thread, which is kicked out of what it does and finds it when it
comes back to its loop. Signals that all guest threads block stay pending in the host's
kernel, where sigpending, sigtimedwait and signalfd of the guest find them.

SIGSEGV and SIGBUS cannot be blocked: the engine tells refused accesses by them. If the
guest has a say in them, the engine writes those that somebody sent into our thread's pipe.

Left out: a real-time signal's order against signals of the same number that arrive
while it is being queued; SIGSEGV and SIGBUS that are sent while the guest blocks them are
seen by sigpending, sigtimedwait and signalfd of nobody.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import errno
import os
import select
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.host import NUMBERS, SIGNAL_KICK, bit

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
_UNBLOCKABLE = bit(SIGKILL) | bit(SIGSTOP)
_SYNCHRONOUS = bit(SIGILL) | bit(SIGTRAP) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGSEGV)
_ACCESS = bit(SIGBUS) | bit(SIGSEGV)
_NEVER_BLOCKED = _UNBLOCKABLE | _ACCESS | bit(SIGNAL_KICK)
_ALL = (1 << 64) - 1

_RT_SIGTIMEDWAIT, _SIGNALFD4, _TGKILL = (
    NUMBERS["rt_sigtimedwait"], NUMBERS["signalfd4"], NUMBERS["tgkill"]
)  # fmt: skip
_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK
_DESCRIPTION = struct.Struct("<IiiIIiIIIIiiQQQQ")
_DESCRIPTION_SIZE = _INFORMATION_SIZE = 128
_NOTHING = bytes(_INFORMATION_SIZE)
"""A siginfo_t of no signal: only to wake our thread up."""
_SI_USER, _SI_KERNEL, _SI_TIMER, _SI_SIGIO, _SI_TKILL = 0, 0x80, -2, -5, -6
_MOST_POLL_CODES = 6
_FIRST_RESEND_MS, _LAST_RESEND_MS = 1, 64

_RLIMIT_CORE = 4

Word = ctypes.c_uint64


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


def thread_information(signal: int) -> bytes:
    """A siginfo_t of tgkill(2)."""
    return information(signal, _SI_TKILL, pid=os.getpid(), uid=os.getuid())


def _from_description(data: bytes) -> tuple[int, bytes]:
    """siginfo_t from struct signalfd_siginfo."""
    (
        signal, error, code, pid, uid, descriptor, timer, band, overrun, _, status, number,
        pointer, user_time, system_time, address,
    ) = _DESCRIPTION.unpack_from(data)  # fmt: skip
    head = struct.pack("<iiii", signal, error, code, 0)
    # Which of the union's members: siginfo_layout() of Linux.
    if 0 < code < _SI_KERNEL and signal == SIGCHLD:
        rest = struct.pack("<IIiiqq", pid, uid, status, 0, user_time, system_time)
    elif code == _SI_TIMER:
        rest = struct.pack("<IIQ", timer, overrun, pointer)
    elif 0 < code < _SI_KERNEL and bit(signal) & _SYNCHRONOUS:
        rest = struct.pack("<Q", address)
    elif code == _SI_SIGIO or (0 < code <= _MOST_POLL_CODES and signal != SIGSYS):
        rest = struct.pack("<qi", band, descriptor)
    else:
        rest = struct.pack("<IIQ", pid, uid, pointer or number & 0xFFFFFFFF)
    return signal, (head + rest).ljust(128, b"\0")


class Action:
    """What the guest wants done at a signal."""

    __slots__ = ("flags", "handler", "mask")

    def __init__(self, handler: int = 0, flags: int = 0, mask: int = 0) -> None:
        self.handler, self.flags, self.mask = handler, flags, mask


class Signals:
    """The signal state of one process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.actions = [Action() for _ in range(SIGNALS + 1)]
        self.handled = 0
        self._descriptor = -1
        self._poller = -1
        self._news = (-1, -1)
        """The pipe to our thread: one siginfo_t after the other."""
        self._fetched = 0
        self._told = 0
        self._lock = _thread.allocate_lock()
        self.thread_timers: dict[int, int] = {}
        """Threads that timers are for, by the kernel's number of the timer (SIGEV_THREAD_ID)."""

    # What the host must know -----------------------------------------------------------

    def host_mask(self, mask: int) -> int:
        """The host's mask of a thread whose guest mask is *mask*."""
        return (mask | self.handled) & ~_NEVER_BLOCKED

    def adopt_host(self) -> int:
        """Take over what the parent left: ignored signals, the mask; undo Python's."""
        # Python ignores SIGPIPE and SIGXFSZ: a program does not expect that. It catches SIGINT,
        # unless that was ignored.
        for signal in (SIGPIPE, SIGXFSZ):
            host.set_disposition(signal, 0)
        if host.get_disposition(SIGINT) != 1:
            host.set_disposition(SIGINT, 0)
        for signal in range(1, SIGNALS + 1):
            if not bit(signal) & _NEVER_BLOCKED and host.get_disposition(signal) == 1:
                self.actions[signal].handler = 1
        host.prepare_kick(self._kernel.native.kick_handler)
        return host.get_mask()

    def set_action(self, task: Task, signal: int, action: Action) -> None:
        """sigaction(2): a new *action* for *signal*."""
        self.actions[signal] = action
        mask = bit(signal)
        if signal == SIGNAL_KICK:
            return
        if mask & _ACCESS:
            if action.handler > 1:
                task.kernel.engine.be_precise()
            if action.handler:
                self._have_thread()
            return
        if action.handler > 1 or (action.handler == 0 and self._told & mask):
            if not self.handled & mask:
                self.handled |= mask
                # What the host does with it stays: threads that do not block it yet ignore
                # what was ignored, and what is pending is not lost.
                self._block_everywhere(task)
            if signal == SIGCHLD:
                self._tell_of_children(action.flags)
            self.watch()
        else:
            was_handled = self.handled & mask
            self.handled &= ~mask
            host.set_disposition(signal, action.handler)
            if signal == SIGCHLD:
                self._tell_of_children(action.flags, action.handler)
            if was_handled:
                self.watch()
                task.refresh_host_mask()

    def be_told_of_ends(self) -> None:
        """Fetch what people end programs with, as if it were handled: somebody wants a report."""
        for signal in _ENDS:
            if host.get_disposition(signal) != 1:
                self._told |= bit(signal)
        self.handled |= self._told

    @staticmethod
    def _tell_of_children(flags: int, handler: int = 0) -> None:
        words = (ctypes.c_uint64 * 4)(handler, flags & (SA_NOCLDSTOP | SA_NOCLDWAIT), 0, 0)
        host.quick(NUMBERS["rt_sigaction"], SIGCHLD, ctypes.addressof(words), 0, 8)

    def _block_everywhere(self, task: Task) -> None:
        task.refresh_host_mask()
        others = [other for other in self._kernel.tasks if other is not task]
        for other in others:
            # They set their own mask when they come by; until then the default rules.
            other.stale_mask = True
            other.kick()

    def watch(self) -> None:
        """Have the handled signals fetched that some guest thread does not block."""
        blocked = _ALL
        for task in self._kernel.tasks:
            blocked &= task.mask
        wanted = self.handled & ~blocked
        if wanted == self._fetched and (self._descriptor >= 0 or not wanted):
            return
        with self._lock:
            self._fetched = wanted
            if self._descriptor >= 0:
                self._fetch_only(wanted)
        self._have_thread()

    def _fetch_only(self, wanted: int) -> int:
        word = Word(wanted)
        place = ctypes.addressof(word)
        return host.quick(_SIGNALFD4, self._descriptor, place, 8, _CLOEXEC_NONBLOCK)

    def _have_thread(self) -> None:
        """Start our thread, if it does not run yet."""
        with self._lock, self._kernel.limits.room():
            if self._descriptor >= 0:
                return
            result = self._fetch_only(self._fetched)
            if result < 0:
                return
            hide = self._kernel.descriptors.hide
            self._descriptor = hide(result)
            reader, writer = (hide(end) for end in os.pipe2(_CLOEXEC_NONBLOCK))
            self._news = reader, writer
            with select.epoll() as poller:
                self._poller = hide(os.dup(poller.fileno()))
            self._kernel.engine.report_sent_signals(writer)
            # It inherits the mask: nothing is delivered to it.
            before = host.get_mask()
            host.set_mask(_ALL & ~_NEVER_BLOCKED)
            _thread.start_new_thread(self._fetch, (self._descriptor, reader))
            host.set_mask(before)

    def after_fork(self) -> None:
        """In the child, which blocks all signals: what the parent's thread did begins anew."""
        self._lock = _thread.allocate_lock()
        had_thread = self._descriptor >= 0
        self._kernel.engine.report_sent_signals(-1)
        for descriptor in (self._descriptor, self._poller, *self._news):
            if descriptor >= 0:
                self._kernel.descriptors.close(descriptor)
        self._descriptor, self._poller, self._news = -1, -1, (-1, -1)
        self._fetched = 0
        self.thread_timers.clear()
        if self.handled:
            self.watch()
        if had_thread:
            self._have_thread()

    def reset(self, task: Task) -> None:
        """execve: what was handled is at its default again; ignored signals stay so."""
        for signal in range(1, SIGNALS + 1):
            if self.actions[signal].handler > 1:
                self.set_action(task, signal, Action())
        task.alternate = (0, SS_DISABLE, 0)

    # The thread that fetches -----------------------------------------------------------

    def _fetch(self, descriptor: int, news: int) -> None:
        """Body of our thread: queue what arrives, repeat kicks that came too early."""
        # Unlike poll, it does not mind how many descriptors the program may have.
        poller = select.epoll.fromfd(self._poller)
        poller.register(descriptor, select.EPOLLIN)
        poller.register(news, select.EPOLLIN)
        pause = _FIRST_RESEND_MS
        while True:
            late = [task for task in self._kernel.tasks if task.attention]
            events = poller.poll(pause / 1000 if late else None)
            if events:
                pause = _FIRST_RESEND_MS
            else:
                pause = min(2 * pause, _LAST_RESEND_MS)
                for task in late:
                    if task.attention:
                        task.kick()
            for ready, _ in events:
                try:
                    data = os.read(ready, 16 * _DESCRIPTION_SIZE)
                except BlockingIOError:
                    continue
                except OSError:
                    return
                for start in range(0, len(data), _DESCRIPTION_SIZE):
                    one = data[start : start + _DESCRIPTION_SIZE]
                    if ready == descriptor:
                        self.queue(*_from_description(one), self._timer_thread(one))
                    elif one != _NOTHING:
                        self.queue(one[0], one)

    def _timer_thread(self, description: bytes) -> int:
        """The thread that a fetched signal is for alone; 0 if it is the process's."""
        if not self.thread_timers:
            return 0
        code, timer = _DESCRIPTION.unpack_from(description)[2:7:4]
        return self.thread_timers.get(timer, 0) if code == _SI_TIMER else 0

    def queue(self, signal: int, details: bytes, tid: int = 0) -> None:
        """Give *signal* to a guest thread that does not block it; the first, if it does not.

        To thread *tid* alone, if that is not 0.
        """
        tasks = list(self._kernel.tasks)
        for task in tasks:
            if task.tid == tid or not (tid or task.mask & bit(signal)):
                break
        else:
            if not tasks or tid:
                return
            task = tasks[0]
        task.pending.append((signal, details))
        task.attention = True
        task.kick()

    def send_to(self, sender: Task, task: Task, signal: int, details: bytes) -> None:
        """tgkill(2) inside the process, of a signal that *task* handles and does not block."""
        task.pending.append((signal, details))
        task.attention = True
        if task is not sender:
            task.kick()
            self._have_thread()
            # A pipe that is full wakes it as well.
            with contextlib.suppress(BlockingIOError):
                os.write(self._news[1], _NOTHING)

    def collect(self, task: Task, among: int) -> None:
        """Queue to *task* what is pending in the host's kernel *among* a set."""
        among &= self.handled
        while among:
            found = take_pending(among)
            if found is None:
                return
            task.pending.append(found)
            task.attention = True

    def is_taken_inside(self, signal: int) -> bool:
        """Whether *signal*, sent by the program to itself, must not go through the host."""
        action = self.actions[signal]
        return action.handler > 1 or signal == SIGNAL_KICK or self.is_synchronous(signal)

    @staticmethod
    def is_synchronous(signal: int) -> bool:
        """Whether *signal* is one of faults, which the host never blocks and we catch for us."""
        return bool(bit(signal) & _SYNCHRONOUS)


def take_pending(among: int) -> tuple[int, bytes] | None:
    """Take a signal of the set *among* that is pending on this thread or process."""
    word = Word(among)
    zero = (ctypes.c_int64 * 2)(0, 0)
    details = ctypes.create_string_buffer(128)
    result = host.quick(
        _RT_SIGTIMEDWAIT, ctypes.addressof(word), ctypes.addressof(details),
        ctypes.addressof(zero), 8,
    )  # fmt: skip
    if result <= 0:
        return None
    return result, details.raw


def send_back(signal: int, details: bytes) -> None:
    """Make *signal* pending on this thread in the host's kernel: it is blocked again."""
    buffer = ctypes.create_string_buffer(details, 128)
    number = NUMBERS["rt_tgsigqueueinfo"]
    place = ctypes.addressof(buffer)
    if host.quick(number, os.getpid(), _thread.get_native_id(), signal, place) == -errno.EPERM:
        host.quick(_TGKILL, os.getpid(), _thread.get_native_id(), signal)


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
        host.quick(_TGKILL, os.getpid(), _thread.get_native_id(), signal)
    host.set_mask(mask & ~bit(signal))
    host.set_mask(mask)
