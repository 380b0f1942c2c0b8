"""System calls on signals."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host, signals
from tandemu.linux.calls.helpers import pointer, signed
from tandemu.linux.calls.polling import with_mask
from tandemu.linux.host import NUMBERS, SIGNAL_KICK, bit
from tandemu.linux.signals import (
    SIGKILL,
    SIGNALS,
    SIGSTOP,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
    Action,
)
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_ACTION = struct.Struct("<QQQ")
_STACK = struct.Struct("<QiIQ")
_LEAST_STACK = 2048
_MASK64 = (1 << 64) - 1


@calls.row("rt_sigaction", "sig ptr ptr size")
def _rt_sigaction(task: Task, signal: int, new: int, old: int, size: int) -> int:
    signal = signed(signal)
    if size != 8 or not 1 <= signal <= SIGNALS:
        return -errno.EINVAL
    memory, state = task.memory, task.kernel.signals
    before = state.actions[signal]
    action = None
    if new:
        if signal in (SIGKILL, SIGSTOP):
            return -errno.EINVAL
        action = Action(*_ACTION.unpack(memory.read(new, 24)))
    if old:
        memory.write(old, _ACTION.pack(before.handler, before.flags, before.mask))
    if action is not None:
        state.set_action(task, signal, action)
    return 0


@calls.row("rt_sigprocmask", "int ptr ptr size")
def _rt_sigprocmask(task: Task, how: int, new: int, old: int, size: int) -> int:
    if size != 8:
        return -errno.EINVAL
    memory = task.memory
    before = task.mask
    mask = before
    if new:
        given = memory.read_word(new)
        how = signed(how)
        if how == host.SIG_BLOCK:
            mask = before | given
        elif how == host.SIG_UNBLOCK:
            mask = before & ~given
        elif how == host.SIG_SETMASK:
            mask = given
        else:
            return -errno.EINVAL
    if old:
        memory.write_word(old, before)
    task.set_mask(mask)
    return 0


@calls.row("rt_sigreturn")
def _rt_sigreturn(task: Task) -> None:
    task.leave_handler()


@calls.row("rt_sigpending", "ptr size")
def _rt_sigpending(task: Task, result: int, size: int) -> int:
    buffer = ctypes.create_string_buffer(8)
    done = host.quick(NUMBERS["rt_sigpending"], ctypes.addressof(buffer), 8)
    if done < 0:
        return done
    pending = int.from_bytes(buffer.raw, "little") & task.mask
    for signal, _ in task.pending:
        pending |= bit(signal)
    task.memory.write(result, pending.to_bytes(8, "little")[:size])
    return 0


@calls.row("rt_sigsuspend", "ptr size", restarts=False)
def _rt_sigsuspend(task: Task, mask: int, size: int) -> int:
    if size != 8:
        return -errno.EINVAL
    wanted = task.memory.read_word(mask)
    everything = ctypes.c_uint64()

    def wait() -> int:
        everything.value = task.kernel.signals.host_mask(task.mask)
        return host.call(NUMBERS["rt_sigsuspend"], ctypes.addressof(everything), 8)

    return with_mask(task, wanted, wait)


@calls.row("rt_sigtimedwait", "ptr ptr ptr size", restarts=False)
def _rt_sigtimedwait(task: Task, among: int, details: int, timeout: int, size: int) -> int:
    memory = task.memory
    if size != 8:
        return -errno.EINVAL
    wanted = memory.read_word(among)
    for index, (signal, information) in enumerate(task.pending):
        if wanted & bit(signal):
            del task.pending[index]
            if details:
                memory.write(details, information)
            return signal
    return host.call(
        NUMBERS["rt_sigtimedwait"], memory.host_address(among, 8), pointer(memory, details, 128),
        pointer(memory, timeout, 16), 8,
    )  # fmt: skip


@calls.row("sigaltstack", "ptr ptr")
def _sigaltstack(task: Task, new: int, old: int) -> int:
    memory = task.memory
    start, flags, size = task.alternate
    stack = task.kernel.architecture.stack_pointer(task.state)
    inside = not flags & SS_DISABLE and start < stack <= start + size
    wanted = _STACK.unpack(memory.read(new, 24)) if new else None
    if old:
        memory.write(old, _STACK.pack(start, flags | (SS_ONSTACK if inside else 0), 0, size))
    if wanted is not None:
        if inside:
            return -errno.EPERM
        new_start, new_flags, _, new_size = wanted
        new_flags &= 0xFFFFFFFF
        if new_flags & ~(SS_DISABLE | SS_ONSTACK | SS_AUTODISARM):
            return -errno.EINVAL
        if new_flags & SS_DISABLE:
            task.alternate = (0, SS_DISABLE, 0)
        elif new_size < _LEAST_STACK:
            return -errno.ENOMEM
        else:
            task.alternate = (new_start, new_flags & SS_AUTODISARM, new_size)
    return 0


def _to_thread(task: Task, tid: int, signal: int, details: bytes | None = None) -> int | None:
    """Send *signal* to a thread of this process; None: the host must do it."""
    kernel = task.kernel
    target = next((one for one in kernel.tasks if one.tid == tid), None)
    if target is None or not 1 <= signal <= SIGNALS:
        return None
    if kernel.signals.is_taken_inside(signal):
        blocked = target.mask & bit(signal)
        if blocked and signal != SIGNAL_KICK and not kernel.signals.is_synchronous(signal):
            return None
        kernel.signals.send_to(task, target, signal, details or signals.thread_information(signal))
        return 0
    if signal == SIGNAL_KICK:
        return 0
    return None


@calls.row("kill", "pid sig")
def _kill(task: Task, pid: int, signal: int) -> int:
    number, signal = signed(pid), signed(signal)
    state = task.kernel.signals
    if number == os.getpid() and 1 <= signal <= SIGNALS and state.is_taken_inside(signal):
        # Whoever signals himself has the signal before kill returns.
        candidates = [task, *task.kernel.tasks]
        target = next((one for one in candidates if not one.mask & bit(signal)), None)
        if target is None and state.is_synchronous(signal):
            target = task
        if target is not None:
            details = signals.information(signal, pid=os.getpid(), uid=os.getuid())
            state.send_to(task, target, signal, details)
            return 0
    return host.call(NUMBERS["kill"], pid, signal)


@calls.row("tkill", "pid sig")
def _tkill(task: Task, tid: int, signal: int) -> int:
    done = _to_thread(task, signed(tid), signed(signal))
    return host.call(NUMBERS["tkill"], tid, signal) if done is None else done


@calls.row("tgkill", "pid pid sig")
def _tgkill(task: Task, pid: int, tid: int, signal: int) -> int:
    if signed(pid) == os.getpid():
        done = _to_thread(task, signed(tid), signed(signal))
        if done is not None:
            return done
    return host.call(NUMBERS["tgkill"], pid, tid, signal)


@calls.row("rt_sigqueueinfo", "pid sig ptr")
def _rt_sigqueueinfo(task: Task, pid: int, signal: int, details: int) -> int:
    number = signed(signal)
    state = task.kernel.signals
    if signed(pid) == os.getpid() and 1 <= number <= SIGNALS and state.is_taken_inside(number):
        target = next((one for one in task.kernel.tasks if not one.mask & bit(number)), None)
        if target is None and state.is_synchronous(number):
            target = task
        if target is not None:
            data = struct.pack("<i", number) + task.memory.read(details + 4, 124)
            state.send_to(task, target, number, data)
            return 0
    place = task.memory.host_address(details, 128)
    return host.call(NUMBERS["rt_sigqueueinfo"], pid, signal, place)


@calls.row("rt_tgsigqueueinfo", "pid pid sig ptr")
def _rt_tgsigqueueinfo(task: Task, pid: int, tid: int, signal: int, details: int) -> int:
    if signed(pid) == os.getpid():
        data = struct.pack("<i", signed(signal)) + task.memory.read(details + 4, 124)
        done = _to_thread(task, signed(tid), signed(signal), data)
        if done is not None:
            return done
    place = task.memory.host_address(details, 128)
    return host.call(NUMBERS["rt_tgsigqueueinfo"], pid, tid, signal, place)


calls.direct("pidfd_send_signal", "fd sig ptr hex")


calls.refuse("restart_syscall", "interrupted calls are made again as they were")
