"""Emitters and routines over the structures of `memory.layout`.

The translator's TLB, its block table and native device code (virtqueues) find guest memory
with the same few lines, and note writes in the same way:

1. write the bytes, 2. `note_written`, 3. tell the guest (a used ring, an interrupt).

`note_write` is the first half of an access that has still to happen, for a vCPU whose TLB entry
lets later stores through unseen. All of it may run on several threads at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandemu.bits import U64, Layout
from tandemu.ir import I8, I64, PTR, Builder, Constant, Function, Value
from tandemu.memory.layout import (
    CODE_LOG,
    GUEST_MEMORY,
    PAGE_CODE,
    PAGE_DIRTY,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGE_WATCHED,
    PAGE_WRITTEN,
    SLOT,
    SLOT_READONLY,
    SLOT_TABLE,
)

HOST_RANGE = Layout("HostRange", address=U64, size=U64)
"""A piece of memory by its host address: Linux's ``struct iovec``."""


def guest_memory(b: Builder, address: Value) -> Any:
    """The `GUEST_MEMORY` structure at the pointer *address*."""
    return b.struct(GUEST_MEMORY, address)


def find_slot(b: Builder, memory: Any, physical: Value, use: Callable[[Any], None]) -> None:
    """Run *use* with the slot that holds *physical*, if one does; *use* returns."""
    table = b.struct(SLOT_TABLE, memory.slots.to_pointer())
    count = table.count
    index = b.variable(I64, 0)
    with b.While(lambda: index.value.ult(count)):
        slot = table.slots[index.value]
        with b.If((physical - slot.base).ult(slot.size)):
            use(slot)
        index.value = index.value + 1


def code_log_stamp(generation: Value) -> Value:
    """What marks an entry of the code log as that of *generation*, and written."""
    return ((generation >> (CODE_LOG.bit_length() - 1)) + 1) & (PAGE_SIZE - 1)


def build_log_code() -> Function:
    """log_code(memory, host): note a write to the page at *host*, from which code was translated.

    Under each guest-physical address the page has.
    """
    b = Builder("log_code", [("memory", PTR), ("host", I64)], exported=False)
    memory = guest_memory(b, b.memory)
    table = b.struct(SLOT_TABLE, memory.slots.to_pointer())
    count = table.count
    index = b.variable(I64, 0)
    with b.While(lambda: index.value.ult(count)):
        slot = table.slots[index.value]
        offset = (b.host & -PAGE_SIZE) - slot.host
        with b.If(offset.ult(slot.size)):
            generation = b.atomic("add", memory.pointer("code_generation"), Constant(I64, 1))
            entry = slot.base + offset + code_log_stamp(generation)
            b.store(memory.code_log.pointer(generation & (CODE_LOG - 1)), entry, atomic=True)
        index.value = index.value + 1
    b.Return()
    return b.finish()


def _note_page(b: Builder, memory: Value, log_code: Function, flags: Value, host: Value) -> None:
    """Record a write to the page at *host* whose flags are at *flags*."""
    old = b.atomic("or", flags, Constant(I8, PAGE_WRITTEN | PAGE_DIRTY))
    with b.If((old & (PAGE_CODE | PAGE_WATCHED)) != 0, likely=False):
        with b.If((old & PAGE_CODE) != 0):
            b.call(log_code, memory, host)
        b.atomic("and", flags, Constant(I8, 0xFF ^ (PAGE_CODE | PAGE_WATCHED)))


def note_write(b: Builder, memory: Any, log_code: Function, slot: Any, page: Value) -> None:
    """Record a first write to page number *page* of *slot*."""
    flags = (slot.pages + page).to_pointer()
    _note_page(b, memory.pointer(), log_code, flags, slot.host + (page << PAGE_SHIFT))


def build_note_pages(log_code: Function) -> Function:
    """note_pages(memory, host, flags, count): note a write that has been done.

    *count* pages from host address *host* on, whose flags are at *flags*.
    """
    parameters = [("memory", PTR), ("host", I64), ("flags", I64), ("count", I64)]
    b = Builder("note_pages", parameters)
    page = b.variable(I64, 0)
    with b.While(lambda: page.value.ult(b.count)):
        flags = (b.flags + page.value).to_pointer()
        _note_page(b, b.memory, log_code, flags, b.host + (page.value << PAGE_SHIFT))
        page.value = page.value + 1
    b.Return()
    return b.finish()


