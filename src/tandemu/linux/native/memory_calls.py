"""The system calls on memory: what concerns anonymous memory without code, as native routines.

Files, code, limits and all that is wrong is Python's (`linux.memory`, `linux.calls.memory`), which
changes the same table under the same lock.
"""

from __future__ import annotations

import errno
from typing import Any

from tandemu.accel.user import CALL_ELSEWHERE
from tandemu.ir import I32, I64, Constant, Value
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.mappings import (
    LOWEST,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_STACK,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    TOP_GUARD,
)
from tandemu.linux.native.layout import HEAP_NAME, MAPPING, MAPPING_LIMIT, NO_NAME, OF_FILE
from tandemu.linux.native.mappings import (
    ADD,
    COUNT_UNTIL,
    CUT,
    FIND_FREE,
    IS_FREE,
    LOCK,
    UNLOCK,
    entry,
)
from tandemu.linux.native.marshal import Marshal
from tandemu.linux.native.special import special

_PLAIN = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_POPULATE | MAP_NONBLOCK
_RESERVED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED
_READ_WRITE = PROT_READ | PROT_WRITE
_ROOM = 8
"""Mappings that one call may add."""


def _rounded(size: Value) -> Value:
    return (size + (PAGE - 1)) & -PAGE


class _Table:
    """The table in one routine, whose lock is held until an answer is given."""

    def __init__(self, m: Marshal) -> None:
        self.m, self.b, self.process = m, m.b, m.process
        self._place = self.process.pointer()
        self.b.call(LOCK, self._place)

    def answer(self, value: Value | int) -> None:
        """Let the lock go and return *value*."""
        self.b.call(UNLOCK, self._place)
        self.b.Return(value)

    def answer_if(self, condition: Value, value: Value | int) -> None:
        """The same in that case."""
        with self.b.If(condition, likely=False):
            self.answer(value)

    def elsewhere_if(self, condition: Value) -> None:
        """Leave it to Python in that case."""
        self.answer_if(condition, CALL_ELSEWHERE)

    def elsewhere_if_code(self, start: Value, end: Value) -> None:
        """Leave it to Python if anything from *start* to *end* may be executed."""
        b = self.b
        index = b.variable(I64, self.count_until(start))
        with b.If(index.value != 0):
            index.value = index.value - 1
        with b.While(lambda: index.value.ult(self.process.mapping_count)):
            one = entry(b, self.process, index.value)
            with b.If(one.start.uge(end)):
                b.Break()
            code = one.end.ugt(start) & ((one.protection & PROT_EXEC) != 0)
            self.elsewhere_if(code)
            index.value = index.value + 1

    def count_until(self, address: Value) -> Value:
        """How many mappings begin at *address* or below."""
        return self.b.call(COUNT_UNTIL, self._place, address)

    def is_free(self, start: Value, end: Value) -> Value:
        """Whether nothing is mapped from *start* to *end*."""
        return self.b.call(IS_FREE, self._place, start, end) != 0

    def find_free(self, size: Value) -> Value:
        """The highest free stretch; 0 if there is none."""
        return self.b.call(FIND_FREE, self._place, size, PAGE)

    def cut(self, start: Value, end: Value) -> None:
        """Forget what is mapped from *start* to *end*."""
        self.b.call(CUT, self._place, start, end)

    def add(self, start: Value, end: Value, protection: Value, name: Value | int) -> None:
        """Enter private memory without a file."""
        place = self.m.thread.pointer("structure")
        new: Any = self.b.struct(MAPPING, place)
        new.start, new.end, new.offset = start, end, 0
        new.protection, new.flags = protection.trunc(I32), MAP_PRIVATE
        new.traits, new.name = 0, name
        self.b.call(ADD, self._place, place.from_pointer())

    def host_map(
        self, start: Value, size: Value, protection: Value | int, flags: Value | int
    ) -> None:
        """Have the host map fresh memory, or answer with its error."""
        number = NUMBERS["mmap"]
        result = self.b.system_call(number, start + self.process.base, size, protection, flags, -1)
        self.answer_if(result.ugt(-PAGE & (1 << 64) - 1), result)


def _host_protection(m: Marshal, protection: Value) -> Value:
    """What can be written can be read."""
    writes = (protection & PROT_WRITE) != 0
    return m.b.select(writes, Constant(I64, _READ_WRITE), protection)


