"""The table of a program's mappings: looking things up, changing it, its lock.

Python's `linux.mappings` and the native calls on memory stand on these routines. Who changes the
table holds its lock. A look without it is tried again while somebody changes the table.
"""

from __future__ import annotations

from typing import Any

from tandemu.ir import I1, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.mappings import GROWS_DOWN, LOWEST, STACK_GAP
from tandemu.linux.native.layout import MAPPING, OF_FILE, PROCESS

_FREE, _HELD, _WANTED = range(3)
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129


def entry(b: Builder, process: Any, index: Value) -> Any:
    """The mapping at *index* of the table."""
    return b.struct(MAPPING, (process.mappings + index * MAPPING.size).to_pointer())


def _begin(name: str, *parameters: str, result: bool = True) -> tuple[Builder, Any]:
    given = [("process", PTR), *((one, I64) for one in parameters)]
    b = Builder(name, given, result=I64 if result else None)
    return b, b.struct(PROCESS, b.process)


def _build_count_until() -> Function:
    """count_until(process, address) -> how many mappings begin at *address* or below."""
    b, process = _begin("count_until", "address")
    low, high = b.variable(I64, 0), b.variable(I64, process.mapping_count)
    with b.While(lambda: low.value.ult(high.value)):
        middle = (low.value + high.value) >> 1
        with b.If(entry(b, process, middle).start.ule(b.address)):
            low.value = middle + 1
        with b.Else():
            high.value = middle
    b.Return(low.value)
    return b.finish()


COUNT_UNTIL = _build_count_until()


def _build_is_free() -> Function:
    """is_free(process, start, end) -> whether nothing is mapped from *start* to *end*."""
    b, process = _begin("is_free", "start", "end")
    count = b.call(COUNT_UNTIL, b.process, b.start)
    with b.If(count != 0), b.If(entry(b, process, count - 1).end.ugt(b.start)):
        b.Return(0)
    with b.If(count != process.mapping_count), b.If(entry(b, process, count).start.ult(b.end)):
        b.Return(0)
    b.Return(1)
    return b.finish()


IS_FREE = _build_is_free()


def _build_find_free() -> Function:
    """find_free(process, size, align) -> the highest free stretch below `top`; 0 if none."""
    b, process = _begin("find_free", "size", "align")
    end = b.variable(I64, process.top)
    index = b.variable(I64, 0)
    with b.If(end.value != 0):
        index.value = b.call(COUNT_UNTIL, b.process, end.value - 1)

    def until(number: Value) -> None:
        """Nothing may lie at the mapping *number*, nor in the gap that it keeps."""
        one = entry(b, process, number)
        keeps = ((one.traits & GROWS_DOWN) != 0) & (process.grows != 0)
        gap = b.select(keeps, Constant(I64, STACK_GAP), Constant(I64, 0))
        floor = b.select(one.start.ult(gap), Constant(I64, 0), one.start - gap)
        with b.If(floor.ult(end.value)):
            end.value = floor

    with b.If(index.value != process.mapping_count):
        until(index.value)
    with b.Loop():
        floor = b.variable(I64, LOWEST)
        with b.If(index.value != 0):
            below = entry(b, process, index.value - 1).end
            with b.If(below.ugt(LOWEST)):
                floor.value = below
        with b.If(end.value.uge(b.size)):
            start = (end.value - b.size) & (0 - b.align)
            with b.If(start.uge(floor.value)):
                b.Return(start)
        with b.If(index.value == 0):
            b.Return(0)
        index.value = index.value - 1
        until(index.value)
    return b.finish()


FIND_FREE = _build_find_free()


def _move(b: Builder, process: Any, source: Value, target: Value) -> None:
    """Move all mappings from *source* on to *target* on."""
    count = process.mapping_count
    size = (count - source) * MAPPING.size
    places = (entry(b, process, target).pointer(), entry(b, process, source).pointer())
    b.call("memmove", *places, size, result=PTR)
    process.mapping_count = count - source + target


def _changes(b: Builder, process: Any) -> None:
    """The table is about to change, or has been."""
    b.atomic("add", process.pointer("mapping_changes"), Constant(I64, 1))


