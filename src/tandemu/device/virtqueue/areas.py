"""What the programs over split and packed queues share: areas of a queue, buffers, marks.

A queue is in the guest's memory and may change at any time: each number is read once, checked,
and used as it was checked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tandemu.device.virtqueue.layout import (
    CHAIN,
    DESCRIPTOR_BYTES,
    SEGMENT_LIMIT,
    WRITE,
    Status,
)
from tandemu.ir import I16, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.memory.layout import SLOT, SLOT_READONLY
from tandemu.slots import emitters

_MOST_BYTES = 1 << 32


class Shared(NamedTuple):
    """Functions that the programs call."""

    area: Function
    add_buffer: Function
    finish_buffers: Function
    note: Function


class Descriptor(NamedTuple):
    """A descriptor as it was read, once."""

    address: Value
    length: Value
    flags: Value
    last: Value
    """The two bytes that are the next index in a split queue."""


def fault(b: Builder, condition: Value, status: Status) -> None:
    """Return *status* if *condition*, which is rare."""
    with b.If(condition, likely=False):
        b.Return(Constant(I64, status))


def read_descriptor(b: Builder, pointer: Value, *, packed: bool = False) -> Descriptor:
    """Read the descriptor at *pointer*; a packed one has its ID where the flags of a split are."""
    address = b.access_load(pointer, I64)
    length = b.access_load(pointer.offset(8), I32).zext(I64)
    first = b.access_load(pointer.offset(12), I16).zext(I64)
    second = b.access_load(pointer.offset(14), I16).zext(I64)
    return Descriptor(address, length, *((second, first) if packed else (first, second)))


def build_area(slot_at: Function) -> Function:
    """queue_area(memory, physical, size, alignment, writing) -> host address, 0 if it cannot be."""
    parameters = [("memory", PTR), ("physical", I64), ("size", I64), ("alignment", I64)]
    b = Builder("queue_area", [*parameters, ("writing", I64)], result=I64, exported=False)
    with b.If((b.physical & (b.alignment - 1)) != 0, likely=False):
        b.Return(0)
    found = b.call(slot_at, b.memory, b.physical)
    with b.If(found.from_pointer() == 0, likely=False):
        b.Return(0)
    slot = b.struct(SLOT, found)
    offset = b.physical - slot.base
    with b.If(b.size.ugt(slot.size - offset), likely=False):
        b.Return(0)
    with b.If((b.writing != 0) & ((slot.flags & SLOT_READONLY) != 0), likely=False):
        b.Return(0)
    b.Return(slot.host + offset)
    return b.finish()


def build_add_buffer(slot_at: Function) -> Function:
    """add_buffer(memory, chain, address, length, flags) -> 0, or a status below 0.

    Adds a buffer to *chain*: one segment for each piece of memory, none if it goes on where the
    segment before ends. `CHAIN.readable` counts bytes to be written until `finish_buffers`.
    """
    parameters = [("memory", PTR), ("chain", PTR), ("address", I64), ("length", I64)]
    b = Builder("add_buffer", [*parameters, ("flags", I64)], result=I64, exported=False)
    chain = b.struct(CHAIN, b.chain)
    writing = (b.flags & WRITE) != 0
    with b.If(writing):
        with b.If(chain.writable_bytes == 0):
            chain.readable = chain.count
        chain.writable_bytes = chain.writable_bytes + b.length
    with b.Else():
        fault(b, chain.writable_bytes != 0, Status.BAD_ORDER)
        chain.readable_bytes = chain.readable_bytes + b.length
    total = chain.readable_bytes + chain.writable_bytes
    fault(b, total.uge(_MOST_BYTES), Status.TOO_LONG)
    place, left = b.variable(I64, b.address), b.variable(I64, b.length)
    with b.While(lambda: left.value != 0):
        found = b.call(slot_at, b.memory, place.value)
        fault(b, found.from_pointer() == 0, Status.BAD_BUFFER)
        slot = b.struct(SLOT, found)
        fault(b, writing & ((slot.flags & SLOT_READONLY) != 0), Status.BAD_BUFFER)
        offset = place.value - slot.base
        host, rest = slot.host + offset, slot.size - offset
        part = b.select(left.value.ult(rest), left.value, rest)
        first = b.select(writing, chain.readable, Constant(I64, 0))
        joined = b.variable(I64, 0)
        with b.If(chain.count != first):
            before = chain.segments[chain.count - 1]
            follows = (before.host + before.size == host) & (
                before.physical + before.size == place.value
            )
            with b.If(follows):
                before.size = before.size + part
                joined.value = 1
        with b.If(joined.value == 0):
            fault(b, chain.count == SEGMENT_LIMIT, Status.TOO_LONG)
            segment = chain.segments[chain.count]
            segment.host, segment.size, segment.physical = host, part, place.value
            chain.count = chain.count + 1
        place.value, left.value = place.value + part, left.value - part
    b.Return(0)
    return b.finish()


def build_finish_buffers() -> Function:
    """finish_buffers(chain): the chain is whole."""
    b = Builder("finish_buffers", [("chain", PTR)], exported=False)
    chain = b.struct(CHAIN, b.chain)
    with b.If(chain.writable_bytes == 0):
        chain.readable = chain.count
    b.Return()
    return b.finish()


def begin_chain(chain: Any) -> None:
    """Empty *chain*."""
    chain.count = 0
    chain.readable = 0
    chain.readable_bytes = 0
    chain.writable_bytes = 0


def add(b: Builder, shared: Shared, buffer: Descriptor) -> None:
    """Add *buffer* to the builder's chain; return what is wrong with it."""
    status = b.call(
        shared.add_buffer, b.memory, b.chain, buffer.address, buffer.length, buffer.flags
    )
    with b.If(status != 0, likely=False):
        b.Return(status)


def indirect_table(b: Builder, shared: Shared, allowed: Value, found: Descriptor) -> Value:
    """The host address of the indirect table that *found* names; returns if it cannot be."""
    fault(b, allowed == 0, Status.BAD_INDIRECT)
    fault(b, found.length == 0, Status.BAD_INDIRECT)
    fault(b, (found.length & (DESCRIPTOR_BYTES - 1)) != 0, Status.BAD_INDIRECT)
    fault(b, (found.length >> 4).ugt(1 << 16), Status.BAD_INDIRECT)
    host = b.call(shared.area, b.memory, found.address, found.length, 1, 0)
    fault(b, host == 0, Status.BAD_BUFFER)
    return host


def note_buffers(b: Builder, shared: Shared, chain: Any, written: Value) -> None:
    """Note that the first *written* bytes of the chain's buffers to be written were."""
    left, index = b.variable(I64, written), b.variable(I64, chain.readable)
    with b.While(lambda: (left.value != 0) & index.value.ult(chain.count)):
        segment = chain.segments[index.value]
        size = b.select(left.value.ult(segment.size), left.value, segment.size)
        b.call(shared.note, b.memory, segment.physical, size)
        left.value = left.value - size
        index.value = index.value + 1


def build_shared() -> Shared:
    """The functions that are used by all programs."""
    slot_at, log_code = emitters.build_slot_at(), emitters.build_log_code()
    return Shared(
        build_area(slot_at),
        build_add_buffer(slot_at),
        build_finish_buffers(),
        emitters.build_note_written(slot_at, log_code),
    )