@special("mmap")
def _mmap(m: Marshal) -> None:
    b, process = m.b, m.process
    wish, length, protection, flags, _, offset = m.given
    flags, protection = flags.trunc(I32).zext(I64), protection.trunc(I32).zext(I64)
    limit = process.limit - TOP_GUARD
    plain = (flags & ~(_PLAIN | MAP_FIXED)) == 0
    plain = plain & ((flags & (MAP_PRIVATE | MAP_ANONYMOUS)) == MAP_PRIVATE | MAP_ANONYMOUS)
    plain = plain & ((protection & ~_READ_WRITE) == 0) & (offset == 0) & (process.restricted == 0)
    m.elsewhere_if(~plain | (length == 0) | length.uge(limit))
    size = _rounded(length)
    fixed = (flags & MAP_FIXED) != 0
    fits = wish.uge(LOWEST) & wish.ult(limit) & size.ule(limit - wish)
    m.elsewhere_if(fixed & (~fits | ((wish & (PAGE - 1)) != 0)))
    table = _Table(m)
    table.elsewhere_if(process.mapping_count.uge(MAPPING_LIMIT - _ROOM))
    start = b.variable(I64, wish & -PAGE)
    with b.If(fixed):
        table.elsewhere_if_code(start.value, start.value + size)
    with b.Else():
        hint = b.variable(I64, 0)
        with b.If(fits), b.If(table.is_free(start.value, start.value + size)):
            hint.value = start.value
        with b.If(hint.value == 0):
            hint.value = table.find_free(size)
            table.elsewhere_if(hint.value == 0)
        start.value = hint.value
    kept = flags & _PLAIN | MAP_FIXED
    table.host_map(start.value, size, _host_protection(m, protection), kept)
    with b.If(fixed):
        table.cut(start.value, start.value + size)
    table.add(start.value, start.value + size, protection, NO_NAME)
    table.answer(start.value)


@special("munmap")
def _munmap(m: Marshal) -> None:
    start, length = m.given
    limit = m.process.limit
    m.elsewhere_if(((start & (PAGE - 1)) != 0) | (length == 0) | start.uge(limit))
    m.elsewhere_if(length.ugt(limit - start) | (m.process.restricted != 0))
    size = _rounded(length)
    table = _Table(m)
    table.elsewhere_if(m.process.mapping_count.uge(MAPPING_LIMIT - _ROOM))
    table.elsewhere_if_code(start, start + size)
    table.host_map(start, size, 0, _RESERVED)
    table.cut(start, start + size)
    table.answer(0)


@special("mprotect")
def _mprotect(m: Marshal) -> None:
    b, process = m.b, m.process
    start, length, protection = m.given
    protection = protection.trunc(I32).zext(I64)
    m.elsewhere_if(((start & (PAGE - 1)) != 0) | (length == 0) | start.uge(process.limit))
    m.elsewhere_if(length.ugt(process.limit - start) | ((protection & ~_READ_WRITE) != 0))
    m.elsewhere_if(process.restricted != 0)
    end = start + _rounded(length)
    table = _Table(m)
    count = table.count_until(start)
    table.elsewhere_if((count == 0) | process.mapping_count.uge(MAPPING_LIMIT - _ROOM))
    one = entry(b, process, count - 1)
    before = one.protection.zext(I64)
    # One stretch; if there are several, they may end up in part.
    table.elsewhere_if(one.end.ult(end) | ((before & PROT_EXEC) != 0))
    table.answer_if(before == protection, 0)
    place = m.thread.pointer("structure")
    changed: Any = b.struct(MAPPING, place.offset(64))
    b.copy(changed.pointer(), one.pointer(), MAPPING.size)
    moved = one.offset + (start - one.start)
    changed.offset = b.select((one.name & OF_FILE) != 0, moved, one.offset)
    changed.start, changed.end = start, end
    changed.protection = protection.trunc(I32)
    wanted = _host_protection(m, protection)
    number = NUMBERS["mprotect"]
    result = b.system_call(number, start + process.base, end - start, wanted)
    table.answer_if(result != 0, result)
    table.cut(start, end)
    b.call(ADD, process.pointer(), changed.pointer().from_pointer())
    table.answer(0)


_MAY_MOVE, _FIXED = 1, 2


