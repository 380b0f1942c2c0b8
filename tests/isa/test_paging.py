"""The page-table walk: formats, permissions, faults, accessed and dirty bits, protection."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tandemu.bits import extract, mask, sign_extend
from tandemu.ir import I64, Evaluator
from tandemu.isa.riscv import state
from tandemu.isa.riscv.paging import build_translate
from tests.isa.hart_machine import RAM_BASE, RAM_SIZE, Machine, machine

READ, WRITE, EXECUTE = 0, 1, 2
PAGE_FAULT = {READ: 13, WRITE: 15, EXECUTE: 12}
ACCESS_FAULT = {READ: 5, WRITE: 7, EXECUTE: 1}
V, R, W, X, U, G, A, D = (1 << number for number in range(8))
RWX = 7
"""All permissions, as `walk_permissions` has them: an entry's, one place lower."""
LEAF = V | R | W | X | A | D
TABLES = RAM_BASE + 0x1_0000


@dataclass
class Space:
    """An address space being put together in guest memory."""

    m: Machine
    levels: int
    next_table: int = field(default=TABLES + 0x1000)

    @property
    def index_bits(self) -> int:
        return 9 if self.m.xlen == 64 else 10

    def slot(self, virtual: int, level: int = 0, flags: int = V) -> int:
        """Address of the entry for *virtual* at *level*; tables on the way are made."""
        size, table = self.m.xlen // 8, TABLES
        for depth in range(self.levels - 1, -1, -1):
            low = 12 + depth * self.index_bits
            place = table + extract(virtual, low, self.index_bits) * size
            if depth == level:
                return place
            if not self.m.peek(place):
                self.m.poke(place, self.next_table >> 12 << 10 | flags)
                self.next_table += 0x1000
            table = self.m.peek(place) >> 10 << 12
        raise AssertionError

    def map(self, virtual: int, physical: int, flags: int = LEAF, level: int = 0) -> int:
        place = self.slot(virtual, level)
        self.m.poke(place, physical >> 12 << 10 | flags)
        return place


MODES = {"sv39": (64, 8, 3), "sv48": (64, 9, 4), "sv32": (32, 1, 2)}


@pytest.fixture(params=[(name, native) for name in MODES for native in (False, True)], ids=str)
def space(request: pytest.FixtureRequest) -> Iterator[Space]:
    name, native = request.param
    xlen, mode, levels = MODES[name]
    m = machine(xlen, native).fresh()
    m.hart.pmp_open = 1
    m.hart.satp = mode << (60 if xlen == 64 else 31) | TABLES >> 12
    m.hart.privilege = state.SUPERVISOR
    yield Space(m, levels)


def translate(space: Space, virtual: int, access: int = READ, privilege: int = 1) -> int:
    return space.m.call("translate", virtual & mask(space.m.xlen), access, 1, privilege)


def found(space: Space) -> tuple[int, int, int, int]:
    state = space.m.hart
    return state.walk_physical, state.walk_size, state.walk_permissions, state.walk_global


def test_pages(space: Space) -> None:
    space.map(0x1234_5000, RAM_BASE + 0x3000)
    for access in (READ, WRITE, EXECUTE):
        assert translate(space, 0x1234_5678, access) == 0
        assert found(space) == (RAM_BASE + 0x3678, 12, RWX, 0)
        assert translate(space, 0x1234_4FFF, access) == PAGE_FAULT[access]
        assert translate(space, 0x4234_5678, access) == PAGE_FAULT[access]


def test_superpages(space: Space) -> None:
    for level in range(1, space.levels):
        space.m.fresh()
        space.m.hart.pmp_open = 1
        space.m.hart.satp = MODES_SATP[space.levels]
        shift = 12 + level * space.index_bits
        virtual, inside = 1 << shift, 0x1_2345 & mask(shift)
        space.map(virtual, 3 << shift, level=level)
        assert translate(space, virtual + inside) == 0
        assert found(space) == ((3 << shift) + inside, shift, RWX, 0)
        # The page frame must be aligned to the page.
        space.map(virtual, (3 << shift) + 0x1000, level=level)
        assert translate(space, virtual + inside) == 13


MODES_SATP = {
    levels: mode << (60 if xlen == 64 else 31) | TABLES >> 12
    for xlen, mode, levels in MODES.values()
}


