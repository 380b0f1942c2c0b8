"""System calls on time and timers."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import pointer, signed
from tandemu.linux.host import NUMBERS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_EINTR = -errno.EINTR
_SIGEV_SIGNAL, _SIGEV_NONE, _SIGEV_THREAD_ID = 0, 1, 4

for _name, _arguments in (
    ("clock_gettime", "int ptr"),
    ("clock_getres", "int ptr"),
    ("gettimeofday", "ptr ptr"),
    ("times", "ptr"),
    ("getrusage", "int ptr"),
    ("getitimer", "int ptr"),
    ("setitimer", "int ptr ptr"),
    ("timer_gettime", "int ptr"),
    ("timer_settime", "int hex ptr ptr"),
    ("timer_getoverrun", "int"),
    ("timer_delete", "int"),
    ("clock_settime", "int ptr"),
    ("settimeofday", "ptr ptr"),
    ("clock_adjtime", "int ptr"),
    ("adjtimex", "ptr"),
):
    calls.direct(_name, _arguments)


def _sleep(task: Task, clock: int, flags: int, request: int, rest: int) -> int:
    memory = task.memory
    place = memory.host_address(request, 16)
    if flags & 1:
        return host.call(NUMBERS["clock_nanosleep"], clock, flags, place, 0)
    left = pointer(memory, rest, 16)
    while True:
        result = host.call(NUMBERS["clock_nanosleep"], clock, flags, place, left)
        if result != _EINTR or task.attention or not left:
            return result
        # A kick that was for nothing: sleep the rest.
        place = left


@calls.row("nanosleep", "ptr ptr", restarts=False)
def _nanosleep(task: Task, request: int, rest: int) -> int:
    return _sleep(task, 1, 0, request, rest)


@calls.row("clock_nanosleep", "int int ptr ptr", restarts=False)
def _clock_nanosleep(task: Task, clock: int, flags: int, request: int, rest: int) -> int:
    return _sleep(task, clock, flags, request, rest)


@calls.row(
    "timer_create", "int ptr ptr",
    missing="SIGEV_THREAD_ID for a signal that has a handler reaches any thread",
)  # fmt: skip
def _timer_create(task: Task, clock: int, event: int, result: int) -> int:
    memory = task.memory
    place = 0
    buffer = None
    if event:
        data = memory.read(event, 64)
        _, signal, kind = struct.unpack_from("<Qii", data)
        if kind not in (_SIGEV_SIGNAL, _SIGEV_NONE, _SIGEV_THREAD_ID):
            return -errno.EINVAL
        if (
            kind == _SIGEV_THREAD_ID
            and 1 <= signal <= 64
            and (task.kernel.signals.actions[signal].handler > 1)
        ):
            # Our thread would not see a signal for one thread alone.
            data = data[:12] + struct.pack("<i", _SIGEV_SIGNAL) + data[16:]
        buffer = ctypes.create_string_buffer(data, 64)
        place = ctypes.addressof(buffer)
    return host.call(NUMBERS["timer_create"], signed(clock), place, memory.host_address(result, 4))
