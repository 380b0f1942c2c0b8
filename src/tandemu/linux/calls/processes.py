"""System calls on processes and threads."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING, NoReturn

from tandemu.linux import host
from tandemu.linux.calls.helpers import for_host, pointer, signed
from tandemu.linux.errors import ProgramEnded
from tandemu.linux.host import NUMBERS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()
_MASK64 = (1 << 64) - 1

# Ending and waiting ---------------------------------------------------------------------


@calls.row("exit", "int")
def _exit(task: Task, status: int) -> NoReturn:
    task.exit_status = status & 0xFF
    raise ProgramEnded


@calls.row("exit_group", "int", native=True)
def _exit_group(task: Task, status: int) -> NoReturn:
    task.kernel.exit_group(status)


calls.direct("wait4", "pid ptr hex ptr")
calls.direct("waitid", "int pid ptr hex ptr")


# Identity -------------------------------------------------------------------------------


for _name, _arguments in (
    ("getpid", ""),
    ("getppid", ""),
    ("gettid", ""),
    ("getuid", ""),
    ("geteuid", ""),
    ("getgid", ""),
    ("getegid", ""),
    ("getresuid", "ptr ptr ptr"),
    ("getresgid", "ptr ptr ptr"),
    ("getpgid", "pid"),
    ("getsid", "pid"),
    ("setsid", ""),
    ("getgroups", "int ptr"),
    ("setgroups", "int ptr"),
    ("setuid", "int"),
    ("setgid", "int"),
    ("setreuid", "int int"),
    ("setregid", "int int"),
    ("setresuid", "int int int"),
    ("setresgid", "int int int"),
    ("setfsuid", "int"),
    ("setfsgid", "int"),
    ("capget", "ptr ptr"),
    ("capset", "ptr ptr"),
    ("getpriority", "int int"),
    ("setpriority", "int int int"),
    ("sched_yield", ""),
    ("sched_getaffinity", "pid size ptr"),
    ("sched_setaffinity", "pid size ptr"),
    ("sched_getscheduler", "pid"),
    ("sched_setscheduler", "pid int ptr"),
    ("sched_getparam", "pid ptr"),
    ("sched_setparam", "pid ptr"),
    ("sched_get_priority_max", "int"),
    ("sched_get_priority_min", "int"),
    ("sched_rr_get_interval", "pid ptr"),
    ("sched_getattr", "pid ptr int int"),
    ("sched_setattr", "pid ptr int"),
    ("ioprio_get", "int int"),
    ("ioprio_set", "int int int"),
    ("pidfd_open", "pid hex"),
    ("getcpu", "ptr ptr ptr"),
):
    calls.direct(_name, _arguments)


@calls.row("setpgid", "pid pid")
def _setpgid(task: Task, pid: int, group: int) -> int:
    number = signed(pid)
    if signed(group) >= 0 and task.kernel.offspring.has_started(number):
        # For a child that has started a program, once that is known to be one.
        return -errno.EACCES if os.getsid(number) == os.getsid(0) else -errno.EPERM
    return host.call(NUMBERS["setpgid"], pid, group)


_KCMP_EPOLL_TFD = 7


@calls.row("kcmp", "pid pid int long long")
def _kcmp(task: Task, first: int, second: int, kind: int, a: int, b: int) -> int:
    if signed(kind) == _KCMP_EPOLL_TFD:
        b = pointer(task.memory, b, 12)
    return host.call(NUMBERS["kcmp"], first, second, kind, a, b)


# Threads --------------------------------------------------------------------------------


@calls.row("set_tid_address", "ptr")
def _set_tid_address(task: Task, address: int) -> int:
    task.clear_tid = address
    return task.tid


calls.direct(
    "set_robust_list", "ptr size", missing="locks of a process that is killed from outside"
)


@calls.row("get_robust_list", "pid ptr ptr", missing="of other processes")
def _get_robust_list(task: Task, pid: int, head: int, size: int) -> int:
    pid = signed(pid)
    owner = next((one for one in task.kernel.tasks if one.tid == pid), None)
    if owner is None and pid:
        details = ctypes.create_string_buffer(16)
        place = ctypes.addressof(details)
        result = host.call(NUMBERS["get_robust_list"], pid, place, place + 8)
        # What the host knows of a process is Tandemu's own.
        return result if result < 0 else -errno.EPERM
    task.memory.write_word(head, (owner or task).robust_list)
    task.memory.write_word(size, 24)
    return 0


calls.direct("futex_wake", "ptr hex int hex")
calls.direct("futex_wait", "ptr long hex hex ptr int")
_WAITER = struct.Struct("<QQII")
"""struct futex_waitv: expected value, address, flags, none."""
_MOST_WAITERS = 128


def _waiters(task: Task, address: int, count: int) -> ctypes.Array[ctypes.c_char]:
    memory = task.memory
    packed = b"".join(
        _WAITER.pack(value, for_host(memory, place) & _MASK64, flags, rest)
        for value, place, flags, rest in _WAITER.iter_unpack(
            memory.read(address, count * _WAITER.size)
        )
    )
    return ctypes.create_string_buffer(packed, len(packed))


@calls.row("futex_waitv", "ptr int hex ptr int")
def _futex_waitv(task: Task, waiters: int, count: int, flags: int, timeout: int, clock: int) -> int:
    count &= 0xFFFFFFFF
    if flags & 0xFFFFFFFF or not waiters or not 0 < count <= _MOST_WAITERS:
        return -errno.EINVAL
    limit = for_host(task.memory, timeout) if timeout else 0
    buffer = _waiters(task, waiters, count)
    place = ctypes.addressof(buffer)
    return host.call(NUMBERS["futex_waitv"], place, count, flags, limit, clock)


@calls.row("futex_requeue", "ptr hex int int")
def _futex_requeue(task: Task, waiters: int, flags: int, wake: int, requeue: int) -> int:
    if flags & 0xFFFFFFFF or not waiters:
        return -errno.EINVAL
    buffer = _waiters(task, waiters, 2)
    place = ctypes.addressof(buffer)
    return host.call(NUMBERS["futex_requeue"], place, flags, wake, requeue)


calls.direct("futex", "ptr int int hex ptr int")


calls.refuse(
    "rseq", "the host would write into memory it takes for its own; the C library does without"
)
calls.refuse(
    "ptrace bpf perf_event_open setns init_module finit_module delete_module "
    "kexec_load kexec_file_load reboot landlock_create_ruleset landlock_add_rule "
    "landlock_restrict_self rseq_slice_yield listns",
    "as by a kernel that was built without it",
)
