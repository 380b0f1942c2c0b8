"""Packed virtqueues as native programs: Virtio 1.2, section 2.8."""

from __future__ import annotations

from typing import Any, NamedTuple

from tandemu.device.virtqueue.areas import (
    Descriptor,
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
    EVENT_DESCRIPTOR,
    EVENT_DISABLE,
    EVENT_ENABLE,
    INDIRECT,
    NEXT,
    PACKED_AVAILABLE,
    PACKED_USED,
    VIRTQUEUE,
    WRITE,
    Status,
)
from tandemu.ir import I16, I32, I64, PTR, Builder, Constant, Function, Value

_FLAGS, _ID, _LENGTH = 14, 12, 8
_WRAP_SHIFT = 15
_EVENT_BYTES = 4


class _Areas(NamedTuple):
    """Host addresses of the ring and of the two event suppression structures."""

    ring: Value
    driver: Value
    device: Value


def _areas(b: Builder, shared: Shared, queue: Any) -> _Areas:
    ring = b.call(shared.area, b.memory, queue.descriptors, queue.size * DESCRIPTOR_BYTES, 16, 1)
    driver = b.call(shared.area, b.memory, queue.driver, _EVENT_BYTES, 4, 0)
    device = b.call(shared.area, b.memory, queue.device, _EVENT_BYTES, 4, 1)
    fault(b, (ring == 0) | (driver == 0) | (device == 0), Status.BAD_AREA)
    return _Areas(ring, driver, device)


def _ask_for_kick(b: Builder, shared: Shared, queue: Any, device: Value) -> None:
    """Tell the driver which descriptor, once available, it has to kick for."""
    with b.If(queue.event_index != 0):
        wanted = queue.next_available | (queue.available_wrap << _WRAP_SHIFT)
        b.store(device.to_pointer(), wanted.trunc(I16), atomic=True)
        flags = Constant(I16, EVENT_DESCRIPTOR)
        b.store((device + 2).to_pointer(), flags, atomic=True)
    with b.Else():
        b.store((device + 2).to_pointer(), Constant(I16, EVENT_ENABLE), atomic=True)
        queue.silent = 0
    b.call(shared.note, b.memory, queue.device, _EVENT_BYTES)


def build_pop(shared: Shared) -> Function:
    """packed_pop(queue, memory, chain) -> `Status`: as `split.build_pop`."""
    b = Builder("packed_pop", [("queue", PTR), ("memory", PTR), ("chain", PTR)], result=I64)
    queue, chain = b.struct(VIRTQUEUE, b.queue), b.struct(CHAIN, b.chain)
    size = queue.size
    areas = _areas(b, shared, queue)

    def is_available() -> Value:
        place = areas.ring + (queue.next_available << 4) + _FLAGS
        flags = b.load(place.to_pointer(), I16, atomic=True).zext(I64)
        wrap = queue.available_wrap
        available = ((flags & PACKED_AVAILABLE) != 0).zext(I64)
        used = ((flags & PACKED_USED) != 0).zext(I64)
        found: Value = (available == wrap) & (used != wrap)
        return found

    with b.If(~is_available()):
        _ask_for_kick(b, shared, queue, areas.device)
        b.fence()
        with b.If(~is_available(), likely=True):
            b.Return(Status.EMPTY)
    with b.If((queue.event_index | queue.silent) == 0):
        flags = Constant(I16, EVENT_DISABLE)
        b.store((areas.device + 2).to_pointer(), flags, atomic=True)
        b.call(shared.note, b.memory, queue.device, _EVENT_BYTES)
        queue.silent = 1

    begin_chain(chain)
    position, wrap = b.variable(I64, queue.next_available), b.variable(I64, queue.available_wrap)
    taken = b.variable(I64, 0)
    with b.Loop():
        found = read_descriptor(b, (areas.ring + (position.value << 4)).to_pointer(), packed=True)
        with b.If((found.flags & INDIRECT) != 0):
            fault(b, (found.flags & NEXT) != 0, Status.BAD_INDIRECT)
            _add_table(b, shared, queue, found)
        with b.Else():
            add(b, shared, found)
        taken.value = taken.value + 1
        position.value = position.value + 1
        with b.If(position.value == size):
            position.value = 0
            wrap.value = wrap.value ^ 1
        with b.If((found.flags & NEXT) == 0):
            chain.head = found.last
            b.Break()
        fault(b, taken.value == size, Status.LOOP)
    b.call(shared.finish_buffers, b.chain)
    chain.descriptors = taken.value
    queue.next_available = position.value
    queue.available_wrap = wrap.value
    b.Return(Status.FOUND)
    return b.finish()


def _add_table(b: Builder, shared: Shared, queue: Any, found: Descriptor) -> None:
    """Add every buffer of an indirect table: there, only the flag for writing counts."""
    table = indirect_table(b, shared, queue.indirect, found)
    offset = b.variable(I64, 0)
    with b.While(lambda: offset.value.ult(found.length)):
        entry = read_descriptor(b, (table + offset.value).to_pointer(), packed=True)
        fault(b, (entry.flags & INDIRECT) != 0, Status.BAD_INDIRECT)
        add(b, shared, entry)
        offset.value = offset.value + DESCRIPTOR_BYTES


def build_push(shared: Shared) -> Function:
    """packed_push(queue, memory, chain, written) -> as `split.build_push`."""
    parameters = [("queue", PTR), ("memory", PTR), ("chain", PTR), ("written", I64)]
    b = Builder("packed_push", parameters, result=I64)
    queue, chain = b.struct(VIRTQUEUE, b.queue), b.struct(CHAIN, b.chain)
    note_buffers(b, shared, chain, b.written)
    areas = _areas(b, shared, queue)
    size, position, wrap = queue.size, queue.next_used, queue.used_wrap
    place = areas.ring + (position << 4)
    b.store((place + _ID).to_pointer(), chain.head.trunc(I16))
    b.store((place + _LENGTH).to_pointer(), b.written.trunc(I32))
    mark = b.select(wrap != 0, Constant(I64, PACKED_AVAILABLE | PACKED_USED), Constant(I64, 0))
    mark = mark | b.select(b.written != 0, Constant(I64, WRITE), Constant(I64, 0))
    b.store((place + _FLAGS).to_pointer(), mark.trunc(I16), atomic=True)
    b.call(shared.note, b.memory, queue.descriptors + (position << 4), DESCRIPTOR_BYTES)
    end = position + chain.descriptors
    with b.If(end.uge(size)):
        queue.next_used = end - size
        queue.used_wrap = wrap ^ 1
    with b.Else():
        queue.next_used = end
    b.fence()
    flags = b.load((areas.driver + 2).to_pointer(), I16, atomic=True).zext(I64) & 3
    with b.If((flags == EVENT_DESCRIPTOR) & (queue.event_index != 0)):
        event = b.load(areas.driver.to_pointer(), I16, atomic=True).zext(I64)
        # Counted on from this lap of the ring, so that it compares with the positions passed.
        ahead = b.select(event >> _WRAP_SHIFT == wrap, Constant(I64, 0), size)
        wanted = (event & ((1 << _WRAP_SHIFT) - 1)) + ahead
        b.Return((position.ule(wanted) & wanted.ult(end)).zext(I64))
    b.Return((flags != EVENT_DISABLE).zext(I64))
    return b.finish()
