"""System calls on time and timers."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host, signals
from tandemu.linux.calls.helpers import pointer, signed
from tandemu.linux.host import NUMBERS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_EINTR = -errno.EINTR
_SIGEV_SIGNAL, _SIGEV_THREAD_ID = 0, 4
_EVENT_SIZE = 64

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
    missing="SIGEV_THREAD_ID for a signal whose handler is installed later",
)  # fmt: skip
def _timer_create(task: Task, clock: int, event: int, result: int) -> int:
    memory, state = task.memory, task.kernel.signals
    place = tid = 0
    buffer = None
    if event:
        data = memory.read(event, _EVENT_SIZE)
        signal, kind, tid = struct.unpack_from("<iii", data, 8)
        if kind != _SIGEV_THREAD_ID:
            tid = 0
        elif 1 <= signal <= signals.SIGNALS and state.actions[signal].handler > 1:
            # Our thread does not see a signal that is for another thread alone.
            if all(one.tid != tid for one in task.kernel.tasks):
                return -errno.EINVAL
            data = data[:12] + struct.pack("<i", _SIGEV_SIGNAL) + data[16:]
        else:
            tid = 0
        buffer = ctypes.create_string_buffer(data, _EVENT_SIZE)
        place = ctypes.addressof(buffer)
    number = ctypes.c_int32()
    done = host.call(NUMBERS["timer_create"], signed(clock), place, ctypes.addressof(number))
    if done < 0:
        return done
    try:
        memory.write_word(result, number.value, 4)
    except OSError:
        host.call(NUMBERS["timer_delete"], number.value)
        raise
    state.thread_timers.pop(number.value, None)
    if tid:
        state.thread_timers[number.value] = tid
    return 0
