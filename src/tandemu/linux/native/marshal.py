"""Marshalling: how each kind of argument goes from a guest's call to the host's.

A routine moves pointers into the guest's window and converts what the host's kernel
understands otherwise. Whether something may be accessed is the kernel's to say, in the order
in which it looks: what cannot be read for a conversion is handed over as an address that
nobody can access.

The guest's addresses end with `memory.TOP_GUARD` bytes that are never mapped: a structure that
begins in the window is refused there before it leaves it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from tandemu.accel.user import CALL_ELSEWHERE, INTERRUPTED, INTERRUPTED_RESTARTS
from tandemu.ir import I1, I8, I32, I64, PTR, Builder, Constant, Value
from tandemu.ir.operations import SYSTEM_CALL_ARGUMENTS
from tandemu.linux.descriptors import WATCHED
from tandemu.linux.native.abi import (
    GENERIC_STAT,
    GUEST_EVENT_SIZE,
    HOST_EVENT_SIZE,
    HOST_STAT,
    MOST_VECTORS,
    VECTOR,
)
from tandemu.linux.native.guest import GuestAbi
from tandemu.linux.native.layout import AREA_SIZE, HEAD_SIZE, PROCESS, THREAD

NOBODYS = -4096
"""An address that no process can access."""
_HOST_LIMIT = 1 << 47
"""Where the addresses of a process of the host's end."""
_MOST_EVENTS = AREA_SIZE // GUEST_EVENT_SIZE
_GUEST_VECTOR_SIZE = VECTOR.size

PARAMETERS = [("thread", PTR), *((f"a{index}", I64) for index in range(SYSTEM_CALL_ARGUMENTS))]


class Marshal:
    """One routine being built: the guest's arguments, and what has to be done after the call."""

    def __init__(
        self, name: str, kinds: Sequence[str], guest: GuestAbi, *, restarts: bool = True
    ) -> None:
        self.name, self.kinds, self.guest = name, kinds, guest
        self.restarts: Value = Constant(I1, restarts)
        """Whether SA_RESTART repeats the call."""
        self.b = Builder(routine_name(name), PARAMETERS, result=I64)
        self.thread: Any = self.b.struct(THREAD, self.b.thread)
        self.process: Any = self.b.struct(PROCESS, self.thread.process.to_pointer())
        self.given: list[Value] = [getattr(self.b, f"a{index}") for index in range(len(kinds))]
        self._after: list[Callable[[Value], None]] = []
        self._elsewhere: list[tuple[int, Value]] = []
        self._paths = 0

    # Memory -----------------------------------------------------------------------------

    def moved(self, address: Value) -> Value:
        """The host address of a guest's; 0 stays 0, what is outside of the window nobody's."""
        b, process = self.b, self.process
        inside = b.select(address.ult(process.limit), address + process.base, NOBODYS)
        return b.select(address == 0, address, inside)

    def fitted(self, address: Value, size: Value) -> Value:
        """*size*, or what there is up to the window's end: memory ends before that anyway.

        What no process of the host's could have is refused there, before anything is done.
        """
        b, limit = self.b, self.process.limit
        beyond = address.ult(limit) & size.ult(_HOST_LIMIT) & size.ugt(limit - address)
        return b.select(beyond, limit - address, size)

    def copy(self, to: Value, source: Value, size: Value | int) -> Value:
        """Copy between host addresses; whether all was copied."""
        left = self.b.call("copy_guest", to, source, self.b.lift(size, I64), result=I64)
        return left == 0

    def read(self, to: Value, address: Value, size: Value | int) -> Value:
        """Copy from the guest's *address*; whether all could be read."""
        inside = self.b.select(address.ult(self.process.limit), address + self.process.base, 0)
        return self.copy(to, inside.to_pointer(), size)

    def write(self, address: Value, source: Value, size: Value | int) -> Value:
        """Copy to the guest's *address*; whether all could be written."""
        inside = self.b.select(address.ult(self.process.limit), address + self.process.base, 0)
        return self.copy(inside.to_pointer(), source, size)

    def write_or_fault(self, address: Value, source: Value, size: Value | int) -> None:
        """The same, or the call ends with EFAULT."""
        with self.b.If(~self.write(address, source, size), likely=False):
            self.b.Return(-errno.EFAULT)

    # The call ---------------------------------------------------------------------------

    def after(self, action: Callable[[Value], None]) -> None:
        """Have *action* done with the result if the call succeeds."""
        self._after.append(action)

    def call(self, number: Value | int, *arguments: Value | int) -> Value:
        """The host's call, which a signal that came before it keeps from being made."""
        thread = self.thread
        request = thread.request.to_pointer()
        return self.b.interruptible_call(thread.pointer("not_begun"), request, number, *arguments)

    def elsewhere_if(self, condition: Value) -> None:
        """Leave the call to Python in that case."""
        with self.b.If(condition, likely=False):
            self.b.Return(CALL_ELSEWHERE)

    def elsewhere_on(self, error: int, condition: Value) -> None:
        """Leave the call to Python if *condition* holds and the host's call gives *error*."""
        self._elsewhere.append((error, condition))

    def error_if(self, condition: Value, code: int) -> None:
        """Fail with error number *code* in that case."""
        with self.b.If(condition, likely=False):
            self.b.Return(-code)

    def fault_if(self, condition: Value) -> None:
        """Fail with EFAULT in that case."""
        self.error_if(condition, errno.EFAULT)

    def arguments(self) -> list[Value]:
        """What the host gets, by the kinds of the arguments."""
        return [KINDS.get(kind, _plain)(self, index) for index, kind in enumerate(self.kinds)]

    def make(self, number: int, arguments: Sequence[Value | int]) -> Value:
        """Make the host's call *number*, then do what has to be done after it."""
        return self.finish(self.call(number, *arguments))

    def finish(self, made: Value) -> Value:
        """Do what has to be done after the host's call; *made* is its result."""
        for error, condition in self._elsewhere:
            self.elsewhere_if((made == error) & condition)
        restarts = Constant(I64, INTERRUPTED_RESTARTS)
        interrupted = self.b.select(self.restarts, restarts, Constant(I64, INTERRUPTED))
        result = self.b.select(made == -errno.EINTR, interrupted, made)
        if self._after:
            with self.b.If(result.sge(0)):
                for action in self._after:
                    action(result)
        return result

    def path_room(self) -> Value:
        """Room for one of the two paths of a call."""
        self._paths += 1
        pointer: Value = self.thread.pointer("path" if self._paths == 1 else "second_path")
        return pointer

    def area(self, offset: int = 0) -> Value:
        """Room for what is converted."""
        pointer: Value = self.thread.pointer("area").offset(offset)
        return pointer