@special("mremap")
def _mremap(m: Marshal) -> None:
    """Private memory without a file, all of one stretch, anywhere it fits."""
    b, process = m.b, m.process
    start, old, new, flags, _ = m.given
    flags = flags & 0xFFFFFFFF
    limit = process.limit - TOP_GUARD
    m.elsewhere_if(((start & (PAGE - 1)) != 0) | (flags.ugt(_MAY_MOVE)) | start.uge(limit))
    m.elsewhere_if((old == 0) | (new == 0) | old.ugt(limit - start) | new.uge(limit))
    m.elsewhere_if(process.restricted != 0)
    old, new = _rounded(old), _rounded(new)
    end = start + old
    table = _Table(m)
    count = table.count_until(start)
    table.elsewhere_if((count == 0) | process.mapping_count.uge(MAPPING_LIMIT - _ROOM))
    one = entry(b, process, count - 1)
    protection, name = one.protection.zext(I64), one.name.zext(I64)
    plain = (one.flags == MAP_PRIVATE) & (one.traits == 0) & ((name & OF_FILE) == 0)
    table.elsewhere_if(~plain | ((protection & PROT_EXEC) != 0) | one.end.ult(end))
    table.answer_if(old == new, start)
    with b.If(new.ult(old)):
        table.host_map(start + new, old - new, 0, _RESERVED)
        table.cut(start + new, end)
        table.answer(start)
    wanted = _host_protection(m, protection)
    more = new - old
    ends_there = (one.end == end) & new.ule(limit - start)
    with b.If(ends_there), b.If(table.is_free(end, end + more)):
        table.host_map(end, more, wanted, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
        table.add(end, end + more, protection, name.trunc(I32))
        table.answer(start)
    table.answer_if((flags & _MAY_MOVE) == 0, -errno.ENOMEM)
    place = table.find_free(new)
    table.answer_if(place == 0, -errno.ENOMEM)
    base = process.base
    number, how = NUMBERS["mremap"], _MAY_MOVE | _FIXED
    moved = b.system_call(number, start + base, old, new, how, place + base)
    table.answer_if(moved.ugt(-PAGE & (1 << 64) - 1), moved)
    # The host left a hole in the window: nobody else may get it.
    table.host_map(start, old, 0, _RESERVED)
    table.cut(start, end)
    table.add(place, place + new, protection, name.trunc(I32))
    table.answer(place)


@special("brk")
def _brk(m: Marshal) -> None:
    b, process = m.b, m.process
    wanted = m.given[0]
    m.elsewhere_if(process.restricted != 0)
    table = _Table(m)
    end = process.break_end
    table.answer_if(wanted.ult(process.break_start) | wanted.uge(process.limit), end)
    table.elsewhere_if(process.mapping_count.uge(MAPPING_LIMIT - _ROOM))
    old, new = _rounded(end), _rounded(wanted)
    with b.If(new.ugt(old)):
        size = new - old
        table.answer_if(new.ugt(process.top) | ~table.is_free(old, new), end)
        number, place = NUMBERS["mmap"], old + process.base
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        result = b.system_call(number, place, size, _READ_WRITE, flags, -1)
        table.answer_if(result != place, end)
        table.add(old, new, Constant(I64, _READ_WRITE), HEAP_NAME)
    with b.If(new.ult(old)):
        table.elsewhere_if_code(new, old)
        table.host_map(new, old - new, 0, _RESERVED)
        table.cut(new, old)
    process.break_end = wanted
    table.answer(wanted)


_HOSTS_ADVICE = (0, 1, 2, 3, 4, 8, 12, 13, 14, 15, 20, 21, 22, 23)
"""Advice that is the host's alone: NORMAL … DONTNEED, FREE, merging, huge pages, COLD and on."""


@special("madvise")
def _madvise(m: Marshal) -> None:
    b, process = m.b, m.process
    start, length, advice = m.given
    m.elsewhere_if(((start & (PAGE - 1)) != 0) | (length == 0) | start.uge(process.limit))
    m.elsewhere_if(length.ugt(process.limit - start) | (process.restricted != 0))
    known = b.variable(I64, 0)
    with b.Switch(advice.trunc(I32)) as cases, cases.Case(*_HOSTS_ADVICE):
        known.value = 1
    m.elsewhere_if(known.value == 0)
    end = start + _rounded(length)
    table = _Table(m)
    count = table.count_until(start)
    table.elsewhere_if(count == 0)
    table.elsewhere_if(entry(b, process, count - 1).end.ult(end))
    result = b.system_call(NUMBERS["madvise"], start + process.base, end - start, advice)
    table.answer(result)
