"""Guest memory below generated code: slots, the TLB and what happens when it misses.

Everything here is written in the embedded language and runs natively. A miss
ends in one of three ways: the entry is filled and the access is tried again; the
access is carried out piecemeal by the interpreter (it crosses a page, or lies
where nothing may be cached); or it leaves as an exit or a trap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tandemu.bits import Layout
from tandemu.ir import I8, I16, I32, I64, PTR, Builder, Constant, Function, I, Value
from tandemu.isa.architecture import Faults, State
from tandemu.isa.effects import INSTRUCTIONS
from tandemu.isa.guest import System
from tandemu.jit.memory.debugging import WatchRoutines, access_bits
from tandemu.jit.memory.doorbells import emit_ring
from tandemu.jit.memory.posted import emit_post, emit_status
from tandemu.jit.memory.tlb import note_large_page, tlb_entry
from tandemu.jit.shared.layout import (
    EXIT_READ,
    EXIT_WRITE,
    FETCH_ENTRIES,
    INVALID,
    MACHINE,
    RESPONSE_FAULT,
    RESPONSE_NONE,
    TLB_ENTRY,
    WATCHES_READ,
    WATCHES_WRITE,
)
from tandemu.memory.layout import (
    PAGE_CODE,
    PAGE_DIRTY,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGE_WATCHED,
    PAGE_WRITTEN,
    SLOT_READONLY,
)
from tandemu.slots.emitters import find_slot, guest_memory, note_write

READ, WRITE, EXECUTE = 0, 1, 2

STATUS_DONE, STATUS_TRAP, STATUS_EXIT, STATUS_SOFTWARE = range(4)
"""What a case of the interpreter and the slow paths return."""

FILLED, FILL_TRAP, FILL_DEVICE, FILL_UNCACHED = range(4)
"""What `fill` returns. FILL_DEVICE: no RAM there, physical address in `exit_address`."""


class MemoryRoutines(NamedTuple):
    """The routines other parts call."""

    ram_pointer: Function
    fill: Function
    load: Function
    store: Function
    atomic: Function
    fetch: Function


def machine_of(b: Builder, cpu: Any) -> Any:
    """The VM's shared structure."""
    return b.struct(MACHINE, cpu.machine.to_pointer())


def guest_memory_of(b: Builder, cpu: Any) -> Any:
    """The `GUEST_MEMORY` structure of its VM."""
    return guest_memory(b, machine_of(b, cpu).memory.to_pointer())


def build_ram_pointer(layout: Layout) -> Function:
    """ram_pointer(cpu, physical, size) -> host pointer, null if not RAM."""
    b = Builder("ram_pointer", [("cpu", PTR), ("physical", I64), ("size", I64)], result=PTR)
    cpu = b.struct(layout, b.cpu)

    def use(slot: Any) -> None:
        with b.If((b.physical - slot.base + b.size).ule(slot.size)):
            b.Return((b.physical - slot.base + slot.host).to_pointer())

    find_slot(b, guest_memory_of(b, cpu), b.physical, use)
    b.Return(Constant(PTR, 0))
    return b.finish()