def _build_cut() -> Function:
    """cut(process, start, end): forget what is mapped from *start* to *end*."""
    b, process = _begin("cut", "start", "end", result=False)
    first = b.variable(I64, b.call(COUNT_UNTIL, b.process, b.start))
    with b.If(first.value != 0), b.If(entry(b, process, first.value - 1).end.ugt(b.start)):
        first.value = first.value - 1
    last = b.call(COUNT_UNTIL, b.process, b.end - 1)
    with b.If(first.value.uge(last)):
        b.Return()
    _changes(b, process)
    begins = entry(b, process, first.value)
    ends = entry(b, process, last - 1)
    left, right = begins.start.ult(b.start), ends.end.ugt(b.end)
    target = b.variable(I64, first.value)
    kept_end, more = ends.end, b.end - ends.start
    protection, flags, traits, name = ends.protection, ends.flags, ends.traits, ends.name
    offset = b.select((name & OF_FILE) != 0, ends.offset + more, ends.offset)
    with b.If(left):
        begins.end = b.start
        target.value = target.value + 1
    with b.If(right):
        _move(b, process, last, target.value + 1)
        rest = entry(b, process, target.value)
        rest.start, rest.end, rest.offset = b.end, kept_end, offset
        rest.protection, rest.flags, rest.traits, rest.name = protection, flags, traits, name
    with b.Else():
        _move(b, process, last, target.value)
    _changes(b, process)
    b.Return()
    return b.finish()


CUT = _build_cut()


def _alike(b: Builder, one: Any, other: Any) -> Value:
    """Whether two neighbours are anonymous memory of the same kind."""
    same = (one.protection == other.protection) & (one.flags == other.flags)
    same = same & (one.traits == other.traits) & (one.name == other.name)
    found: Value = same & ((one.name & OF_FILE) == 0) & (one.end == other.start)
    return found


def _build_add() -> Function:
    """add(process, mapping): enter what stands at a host address, one with its like beside it."""
    b, process = _begin("add", "mapping", result=False)
    new = b.struct(MAPPING, b.mapping.to_pointer())
    index = b.call(COUNT_UNTIL, b.process, new.start)
    _changes(b, process)
    before, after = b.variable(I1, Constant(I1, 0)), b.variable(I1, Constant(I1, 0))
    with b.If(index != 0):
        before.value = _alike(b, entry(b, process, index - 1), new)
    with b.If(index != process.mapping_count):
        after.value = _alike(b, new, entry(b, process, index))
    with b.If(before.value):
        end = b.variable(I64, new.end)
        with b.If(after.value):
            end.value = entry(b, process, index).end
            _move(b, process, index + 1, index)
        entry(b, process, index - 1).end = end.value
    with b.Else():
        with b.If(after.value):
            entry(b, process, index).start = new.start
        with b.Else():
            _move(b, process, index, index + 1)
            b.copy(entry(b, process, index).pointer(), new.pointer(), MAPPING.size)
    _changes(b, process)
    b.Return()
    return b.finish()


ADD = _build_add()


def _build_find() -> Function:
    """find(process, address, result) -> whether a mapping holds *address*: it is copied there."""
    b, process = _begin("find", "address", "result")
    found = b.variable(I64, 0)
    with b.Loop():
        before = b.load(process.pointer("mapping_changes"), I64, atomic=True)
        with b.If((before & 1) == 0, likely=True):
            found.value = 0
            count = b.call(COUNT_UNTIL, b.process, b.address)
            with b.If(count != 0):
                one = entry(b, process, count - 1)
                with b.If(b.address.ult(one.end)):
                    b.copy(b.result.to_pointer(), one.pointer(), MAPPING.size)
                    found.value = 1
            with b.If(b.load(process.pointer("mapping_changes"), I64, atomic=True) == before):
                b.Return(found.value)
    return b.finish()


FIND = _build_find()


def _build_lock() -> Function:
    """lock(process): wait for the table's lock (Drepper, "Futexes Are Tricky")."""
    b, process = _begin("lock", result=False)
    place = process.pointer("mapping_lock")
    free, held, wanted = (Constant(I32, value) for value in (_FREE, _HELD, _WANTED))
    with b.If(b.compare_exchange(place, free, held) == _FREE, likely=True):
        b.Return()
    with b.While(lambda: b.atomic("xchg", place, wanted) != _FREE):
        b.system_call(NUMBERS["futex"], place.from_pointer(), _WAIT_PRIVATE, _WANTED)
    b.Return()
    return b.finish()


LOCK = _build_lock()


def _build_unlock() -> Function:
    """unlock(process): let the table's lock go."""
    b, process = _begin("unlock", result=False)
    place = process.pointer("mapping_lock")
    with b.If(b.atomic("xchg", place, Constant(I32, _FREE)) == _WANTED, likely=False):
        b.system_call(NUMBERS["futex"], place.from_pointer(), _WAKE_PRIVATE, 1)
    b.Return()
    return b.finish()


UNLOCK = _build_unlock()
ROUTINES = (COUNT_UNTIL, IS_FREE, FIND_FREE, CUT, ADD, FIND, LOCK, UNLOCK)
__all__ = ["PAGE", "ROUTINES"]
