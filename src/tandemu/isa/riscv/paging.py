"""Address translation: the page-table walk.

RISC-V Privileged ISA, "Virtual Address Translation Process", "Sv32", "Sv39" and
"Sv48"; accessed and dirty bits are updated in hardware (Svadu) while menvcfg.ADUE
is set and fault (Svade) while it is not. Svnapot, Svpbmt and Sv57 are left out:
their bits must be zero.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import mask
from tandemu.ir import I1, I32, I64, PTR, Builder, Function, Local, Value
from tandemu.isa.riscv.hart import Environment, any_set, word
from tandemu.isa.riscv.pmp import EXECUTE, READ, UNIFORM, WRITE
from tandemu.isa.riscv.state import (
    ADUE,
    INSTRUCTION_ACCESS_FAULT,
    INSTRUCTION_PAGE_FAULT,
    LOAD_ACCESS_FAULT,
    LOAD_PAGE_FAULT,
    MACHINE,
    MXR,
    STORE_ACCESS_FAULT,
    STORE_PAGE_FAULT,
    SUM,
    SUPERVISOR,
    USER,
)

ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE = 0, 1, 2

PAGE_SHIFT = 12
UNCACHED = 0
"""`walk_size` of a translation that holds for this very address only."""

BARE, SV32, SV39, SV48 = 0, 1, 8, 9
"""Modes of satp."""

# Page-table entries.
_VALID, _R, _W, _X, _U, _G, _A, _D = (1 << number for number in range(8))
_PPN_LOW = 10


class _Format:
    """What differs between the page tables of the two XLENs."""

    def __init__(self, xlen: int) -> None:
        wide = xlen == 64
        self.entry_size = 8 if wide else 4
        self.index_bits = 9 if wide else 10
        self.ppn_bits = 44 if wide else 22
        self.reserved = mask(64) & ~mask(54) if wide else 0
        self.mode_low = 60 if wide else 31


def translation_mode(satp: Value, xlen: int) -> Value:
    """Return the mode field of *satp*."""
    return satp >> _Format(xlen).mode_low


class _Walk:
    """Parts of the one function that `build_translate` makes."""

    def __init__(
        self, environment: Environment, b: Builder, hart: Any, ram: Function, pmp: Function
    ) -> None:
        self.environment, self.b, self.hart, self.ram, self.pmp = environment, b, hart, ram, pmp
        self.format = _Format(environment.xlen)

    def fault(self, instruction: int, load: int, store: int) -> None:
        b = self.b
        data = b.select(b.access == ACCESS_WRITE, word(store), word(load))
        b.Return(b.select(b.access == ACCESS_EXECUTE, word(instruction), data))

    def page_fault(self) -> None:
        self.fault(INSTRUCTION_PAGE_FAULT, LOAD_PAGE_FAULT, STORE_PAGE_FAULT)

    def access_fault(self) -> None:
        self.fault(INSTRUCTION_ACCESS_FAULT, LOAD_ACCESS_FAULT, STORE_ACCESS_FAULT)

    def needed(self) -> Value:
        """Return the permission that the access needs: 1, 2 or 4."""
        return word(1) << self.b.access

    def finish(self, physical: Value, size: Value, permissions: Value, everywhere: Value) -> None:
        """Check the protection of *physical* and answer."""
        b, hart = self.b, self.hart
        hart.walk_physical = physical
        hart.walk_leaf = size
        hart.walk_global = everywhere
        with b.If(hart.pmp_open != 0):
            hart.walk_size = size
            hart.walk_permissions = permissions
            b.Return(0)
        allowed = b.call(self.pmp, b.cpu, physical, b.size, b.privilege)
        with b.If(~any_set(allowed, self.needed()), likely=False):
            self.access_fault()
        hart.walk_permissions = permissions & allowed
        # An entry may begin on any page: what is known holds for one page at most.
        one_page = b.select(hart.pmp_active == 0, size, word(PAGE_SHIFT))
        hart.walk_size = b.select(any_set(allowed, UNIFORM), one_page, word(UNCACHED))
        b.Return(0)

    def require_protection(self, physical: Value, permission: int) -> None:
        """Fault unless the walk itself, an access of supervisor mode, may touch *physical*."""
        b = self.b
        with b.If(self.hart.pmp_open == 0):
            size = self.format.entry_size
            allowed = b.call(self.pmp, b.cpu, physical, size, SUPERVISOR)
            with b.If(~any_set(allowed, permission), likely=False):
                self.access_fault()

    def check_canonical(self, levels: Value) -> None:
        """Bits above those that are translated must equal the highest one."""
        if self.environment.xlen == 32:
            return
        b = self.b
        unused = word(64 - PAGE_SHIFT) - levels * self.format.index_bits
        with b.If((b.virtual << unused).sar(unused) != b.virtual, likely=False):
            self.page_fault()

    def permissions(self, entry: Value) -> Value:
        """Return what the privilege may do by leaf *entry*, its D bit left aside."""
        b, status = self.b, self.hart.mstatus
        of_entry = entry.bits(1, 3)
        readable = any_set(status, MXR) & any_set(entry, _X)
        of_entry = of_entry | b.select(readable, word(READ), word(0))
        user_page = any_set(entry, _U)
        of_user = b.select(user_page, of_entry, word(0))
        # Supervisor mode reaches pages of user mode only for data, and only with SUM.
        lent = b.select(any_set(status, SUM), of_entry & ~EXECUTE, word(0))
        of_supervisor = b.select(user_page, lent, of_entry)
        return b.select(b.privilege == USER, of_user, of_supervisor)

    def leaf(self, entry: Value, pointer: Value, address: Value, level: Value, path: Value) -> None:
        """Answer by the leaf *entry*; returns to the caller only if the entry changed meanwhile."""
        b, hart, shape = self.b, self.hart, self.format
        permissions = self.permissions(entry)
        with b.If(~any_set(permissions, self.needed()), likely=False):
            self.page_fault()
        ppn = entry.bits(_PPN_LOW, shape.ppn_bits)
        below = (word(1) << (level * shape.index_bits)) - 1
        with b.If(any_set(ppn, below), likely=False):
            self.page_fault()
        writes = b.access == ACCESS_WRITE
        wanted = entry | b.select(writes, word(_A | _D), word(_A))
        unchanged = b.variable(I1, 1)
        with b.If(wanted != entry, likely=False):
            with b.If(~any_set(hart.menvcfg, ADUE)):
                self.page_fault()
            self.require_protection(address, WRITE)
            stored = I64 if shape.entry_size == 8 else I32
            expected = entry.resize(stored)
            found = b.compare_exchange(pointer, expected, wanted.resize(stored))
            unchanged.value = found == expected
        with b.If(unchanged.value):
            size = word(PAGE_SHIFT) + level * shape.index_bits
            inside = (word(1) << size) - 1
            physical = ((ppn << PAGE_SHIFT) & ~inside) | (b.virtual & inside)
            # The first write to a clean page must come back here to set D.
            kept = b.select(any_set(wanted, _D), permissions, permissions & ~WRITE)
            everywhere = b.select(any_set(entry | path, _G), word(1), word(0))
            self.finish(physical, size, kept, everywhere)

    def step(self, table: Local, level: Local, path: Local) -> None:
        """Look at one entry: answer, fault, or descend; breaks to begin the walk again."""
        b, shape = self.b, self.format
        shift = word(PAGE_SHIFT) + level.value * shape.index_bits
        index = (b.virtual >> shift) & mask(shape.index_bits)
        address = table.value + index * shape.entry_size
        self.require_protection(address, READ)
        pointer = b.call(self.ram, b.cpu, address, shape.entry_size)
        with b.If(pointer.from_pointer() == 0, likely=False):
            self.access_fault()
        stored = I64 if shape.entry_size == 8 else I32
        entry = b.load(pointer, stored, atomic=True).zext(I64)
        write_only = (entry & (_R | _W)) == _W
        bad = ~any_set(entry, _VALID) | write_only | any_set(entry, shape.reserved)
        with b.If(bad, likely=False):
            self.page_fault()
        with b.If(any_set(entry, _R | _X)):
            self.leaf(entry, pointer, address, level.value, path.value)
            b.Break()
        # In an entry that points to a table, these bits are reserved.
        with b.If(any_set(entry, _A | _D | _U) | (level.value == 0), likely=False):
            self.page_fault()
        path.value = path.value | entry
        table.value = entry.bits(_PPN_LOW, shape.ppn_bits) << PAGE_SHIFT
        level.value = level.value - 1

    def build(self) -> None:
        b, hart, shape = self.b, self.hart, self.format
        satp = hart.satp
        mode = translation_mode(satp, self.environment.xlen)
        with b.If((b.privilege == MACHINE) | (mode == BARE)):
            everything = word(READ | WRITE | EXECUTE)
            self.finish(b.virtual, word(PAGE_SHIFT), everything, word(1))
        levels: Value = word(2)
        if self.environment.xlen == 64:
            levels = b.select(mode == SV48, word(4), word(3))
        self.check_canonical(levels)
        table, level, path = (b.variable(I64, 0) for _ in range(3))
        with b.Loop():
            table.value = satp.bits(0, shape.ppn_bits) << PAGE_SHIFT
            level.value = levels - 1
            path.value = 0
            with b.Loop():
                self.step(table, level, path)
            # The leaf changed under our hands: walk again.


def build_translate(
    environment: Environment, ram_pointer: Function, pmp_allows: Function
) -> Function:
    """Build (cpu, virtual, access, size, privilege) -> 0, or the number of the exception.

    *access* is 0 to read, 1 to write, 2 to execute; its *size* bytes lie in one page;
    *privilege* is the effective one.
    On success `walk_physical` holds the physical address, `walk_size` the log2
    of the size of what the translation holds for (`UNCACHED`: this address),
    `walk_leaf` the log2 of the size of the leaf entry's page,
    `walk_permissions` what the privilege may do there now (writing only once
    the page is dirty), `walk_global` whether it is the same in every ASID.

    *ram_pointer* is (cpu, physical: i64, size: i64) -> host pointer, null if that
    is not RAM.
    """
    if ram_pointer.result != PTR:
        raise TypeError(f"ram_pointer must give a pointer, not {ram_pointer.result}")
    b, hart = environment.begin("translate", "virtual", "access", "size", "privilege")
    _Walk(environment, b, hart, ram_pointer, pmp_allows).build()
    return b.finish()