def test_addresses_must_be_canonical(space: Space) -> None:
    if space.levels == 2:
        return
    top = 12 + 9 * space.levels - 1
    space.map(mask(top) & ~0xFFF, RAM_BASE)
    space.map(sign_extend(1 << top, top + 1), RAM_BASE + 0x1000)
    assert translate(space, mask(top) & ~0xFFF) == 0
    assert translate(space, sign_extend(1 << top, top + 1)) == 0
    assert found(space)[0] == RAM_BASE + 0x1000
    for access in (READ, WRITE, EXECUTE):
        assert translate(space, 1 << top, access) == PAGE_FAULT[access]
        assert translate(space, 1 << 63, access) == PAGE_FAULT[access]


def test_mode_bare_and_machine_mode(space: Space) -> None:
    assert translate(space, 0x8765_4321, WRITE, state.MACHINE) == 0
    assert found(space) == (0x8765_4321, 12, RWX, 1)
    space.m.hart.satp = 0
    for privilege in (0, 1, 3):
        assert translate(space, 0x8765_4321, EXECUTE, privilege) == 0
        assert found(space) == (0x8765_4321, 12, RWX, 1)


@pytest.mark.parametrize("flags", [R, R | W, X, R | X, R | W | X])
def test_permissions(space: Space, flags: int) -> None:
    """Every combination of page, privilege, SUM and MXR against the rules, said again."""
    for user_page in (0, U):
        space.map(0x1000, RAM_BASE, V | A | D | flags | user_page)
        for status in (0, state.SUM, state.MXR, state.SUM | state.MXR):
            space.m.hart.mstatus = status
            for privilege in (0, 1):
                allowed = {READ: bool(flags & R), WRITE: bool(flags & W), EXECUTE: bool(flags & X)}
                if status & state.MXR and flags & X:
                    allowed[READ] = True
                if privilege == 0 and not user_page:
                    allowed = dict.fromkeys(allowed, False)
                if privilege == 1 and user_page:
                    allowed[EXECUTE] = False
                    if not status & state.SUM:
                        allowed = dict.fromkeys(allowed, False)
                permissions = sum(1 << access for access in allowed if allowed[access])
                for access, may in allowed.items():
                    fault = translate(space, 0x1008, access, privilege)
                    assert fault == (0 if may else PAGE_FAULT[access])
                    assert not may or found(space)[2] == permissions


def test_entries_that_cannot_be(space: Space) -> None:
    bad = [0, A | D, LEAF & ~V, V | W | A | D, V | W | X | A | D]
    for flags in bad:
        space.map(0x1000, RAM_BASE, flags)
        assert translate(space, 0x1000) == 13
    if space.m.xlen == 64:
        for bit in (54, 60, 61, 62, 63):
            space.map(0x1000, RAM_BASE, LEAF | 1 << bit)
            assert translate(space, 0x1000) == 13
    # A table where there must be a page, and bits that a pointer must not have.
    space.map(0x1000, TABLES, V)
    assert translate(space, 0x1000) == 13
    space.map(0x1000, RAM_BASE)
    top = space.slot(0x1000, space.levels - 1)
    pointer = space.m.peek(top)
    for flag in (A, D, U):
        space.m.poke(top, pointer | flag)
        assert translate(space, 0x1000) == 13
    # Bits for software are nobody's business.
    space.m.poke(top, pointer | 3 << 8)
    space.map(0x1000, RAM_BASE, LEAF | 3 << 8)
    assert translate(space, 0x1000) == 0


def test_global_pages(space: Space) -> None:
    space.map(0x1000, RAM_BASE, LEAF | G)
    assert translate(space, 0x1000) == 0
    assert found(space)[3] == 1
    space.map(0x1000, RAM_BASE)
    top = space.slot(0x1000, space.levels - 1)
    space.m.poke(top, space.m.peek(top) | G)
    assert translate(space, 0x1000) == 0
    assert found(space)[3] == 1


def test_accessed_and_dirty_are_set(space: Space) -> None:
    clean = V | R | W | X
    place = space.map(0x1000, RAM_BASE, clean)
    entry = space.m.peek(place)
    assert translate(space, 0x1000, READ) == 0
    assert space.m.peek(place) == entry | A
    # Until the page is dirty, a write has to come back.
    assert found(space)[2] == (R | X) >> 1
    assert translate(space, 0x1000, WRITE) == 0
    assert space.m.peek(place) == entry | A | D
    assert found(space)[2] == RWX
    # An access that is not allowed leaves no trace.
    place = space.map(0x2000, RAM_BASE, V | R)
    assert translate(space, 0x2000, WRITE) == 15
    assert space.m.peek(place) == RAM_BASE >> 12 << 10 | V | R


def test_accessed_and_dirty_fault_without_svadu(space: Space) -> None:
    space.m.hart.menvcfg = 0
    place = space.map(0x1000, RAM_BASE, V | R | W | X)
    for access in (READ, WRITE, EXECUTE):
        assert translate(space, 0x1000, access) == PAGE_FAULT[access]
    space.map(0x1000, RAM_BASE, V | R | W | X | A)
    assert translate(space, 0x1000, READ) == 0
    assert translate(space, 0x1000, WRITE) == 15
    assert not space.m.peek(place) & D