def routine_name(name: str) -> str:
    """What the routine of system call *name* is called in the image."""
    return f"call_{name}"


# Kinds ----------------------------------------------------------------------------------


def _plain(m: Marshal, index: int) -> Value:
    return m.given[index]


def _pointer(m: Marshal, index: int) -> Value:
    return m.moved(m.given[index])


def watched(m: Marshal, descriptor: Value) -> Value:
    """Whether calls on *descriptor* are Python's (`layout.PROCESS`)."""
    b = m.b
    number = descriptor.trunc(I32)
    inside = number.ult(WATCHED)
    place = m.process.watched + b.select(inside, number.zext(I64), 0)
    mark = b.load(place.to_pointer(), I8) != 0
    # What is negative is nobody's, and the host says so.
    return mark | (~inside & number.sge(0))


def _watched_file(m: Marshal, index: int) -> Value:
    """A descriptor from which Python reads, or writes to, if it is watched."""
    m.elsewhere_if(watched(m, m.given[index]))
    return m.given[index]


def _fitted_size(m: Marshal, index: int) -> Value:
    """A number of bytes: of the buffer that the argument before points to, if it does."""
    if index and m.kinds[index - 1] in ("in", "out"):
        return m.fitted(m.given[index - 1], m.given[index])
    return m.given[index]


def read_vectors(m: Marshal, address: Value, count: Value, place: Value) -> Value:
    """The host address of *count* iovecs that are the guest's at *address*, made at *place*.

    NOBODYS if they cannot be read; *count* is below `MOST_VECTORS` or the host refuses it.
    """
    b = m.b
    result = b.variable(I64, NOBODYS)
    if_few = b.If(count.ule(MOST_VECTORS), likely=True)
    with if_few, b.If(m.read(place, address, count * _GUEST_VECTOR_SIZE), likely=True):
        result.value = place.from_pointer()
        index = b.variable(I64, 0)
        with b.While(lambda: index.value.ult(count)):
            vector = b.struct(VECTOR, place.offset(index.value * VECTOR.size))
            start, size = vector.base, vector.size
            vector.size = m.fitted(start, size)
            vector.base = m.moved(start)
            index.value = index.value + 1
    return result.value


