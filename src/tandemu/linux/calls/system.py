"""System calls on the system: names, limits, randomness."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import pointer, signed
from tandemu.linux.host import NUMBERS
from tandemu.linux.limits import KINDS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_LIMIT = struct.Struct("<QQ")
_MASK32 = 0xFFFFFFFF


calls.direct("uname", "ptr")
calls.direct("getrandom", "out size hex")
calls.direct("sysinfo", "ptr")
calls.direct("syslog", "int out size")
calls.direct("sethostname", "in size")
calls.direct("setdomainname", "in size")


def _limit_at(task: Task, address: int) -> tuple[int, int]:
    soft, hard = _LIMIT.unpack(task.memory.read(address, _LIMIT.size))
    return soft, hard


@calls.row("getrlimit", "int ptr")
def _getrlimit(task: Task, kind: int, result: int) -> int:
    kind &= _MASK32
    if kind >= KINDS:
        return -errno.EINVAL
    task.memory.write(result, _LIMIT.pack(*task.kernel.limits.get(kind)))
    return 0


@calls.row("setrlimit", "int ptr")
def _setrlimit(task: Task, kind: int, limit: int) -> int:
    kind &= _MASK32
    soft, hard = _limit_at(task, limit)
    if kind >= KINDS:
        return -errno.EINVAL
    with task.kernel.memory_lock:
        return task.kernel.limits.set(kind, soft, hard)


@calls.row("prlimit64", "pid int ptr ptr")
def _prlimit64(task: Task, pid: int, kind: int, new: int, old: int) -> int:
    kernel, memory = task.kernel, task.memory
    kind &= _MASK32
    pid = signed(pid)
    if pid and pid != os.getpid() and all(pid != one.tid for one in kernel.tasks):
        return host.call(
            NUMBERS["prlimit64"], pid, kind, pointer(memory, new, 16), pointer(memory, old, 16)
        )
    wanted = _limit_at(task, new) if new else None
    if kind >= KINDS:
        return -errno.EINVAL
    before = kernel.limits.get(kind)
    if wanted is not None:
        with kernel.memory_lock:
            result = kernel.limits.set(kind, *wanted)
        if result < 0:
            return result
    if old:
        memory.write(old, _LIMIT.pack(*before))
    return 0