def build_slot_at() -> Function:
    """slot_at(memory, physical) -> the `SLOT` that holds *physical*, null if none does."""
    b = Builder("slot_at", [("memory", PTR), ("physical", I64)], result=PTR, exported=False)
    find_slot(b, guest_memory(b, b.memory), b.physical, lambda slot: b.Return(slot.pointer()))
    b.Return(Constant(PTR, 0))
    return b.finish()


def build_note_written(slot_at: Function, log_code: Function) -> Function:
    """note_written(memory, physical, size): the same by guest-physical address.

    What is not in a slot is passed over.
    """
    b = Builder("note_written", [("memory", PTR), ("physical", I64), ("size", I64)])
    page = b.variable(I64, b.physical & -PAGE_SIZE)
    left = b.variable(I64, b.size + (b.physical & (PAGE_SIZE - 1)))
    with b.While(lambda: left.value.sgt(0)):
        found = b.call(slot_at, b.memory, page.value)
        with b.If(found.from_pointer() != 0, likely=True):
            slot = b.struct(SLOT, found)
            number = (page.value - slot.base) >> PAGE_SHIFT
            note_write(b, guest_memory(b, b.memory), log_code, slot, number)
        page.value = page.value + PAGE_SIZE
        left.value = left.value - PAGE_SIZE
    b.Return()
    return b.finish()


def build_gather(slot_at: Function) -> Function:
    """gather(memory, physical, size, writing, target, room) -> number of pieces.

    Writes the `HOST_RANGE`s that make up *size* bytes of guest memory at *physical* to *target*,
    at most *room* of them. -1: not all of it is RAM (or ROM, if *writing* is 0), or there are more.
    """
    parameters = [("memory", PTR), ("physical", I64), ("size", I64), ("writing", I64)]
    b = Builder("gather", [*parameters, ("target", PTR), ("room", I64)], result=I64)
    place, left = b.variable(I64, b.physical), b.variable(I64, b.size)
    count = b.variable(I64, 0)
    with b.While(lambda: left.value != 0):
        found = b.call(slot_at, b.memory, place.value)
        with b.If((found.from_pointer() == 0) | (count.value == b.room), likely=False):
            b.Return(-1)
        slot = b.struct(SLOT, found)
        with b.If((b.writing != 0) & ((slot.flags & SLOT_READONLY) != 0), likely=False):
            b.Return(-1)
        offset = place.value - slot.base
        rest = slot.size - offset
        part = b.select(left.value.ult(rest), left.value, rest)
        piece = b.struct(HOST_RANGE, b.target.offset(count.value * HOST_RANGE.size))
        piece.address, piece.size = slot.host + offset, part
        place.value, left.value = place.value + part, left.value - part
        count.value = count.value + 1
    b.Return(count.value)
    return b.finish()


def build_take_dirty() -> Function:
    """take_dirty(flags, pages, bits, bit): set a bit in *bits* for each page that has flag *bit*.

    Clears it and watches the pages for the next write; the caller flushes the TLBs afterwards.
    """
    b = Builder("take_dirty", [("flags", I64), ("pages", I64), ("target", I64), ("bit", I64)])
    page = b.variable(I64, 0)
    kept = (b.bit ^ (0xFF ^ PAGE_WRITTEN)).trunc(I8)
    with b.While(lambda: page.value.ult(b.pages)):
        pointer = (b.flags + page.value).to_pointer()
        # A page that no TLB can write and that is not dirty has nothing to be cleared.
        seen = b.load(pointer, I8, atomic=True).zext(I64)
        with b.If((seen & (b.bit | PAGE_WRITTEN)) != 0):
            b.atomic("or", pointer, Constant(I8, PAGE_WATCHED))
            old = b.atomic("and", pointer, kept)
            with b.If((old.zext(I64) & b.bit) != 0):
                place = (b.target + (page.value >> 3)).to_pointer()
                one = (Constant(I64, 1) << (page.value & 7)).trunc(I8)
                b.store(place, b.load(place, I8) | one)
        page.value = page.value + 1
    b.Return()
    return b.finish()