def build_fill(
    layout: Layout, state: State, translate: Function, log_code: Function, watches: WatchRoutines
) -> Function:
    """fill(cpu, address, access, size) -> FILL_*: make the TLB entry of a page.

    The access that is judged has *size* bytes, all in that page. On FILLED and FILL_UNCACHED
    `host_pointer` is the host address of *address*.
    """
    parameters = [("cpu", PTR), ("address", I64), ("access", I64), ("size", I64)]
    b = Builder("fill", parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    memory = guest_memory_of(b, cpu)
    cpu.tlb_misses = cpu.tlb_misses + 1
    cause = b.call(translate, b.cpu, b.address, b.access, b.size, cpu.data_privilege)
    with b.If(cause != 0, likely=False):
        cpu.trap_cause = cause
        cpu.trap_value = b.address
        b.Return(FILL_TRAP)
    physical = cpu.walk_physical

    def use(slot: Any) -> None:
        offset = physical - slot.base
        host = slot.host + offset
        writing = b.access == WRITE
        readonly = (slot.flags & SLOT_READONLY) != 0
        with b.If(writing & readonly, likely=False):
            cpu.exit_address = physical
            b.Return(FILL_DEVICE)
        page = offset >> PAGE_SHIFT
        flags = (slot.pages + page).to_pointer()
        cpu.host_pointer = host
        entry = b.struct(TLB_ENTRY, tlb_entry(b, cpu.tlb.to_pointer(), b.address))
        virtual_page = b.address & -PAGE_SIZE
        with b.If(writing):
            if state.code_visible_at_once:
                with b.If((b.load(flags, I8) & PAGE_CODE) != 0):
                    cpu.effects = cpu.effects | INSTRUCTIONS
            note_write(b, memory, log_code, slot, page)
        with b.If(cpu.walk_size == 0, likely=False):
            b.Return(FILL_UNCACHED)
        # A page that is written already, and not watched, may be written through this entry.
        permissions = cpu.walk_permissions
        marks = b.load(flags, I8)
        plain = (marks & (PAGE_WRITTEN | PAGE_DIRTY | PAGE_CODE | PAGE_WATCHED)) == (
            PAGE_WRITTEN | PAGE_DIRTY
        )
        watched = watches.on_page(b, cpu, virtual_page)
        writable = plain & ((permissions & 2) != 0) & ~readonly & ((watched & WATCHES_WRITE) == 0)
        readable = ((permissions & 1) != 0) & ((watched & WATCHES_READ) == 0)
        note_large_page(b, cpu, b.address)
        entry.addend = host - b.address
        entry.read = b.select(readable, virtual_page, INVALID)
        entry.write = b.select(writable, virtual_page, INVALID)
        # Another vCPU may be translating from this page: either it sees the entry
        # (and removes it), or this sees its mark.
        b.fence()
        marked = b.load(flags, I8, atomic=True) & (PAGE_CODE | PAGE_WATCHED)
        with b.If(marked != 0, likely=False):
            entry.write = INVALID
            with b.If(writing):
                b.Return(FILL_UNCACHED)
        with b.If((watched & access_bits(b, writing)) != 0, likely=False):
            b.Return(FILL_UNCACHED)
        b.Return(FILLED)

    find_slot(b, memory, physical, use)
    cpu.exit_address = physical
    b.Return(FILL_DEVICE)
    return b.finish()


def _crosses(address: Value, size: Value) -> Value:
    return ((address & (PAGE_SIZE - 1)) + size).ugt(PAGE_SIZE)


def _device_answer(b: Builder, cpu: Any, address: Value, kind: int, fault: int) -> None:
    """After FILL_DEVICE: take the machine's answer if it is there (falls through), or exit."""
    with b.If(cpu.response_state == RESPONSE_NONE):
        cpu.exit_kind = kind
        b.Return(STATUS_EXIT)
    answered = cpu.response_state
    cpu.response_state = RESPONSE_NONE
    with b.If(answered == RESPONSE_FAULT):
        cpu.trap_cause = fault
        cpu.trap_value = address
        b.Return(STATUS_TRAP)


def _read_sized(b: Builder, pointer: Value, size: Value) -> Value:
    result = b.variable(I64, 0)
    with b.Switch(size) as cases:
        for bytes_ in (1, 2, 4, 8):
            with cases.Case(bytes_):
                result.value = b.load(pointer, I(8 * bytes_)).zext(I64)
    return result.value


def _write_sized(b: Builder, pointer: Value, size: Value, value: Value) -> None:
    with b.Switch(size) as cases:
        for bytes_, type in ((1, I8), (2, I16), (4, I32), (8, I64)):
            with cases.Case(bytes_):
                b.store(pointer, value.trunc(type))


def _trap_out(b: Builder, status: Value) -> None:
    with b.If(status == FILL_TRAP):
        b.Return(STATUS_TRAP)


def build_load(layout: Layout, faults: Faults, fill: Function, watches: WatchRoutines) -> Function:
    """slow_load(cpu, address, size) -> STATUS_*, the value in `load_value`."""
    parameters = [("cpu", PTR), ("address", I64), ("size", I64)]
    b = Builder("slow_load", parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    with b.If(_crosses(b.address, b.size), likely=False):
        watches.leave_if_met(b, cpu, b.address, b.size, WATCHES_READ, STATUS_EXIT)
        # Byte by byte; a device is not read in pieces.
        total, index = b.variable(I64, 0), b.variable(I64, 0)
        with b.While(lambda: index.value.ult(b.size)):
            status = b.call(fill, b.cpu, b.address + index.value, Constant(I64, READ), 1)
            _trap_out(b, status)
            with b.If(status == FILL_DEVICE):
                cpu.trap_cause = faults.load
                cpu.trap_value = b.address + index.value
                b.Return(STATUS_TRAP)
            byte = b.load(cpu.host_pointer.to_pointer(), I8).zext(I64)
            total.value = total.value | (byte << (index.value << 3))
            index.value = index.value + 1
        cpu.load_value = total.value
        b.Return(STATUS_DONE)
    status = b.call(fill, b.cpu, b.address, Constant(I64, READ), b.size)
    _trap_out(b, status)
    watches.leave_if_met(b, cpu, b.address, b.size, WATCHES_READ, STATUS_EXIT)
    with b.If(status == FILL_DEVICE):
        with b.If(cpu.response_state == RESPONSE_NONE):
            posted = machine_of(b, cpu).posted
            with b.If(emit_status(b, posted, cpu.exit_address, b.size)):
                cpu.load_value = posted.value
                b.Return(STATUS_DONE)
        cpu.exit_size = b.size
        _device_answer(b, cpu, b.address, EXIT_READ, faults.load)
        cpu.load_value = cpu.response_value
        b.Return(STATUS_DONE)
    cpu.load_value = _read_sized(b, cpu.host_pointer.to_pointer(), b.size)
    b.Return(STATUS_DONE)
    return b.finish()


def build_store(layout: Layout, faults: Faults, fill: Function, watches: WatchRoutines) -> Function:
    """slow_store(cpu, address, size, value) -> STATUS_*."""
    parameters = [("cpu", PTR), ("address", I64), ("size", I64), ("value", I64)]
    b = Builder("slow_store", parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    with b.If(_crosses(b.address, b.size), likely=False):
        # Both pages are asked first: a store that traps has stored nothing.
        following = (b.address + b.size - 1) & -PAGE_SIZE
        first_size = following - b.address
        for address, size in ((b.address, first_size), (following, b.size - first_size)):
            status = b.call(fill, b.cpu, address, Constant(I64, WRITE), size)
            _trap_out(b, status)
            with b.If(status == FILL_DEVICE):
                cpu.trap_cause = faults.store
                cpu.trap_value = address
                b.Return(STATUS_TRAP)
        watches.leave_if_met(b, cpu, b.address, b.size, WATCHES_WRITE, STATUS_EXIT)
        index = b.variable(I64, 0)
        with b.While(lambda: index.value.ult(b.size)):
            b.call(fill, b.cpu, b.address + index.value, Constant(I64, WRITE), 1)
            byte = (b.value >> (index.value << 3)).trunc(I8)
            b.store(cpu.host_pointer.to_pointer(), byte)
            index.value = index.value + 1
        b.Return(STATUS_DONE)
    status = b.call(fill, b.cpu, b.address, Constant(I64, WRITE), b.size)
    _trap_out(b, status)
    watches.leave_if_met(b, cpu, b.address, b.size, WATCHES_WRITE, STATUS_EXIT)
    with b.If(status == FILL_DEVICE):
        with b.If(cpu.response_state == RESPONSE_NONE):
            machine = machine_of(b, cpu)
            with b.If(emit_post(b, machine.posted, cpu.exit_address, b.size, b.value)):
                b.Return(STATUS_DONE)
            with b.If(emit_ring(b, machine, cpu.exit_address)):
                b.Return(STATUS_DONE)
        cpu.exit_size = b.size
        cpu.exit_value = b.value
        _device_answer(b, cpu, b.address, EXIT_WRITE, faults.store)
        b.Return(STATUS_DONE)
    _write_sized(b, cpu.host_pointer.to_pointer(), b.size, b.value)
    b.Return(STATUS_DONE)
    return b.finish()


def build_atomic(
    layout: Layout, faults: Faults, fill: Function, watches: WatchRoutines
) -> Function:
    """atomic_pointer(cpu, address, size, write) -> STATUS_*, the place in `host_pointer`.

    Atomic operations exist on RAM only, and aligned.
    """
    parameters = [("cpu", PTR), ("address", I64), ("size", I64), ("write", I64)]
    b = Builder("atomic_pointer", parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    write = b.write != 0
    cpu.trap_value = b.address
    with b.If((b.address & (b.size - 1)) != 0, likely=False):
        cpu.trap_cause = b.select(
            write, Constant(I64, faults.store_misaligned), Constant(I64, faults.load_misaligned)
        )
        b.Return(STATUS_TRAP)
    access = b.select(write, Constant(I64, WRITE), Constant(I64, READ))
    status = b.call(fill, b.cpu, b.address, access, b.size)
    _trap_out(b, status)
    with b.If(status == FILL_DEVICE):
        cpu.trap_cause = b.select(write, Constant(I64, faults.store), Constant(I64, faults.load))
        b.Return(STATUS_TRAP)
    both = Constant(I64, WATCHES_READ | WATCHES_WRITE)
    accesses = b.select(write, both, Constant(I64, WATCHES_READ))
    watches.leave_if_met(b, cpu, b.address, b.size, accesses, STATUS_EXIT)
    b.Return(STATUS_DONE)
    return b.finish()


def build_fetch(layout: Layout, state: State, system: System) -> Function:
    """fetch(cpu, pc) -> pointer to a `FETCH_ENTRY` of the page of *pc*; null is a trap."""
    b = Builder("fetch", [("cpu", PTR), ("pc", I64)], result=PTR)
    cpu = b.struct(layout, b.cpu)
    page = b.pc & -PAGE_SIZE
    tag = page + system.fetch_privilege(cpu) + 1
    entry = cpu.fetches[(b.pc >> PAGE_SHIFT) & (FETCH_ENTRIES - 1)]
    with b.If(entry.tag == tag, likely=True):
        b.Return(entry.pointer())
    cause = b.call(
        system.translate,
        *(b.cpu, b.pc, Constant(I64, EXECUTE), state.alignment, system.fetch_privilege(cpu)),
    )
    cpu.trap_value = b.pc
    with b.If(cause != 0, likely=False):
        cpu.trap_cause = cause
        b.Return(Constant(PTR, 0))
    physical = cpu.walk_physical

    def use(slot: Any) -> None:
        start = physical & -PAGE_SIZE
        note_large_page(b, cpu, b.pc)
        entry.physical = start
        entry.host = slot.host + start - slot.base
        entry.tag = b.select(cpu.walk_size == 0, INVALID, tag)
        b.Return(entry.pointer())

    find_slot(b, guest_memory_of(b, cpu), physical, use)
    cpu.trap_cause = state.faults.fetch  # code is run from RAM and ROM only
    b.Return(Constant(PTR, 0))
    return b.finish()


def build_physical_address(layout: Layout, system: System) -> Function:
    """physical_address(cpu, address) -> where a load from *address* would go now, or `INVALID`."""
    b = Builder("physical_address", [("cpu", PTR), ("address", I64)], result=I64)
    cpu = b.struct(layout, b.cpu)
    _, privilege = system.regime(b, cpu)
    cause = b.call(system.translate, b.cpu, b.address, Constant(I64, READ), 1, privilege)
    b.Return(b.select(cause == 0, cpu.walk_physical, Constant(I64, INVALID)))
    return b.finish()


def build_memory(
    layout: Layout, state: State, ram_pointer: Function, system: System, log_code: Function
) -> MemoryRoutines:
    """Build all routines of a machine; *log_code* as `slots` builds it."""
    faults = state.faults
    watches = WatchRoutines(layout)
    fill = build_fill(layout, state, system.translate, log_code, watches)
    return MemoryRoutines(
        ram_pointer,
        fill,
        build_load(layout, faults, fill, watches),
        build_store(layout, faults, fill, watches),
        build_atomic(layout, faults, fill, watches),
        build_fetch(layout, state, system),
    )