def _vectors(m: Marshal, index: int) -> Value:
    """An array of struct iovec, as many as the next argument says."""
    return read_vectors(m, m.given[index], m.given[index + 1], m.area(HEAD_SIZE))


def _stat(m: Marshal, index: int) -> Value:
    """A pointer to what becomes a struct stat."""
    place = m.thread.pointer("structure")

    def convert(_: Value) -> None:
        source, target = m.b.struct(HOST_STAT, place), m.b.struct(GENERIC_STAT, place.offset(256))
        for name, field in GENERIC_STAT.fields.items():
            if name in HOST_STAT.fields and name not in ("rest", "pad"):
                setattr(target, name, getattr(source, name).resize({4: I32, 8: I64}[field.size]))
        m.b.store(target.pointer("pad"), Constant(I64, 0))
        m.b.store(target.pointer("pad2"), Constant(I32, 0))
        m.b.store(target.pointer("rest"), Constant(I64, 0))
        m.write_or_fault(m.given[index], place.offset(256), GENERIC_STAT.size)

    m.after(convert)
    pointer: Value = place.from_pointer()
    return pointer


def _event(m: Marshal, index: int) -> Value:
    """A pointer to a struct epoll_event, or none."""
    b, address, place = m.b, m.given[index], m.thread.pointer("structure")
    result = b.variable(I64, address)
    with b.If(address != 0):
        result.value = NOBODYS
        with b.If(m.read(place.offset(16), address, GUEST_EVENT_SIZE), likely=True):
            b.store(place, b.load(place.offset(16), I32))
            b.store(place.offset(4), b.load(place.offset(24), I64))
            result.value = place.from_pointer()
    return result.value


def _events(m: Marshal, index: int) -> Value:
    """Room for as many struct epoll_event as the next argument says, or fewer."""
    address, place = m.given[index], m.area()

    def convert(found: Value) -> None:
        # The guest's are larger: from the last to the first, in place.
        b = m.b
        left = b.variable(I64, found)
        with b.While(lambda: left.value != 0):
            left.value = left.value - 1
            source = place.offset(left.value * HOST_EVENT_SIZE)
            target = place.offset(left.value * GUEST_EVENT_SIZE)
            kind, data = b.load(source, I32), b.load(source.offset(4), I64)
            b.store(target, kind.zext(I64))
            b.store(target.offset(8), data)
        with b.If(found != 0):
            m.write_or_fault(address, place, found * GUEST_EVENT_SIZE)

    m.after(convert)
    # The kernel looks first whether the whole of it could be the program's.
    count = m.given[index + 1].trunc(I32).sext(I64)
    fits = address.ult(m.process.limit) & (count * GUEST_EVENT_SIZE).sle(m.process.limit - address)
    return m.b.select(fits, place.from_pointer(), NOBODYS)


def _event_count(m: Marshal, index: int) -> Value:
    """How many events there is room for: the kernel may give fewer, at no loss."""
    count = m.given[index].trunc(I32).sext(I64)
    return m.b.select(count.sgt(_MOST_EVENTS), _MOST_EVENTS, count)


def _open_flags(m: Marshal, index: int) -> Value:
    return m.guest.open_flags(m.given[index])


KINDS: dict[str, Callable[[Marshal, int], Value]] = {
    "file": _watched_file,
    "ptr": _pointer,
    "str": _pointer,
    "in": _pointer,
    "out": _pointer,
    "open": _open_flags,
    "size": _fitted_size,
    "vectors": _vectors,
    "stat": _stat,
    "event": _event,
    "events": _events,
    "events-count": _event_count,
}
"""What is not here goes as it is."""

__all__ = [
    "I1",
    "I8",
    "KINDS",
    "NOBODYS",
    "PARAMETERS",
    "Marshal",
    "read_vectors",
    "routine_name",
    "watched",
]