def test_tables_outside_ram(space: Space) -> None:
    for base in (0x1000, RAM_BASE + RAM_SIZE):
        space.m.hart.satp = (space.m.hart.satp & ~mask(22)) | base >> 12
        for access in (READ, WRITE, EXECUTE):
            assert translate(space, 0x1000, access) == ACCESS_FAULT[access]
    space.m.hart.satp = MODES_SATP[space.levels]
    top = space.slot(0x1000, space.levels - 1)
    space.m.poke(top, 0x1000 >> 12 << 10 | V)
    assert translate(space, 0x1000) == 5


def protect(space: Space, *entries: tuple[int, int]) -> None:
    """Set PMP entries by (top address, permissions); ranges follow one another."""
    space.m.hart.pmp_open = 0
    space.m.hart.privilege = state.MACHINE
    for index, (top, permissions) in enumerate(entries):
        space.m.csr(f"pmpaddr{index}", top >> 2, 1)
        space.m.hart.pmpcfg[index] = 1 << 3 | permissions
    space.m.hart.pmp_active = 1
    space.m.hart.privilege = state.SUPERVISOR


EVERYTHING = 1 << 33


def test_protection_of_the_page(space: Space) -> None:
    space.map(0x1000, RAM_BASE + 0x3000)
    protect(space, (RAM_BASE + 0x3000, 7), (RAM_BASE + 0x4000, 1), (EVERYTHING, 7))
    assert translate(space, 0x1000) == 0
    assert found(space)[1:3] == (12, 1)
    assert translate(space, 0x1000, WRITE) == 7
    assert translate(space, 0x1000, EXECUTE) == 1
    # A big page is known for 4 KiB only, an uneven page for the address only.
    shift = 12 + space.index_bits
    space.map(1 << shift, RAM_BASE >> shift << shift, level=1)
    assert translate(space, 1 << shift) == 0
    assert found(space)[1:3] == (12, 7)
    protect(space, (RAM_BASE + 0x3008, 7), (EVERYTHING, 1))
    assert translate(space, 0x1000, WRITE) == 0
    assert found(space) == (RAM_BASE + 0x3000, 0, 7, 0)
    assert translate(space, 0x1008, WRITE) == 7


def test_protection_of_the_tables(space: Space) -> None:
    space.map(0x1000, RAM_BASE, V | R | W | X)
    protect(space, (TABLES, 7), (TABLES + 0x1_0000, 1), (EVERYTHING, 7))
    # To set the accessed bit takes permission to write the table.
    assert translate(space, 0x1000, READ) == 5
    assert translate(space, 0x1000, EXECUTE) == 1
    space.map(0x1000, RAM_BASE)
    assert translate(space, 0x1000, READ) == 0
    protect(space, (TABLES, 7), (TABLES + 0x1_0000, 0), (EVERYTHING, 7))
    for access in (READ, WRITE, EXECUTE):
        assert translate(space, 0x1000, access) == ACCESS_FAULT[access]
        assert translate(space, 0x1000, access, state.MACHINE) == 0


def test_without_protection_entries_nothing_is_allowed(space: Space) -> None:
    space.map(0x1000, RAM_BASE)
    space.m.hart.pmp_open = 0
    assert translate(space, 0x1000) == 5
    assert translate(space, 0x1000, READ, state.MACHINE) == 0


def test_an_entry_that_changes_during_the_walk_is_read_again() -> None:
    """Another hart clears the entry between our reading it and our setting A."""
    m = machine(64, False).fresh()
    m.hart.satp, m.hart.privilege = MODES_SATP[3], state.SUPERVISOR
    place = Space(m, 3).map(0x1000, RAM_BASE, V | R | W | X)
    writes = []

    def interfere(physical: int) -> int:
        if physical == place:
            writes.append(physical)
            # The first check is of reading the entry, the second of changing it.
            if len(writes) == 2:
                m.poke(place, 0)
        return 7

    b, _ = m.environment.begin("interfering_protection", "physical", "size", "privilege")
    b.Return(b.call("interfere", b.physical, result=I64))
    walk = build_translate(m.environment, m.functions["ram_pointer"], b.finish())
    evaluator = Evaluator(externals={"interfere": interfere})
    assert evaluator.run(walk, ctypes.addressof(m.hart), 0x1000, READ, 1, 1) == 13
    assert (len(writes), m.peek(place)) == (3, 0)
