"""Split virtqueues as native programs: Virtio 1.2, section 2.7."""

from __future__ import annotations

from typing import Any, NamedTuple

from tandemu.device.virtqueue.areas import (
    Shared,
    add,
    begin_chain,
    fault,
    indirect_table,
    note_buffers,
    read_descriptor,
)
from tandemu.device.virtqueue.layout import (
    CHAIN,
    DESCRIPTOR_BYTES,
    INDIRECT,
    NEXT,
    NO_INTERRUPT,
    NO_NOTIFY,
    VIRTQUEUE,
    Status,
)
from tandemu.ir import I16, I32, I64, PTR, Builder, Constant, Function, Value

_INDICES = 0xFFFF
_AVAILABLE_RING, _USED_RING = 4, 4
_USED_ELEMENT = 8


class _Areas(NamedTuple):
    """Host addresses of the areas of a queue."""

    available: Value
    used: Value


def _areas(b: Builder, shared: Shared, queue: Any) -> _Areas:
    available = b.call(shared.area, b.memory, queue.driver, queue.size * 2 + 6, 2, 0)
    used = b.call(shared.area, b.memory, queue.device, queue.size * _USED_ELEMENT + 6, 4, 1)
    fault(b, (available == 0) | (used == 0), Status.BAD_AREA)
    return _Areas(available, used)


def _store_used(
    b: Builder, shared: Shared, queue: Any, used: Value, at: Value, value: Value
) -> None:
    """Store 16 bits in the used ring *at* an offset, and note that."""
    b.store((used + at).to_pointer(), value.trunc(I16), atomic=True)
    b.call(shared.note, b.memory, queue.device + at, 2)


def build_pop(shared: Shared) -> Function:
    """split_pop(queue, memory, chain) -> `Status`: take the next chain the driver made available.

    If there is none, the driver is told to kick for the next one before the answer is EMPTY.
    """
    b = Builder("split_pop", [("queue", PTR), ("memory", PTR), ("chain", PTR)], result=I64)
    queue, chain = b.struct(VIRTQUEUE, b.queue), b.struct(CHAIN, b.chain)
    size = queue.size
    available, used = _areas(b, shared, queue)
    table = b.call(shared.area, b.memory, queue.descriptors, size * DESCRIPTOR_BYTES, 16, 0)
    fault(b, table == 0, Status.BAD_AREA)
    position = queue.next_available

    def pending() -> Value:
        index = b.load((available + 2).to_pointer(), I16, atomic=True).zext(I64)
        count: Value = (index - position) & _INDICES
        return count

    number = b.variable(I64, pending())
    with b.If(number.value == 0):
        with b.If(queue.event_index != 0):
            event = Constant(I64, _USED_RING) + size * _USED_ELEMENT
            _store_used(b, shared, queue, used, event, position)
        with b.Else(), b.If(queue.silent != 0):
            _store_used(b, shared, queue, used, Constant(I64, 0), Constant(I64, 0))
            queue.silent = 0
        b.fence()
        number.value = pending()
        with b.If(number.value == 0, likely=True):
            b.Return(Status.EMPTY)
    fault(b, number.value.ugt(size), Status.BAD_INDEX)
    with b.If((queue.event_index | queue.silent) == 0):
        _store_used(b, shared, queue, used, Constant(I64, 0), Constant(I64, NO_NOTIFY))
        queue.silent = 1

    place = available + _AVAILABLE_RING + ((position & (size - 1)) << 1)
    head = b.access_load(place.to_pointer(), I16).zext(I64)
    fault(b, head.uge(size), Status.BAD_HEAD)
    begin_chain(chain)
    chain.head, chain.descriptors = head, 1
    base, count = b.variable(I64, table), b.variable(I64, size)
    index, left = b.variable(I64, head), b.variable(I64, size)
    direct = b.variable(I64, queue.indirect)
    with b.Loop():
        pointer = (base.value + (index.value << 4)).to_pointer()
        found = read_descriptor(b, pointer)
        with b.If((found.flags & INDIRECT) != 0):
            fault(b, (found.flags & NEXT) != 0, Status.BAD_INDIRECT)
            base.value = indirect_table(b, shared, direct.value, found)
            count.value = found.length >> 4
            left.value = count.value
            index.value, direct.value = Constant(I64, 0), Constant(I64, 0)
        with b.Else():
            add(b, shared, found)
            with b.If((found.flags & NEXT) == 0):
                b.Break()
            left.value = left.value - 1
            fault(b, left.value == 0, Status.LOOP)
            fault(b, found.last.uge(count.value), Status.BAD_NEXT)
            index.value = found.last
    b.call(shared.finish_buffers, b.chain)
    queue.next_available = (position + 1) & _INDICES
    b.Return(Status.FOUND)
    return b.finish()


def build_push(shared: Shared) -> Function:
    """split_push(queue, memory, chain, written) -> 1 if the driver wants an interrupt.

    Hands a chain back of which *written* bytes were written. 0 or a `Status` below 0 otherwise.
    """
    parameters = [("queue", PTR), ("memory", PTR), ("chain", PTR), ("written", I64)]
    b = Builder("split_push", parameters, result=I64)
    queue, chain = b.struct(VIRTQUEUE, b.queue), b.struct(CHAIN, b.chain)
    note_buffers(b, shared, chain, b.written)
    available, used = _areas(b, shared, queue)
    position = queue.next_used
    place = Constant(I64, _USED_RING) + ((position & (queue.size - 1)) << 3)
    b.store((used + place).to_pointer(), chain.head.trunc(I32))
    b.store((used + place + 4).to_pointer(), b.written.trunc(I32))
    b.call(shared.note, b.memory, queue.device + place, _USED_ELEMENT)
    following = (position + 1) & _INDICES
    queue.next_used = following
    _store_used(b, shared, queue, used, Constant(I64, 2), following)
    b.fence()
    with b.If(queue.event_index != 0):
        event = available + _AVAILABLE_RING + (queue.size << 1)
        wanted = b.load(event.to_pointer(), I16, atomic=True).zext(I64)
        b.Return((wanted == position).zext(I64))
    flags = b.load(available.to_pointer(), I16, atomic=True).zext(I64)
    b.Return((flags & NO_INTERRUPT) ^ 1)
    return b.finish()
