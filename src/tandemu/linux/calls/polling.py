"""System calls that wait for descriptors: poll, select, epoll, and what feeds them."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import pointer, signed
from tandemu.linux.host import NUMBERS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_EINTR = -errno.EINTR
_MOST_EVENTS = 1 << 16
_GUEST_EVENT = struct.Struct("<IIQ")
# x86-64 alone packs struct epoll_event.
_HOST_EVENT = struct.Struct("<IQ")


def with_mask(task: Task, mask: int | None, wait: Callable[[], int]) -> int:
    """Wait with another signal mask, as ppoll(2) and its like do."""
    if mask is None:
        return wait()
    before = task.mask
    task.set_mask(mask)
    result = _EINTR if task.is_due() else wait()
    if result == _EINTR:
        # Whether a handler runs is decided by the mask of the wait.
        task.saved_mask = before
        task.attention = True
    else:
        task.set_mask(before)
    return result


def _mask_at(task: Task, address: int) -> int | None:
    return task.memory.read_word(address) if address else None


@calls.row("ppoll", "ptr int ptr ptr size", native=True, restarts=False)
def _ppoll(task: Task, entries: int, count: int, timeout: int, mask: int, _: int) -> int:
    memory = task.memory
    count &= 0xFFFFFFFF
    place = pointer(memory, entries, 8 * count)
    limit = pointer(memory, timeout, 16)
    return with_mask(
        task, _mask_at(task, mask), lambda: host.call(NUMBERS["ppoll"], place, count, limit, 0, 8)
    )


@calls.row("pselect6", "int ptr ptr ptr ptr ptr", native=True, restarts=False)
def _pselect6(
    task: Task, count: int, reads: int, writes: int, errors: int, timeout: int, mask: int
) -> int:
    memory = task.memory
    count = signed(count)
    if count < 0:
        return -errno.EINVAL
    size = (count + 63) // 64 * 8
    first, second, third = (pointer(memory, address, size) for address in (reads, writes, errors))
    limit = pointer(memory, timeout, 16)
    wanted = None
    if mask:
        address, _ = struct.unpack("<QQ", memory.read(mask, 16))
        wanted = _mask_at(task, address)
    return with_mask(
        task, wanted, lambda: host.call(NUMBERS["pselect6"], count, first, second, third, limit, 0)
    )


calls.direct("epoll_create1", "hex")


calls.direct("epoll_ctl", "fd int fd event")


def _epoll_wait(
    task: Task, number: int, descriptor: int, events: int, most: int, timeout: int, mask: int
) -> int:
    most = signed(most)
    if not most > 0:
        return -errno.EINVAL
    most = min(most, _MOST_EVENTS)
    task.memory.host_address(events, 16 * most)
    buffer = ctypes.create_string_buffer(12 * most)
    place = ctypes.addressof(buffer)
    result = with_mask(
        task, _mask_at(task, mask),
        lambda: host.call(number, descriptor, place, most, timeout, 0, 8),
    )  # fmt: skip
    if result > 0:
        found = _HOST_EVENT.iter_unpack(buffer.raw[: 12 * result])
        packed = [_GUEST_EVENT.pack(kind, 0, data) for kind, data in found]
        task.memory.write(events, b"".join(packed))
    return result


@calls.row("epoll_pwait", "fd events events-count int ptr size", native=True, restarts=False)
def _epoll_pwait(
    task: Task, descriptor: int, events: int, most: int, timeout: int, mask: int, _: int
) -> int:
    return _epoll_wait(
        task, NUMBERS["epoll_pwait"], descriptor, events, most, signed(timeout), mask
    )


@calls.row("epoll_pwait2", "fd events events-count ptr ptr size", native=True, restarts=False)
def _epoll_pwait2(
    task: Task, descriptor: int, events: int, most: int, timeout: int, mask: int, _: int
) -> int:
    limit = pointer(task.memory, timeout, 16)
    return _epoll_wait(task, NUMBERS["epoll_pwait2"], descriptor, events, most, limit, mask)


calls.direct("eventfd2", "int hex")
calls.direct("timerfd_create", "int hex")
calls.direct("timerfd_settime", "fd hex ptr ptr")
calls.direct("timerfd_gettime", "fd ptr")
calls.direct("inotify_init1", "hex")
calls.direct("inotify_rm_watch", "fd int")
calls.direct(
    "signalfd4", "fd ptr size hex",
    missing="signals that have a handler too are read only while all threads block them",
)  # fmt: skip
