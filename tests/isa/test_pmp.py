"""Physical memory protection: matching, priority, locks, pages that are not uniform."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandemu.isa import effects
from tandemu.isa.riscv import state
from tests.isa.hart_machine import Machine, machine

R, W, X, UNIFORM = 1, 2, 4, 8
TOR, NA4, NAPOT, LOCKED = 1 << 3, 2 << 3, 3 << 3, 0x80
USER, SUPERVISOR, MACHINE = state.USER, state.SUPERVISOR, state.MACHINE


@pytest.fixture(params=[(64, False), (64, True), (32, False), (32, True)], ids=str)
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    yield machine(*request.param).fresh()


def configure(m: Machine, index: int, byte: int) -> int:
    """Write one pmpcfg byte as a guest does; what it is then."""
    size = m.xlen // 8
    number = 0x3A0 + index // size * (size // 4)
    shift = index % size * 8
    old = m.csr(number)
    assert old is not None
    m.csr(number, old & ~(0xFF << shift) | byte << shift, 1)
    byte_now: int = m.hart.pmpcfg[index]
    return byte_now


def entry(m: Machine, index: int, byte: int, address: int) -> None:
    m.csr(f"pmpaddr{index}", address >> 2, 1)
    assert configure(m, index, byte) == byte


def napot(base: int, size: int) -> int:
    return base + size // 2 - 4


def allows(m: Machine, physical: int, privilege: int = SUPERVISOR, size: int = 1) -> int:
    return m.call("pmp_allows", physical, size, privilege)


def test_without_entries(m: Machine) -> None:
    assert allows(m, 0x8000_0000, MACHINE) == R | W | X | UNIFORM
    assert allows(m, 0x8000_0000, SUPERVISOR) == UNIFORM
    m.hart.pmp_open = 1
    assert allows(m, 0x8000_0000, USER) == R | W | X | UNIFORM


def test_napot(m: Machine) -> None:
    for size in (8, 64, 4096, 0x10000, 1 << 20):
        m.fresh()
        entry(m, 3, NAPOT | R | W, napot(0x8010_0000, size))
        expected = R | W | (UNIFORM if size >= 4096 else 0)
        assert allows(m, 0x8010_0000) == allows(m, 0x8010_0000 + size - 1) == expected
        assert allows(m, 0x800F_FFFC) == UNIFORM
        assert allows(m, 0x8010_0000 + size) == (UNIFORM if size >= 4096 else 0)
        assert allows(m, 0x8010_0000, MACHINE) & 7 == R | W | X


def test_napot_of_everything(m: Machine) -> None:
    m.csr("pmpaddr0", -1, 1)
    configure(m, 0, NAPOT | R | W | X)
    for address in (0, 0x8000_0000, 0x3_FFFF_FFFF):
        assert allows(m, address) == R | W | X | UNIFORM


def test_na4(m: Machine) -> None:
    entry(m, 0, NA4 | X, 0x8000_0004)
    assert allows(m, 0x8000_0004) == allows(m, 0x8000_0007) == X
    assert allows(m, 0x8000_0003) == allows(m, 0x8000_0008) == 0
    assert allows(m, 0x8000_1000) == UNIFORM


def test_every_byte_of_an_access_is_judged(m: Machine) -> None:
    m.csr("pmpaddr2", -1, 1)
    configure(m, 2, NAPOT | R | W | X)
    entry(m, 1, NAPOT | R | W, napot(0x8000_0010, 8))
    everything = R | W | X
    assert allows(m, 0x8000_0010, size=8) == allows(m, 0x8000_0014, size=4) == R | W
    assert allows(m, 0x8000_0008, size=8) == allows(m, 0x8000_0018, size=8) == everything
    # Entry 1 matches the first or last bytes only, or there is more on both sides.
    for address, size in ((0x8000_000C, 8), (0x8000_0014, 8), (0x8000_000F, 2), (0x8000_0008, 32)):
        assert allows(m, address, size=size) == 0
        assert allows(m, address, MACHINE, size=size) == 0  # whether it is locked or not
    # An entry before it that matches all bytes decides first.
    entry(m, 0, NAPOT | R, napot(0x8000_0000, 64))
    assert allows(m, 0x8000_000C, size=8) == R
    assert allows(m, 0x8000_000C, MACHINE, size=8) == everything


def test_top_of_range(m: Machine) -> None:
    entry(m, 0, TOR | R, 0x1000)
    m.csr("pmpaddr1", 0x8000_0000 >> 2, 1)
    entry(m, 2, TOR | R | W, 0x8000_2000)
    assert allows(m, 0x0) == allows(m, 0xFFF) == R | UNIFORM
    assert allows(m, 0x1000) == UNIFORM
    assert allows(m, 0x8000_0000) == allows(m, 0x8000_1FFF) == R | W | UNIFORM
    assert allows(m, 0x7FFF_FFFF) == allows(m, 0x8000_2000) == UNIFORM
    # An empty range matches nothing, and does not spoil the page it lies in.
    entry(m, 3, TOR | X, 0x8000_1000)
    assert allows(m, 0x8000_2000) == allows(m, 0x8000_1000) & UNIFORM == UNIFORM


def test_the_lowest_entry_decides(m: Machine) -> None:
    entry(m, 0, NAPOT, napot(0x8000_0000, 0x4_0000))
    m.csr("pmpaddr1", -1, 1)
    configure(m, 1, NAPOT | R | W | X)
    assert allows(m, 0x8000_0000) == UNIFORM
    assert allows(m, 0x8003_FFFF) == UNIFORM
    assert allows(m, 0x8004_0000) == R | W | X | UNIFORM
    assert allows(m, 0x8000_0000, MACHINE) == R | W | X | UNIFORM
    # A smaller entry before it makes the page uneven also where it does not match.
    m.fresh()
    entry(m, 0, NA4, 0x8000_0010)
    m.csr("pmpaddr1", -1, 1)
    configure(m, 1, NAPOT | R | W | X)
    assert allows(m, 0x8000_0000) == R | W | X
    assert allows(m, 0x8000_0010) == 0


def test_locked_entries_bind_machine_mode(m: Machine) -> None:
    m.csr("pmpaddr0", 0x8000_0000 >> 2, 1)
    entry(m, 1, LOCKED | TOR | R, 0x8000_1000)
    assert allows(m, 0x8000_0000, MACHINE) == R | UNIFORM
    before = m.hart.pmpaddr[1]
    assert configure(m, 1, NAPOT | R | W | X) == LOCKED | TOR | R
    assert m.write("pmpaddr1", 0) == before
    # The base of a locked range is locked with it, the next entry is not.
    assert m.write("pmpaddr0", 0) == 0x8000_0000 >> 2
    assert m.write("pmpaddr2", 5) == 5
    assert configure(m, 0, NA4 | R) == NA4 | R
    m.registers.write_register(m.hart, "pmpcfg0", 0)
    assert m.hart.pmpcfg[1] == 0


def test_write_only_and_reserved_bits_are_dropped(m: Machine) -> None:
    assert configure(m, 0, NAPOT | W) == NAPOT
    assert configure(m, 5, NAPOT | W | X) == NAPOT
    assert configure(m, 7, 0x60 | NAPOT | R) == NAPOT | R
    assert configure(m, 15, TOR | R | X) == TOR | R | X
    assert m.hart.pmp_active == 1


def test_changes_make_translations_void(m: Machine) -> None:
    m.csr("pmpaddr0", 0x100, 1)
    assert m.taken_effects() == 0
    configure(m, 0, NAPOT | R)
    assert (m.taken_effects(), m.hart.pmp_active) == (effects.FLUSH_ALL, 1)
    configure(m, 0, NAPOT | R)
    assert m.taken_effects() == 0
    m.csr("pmpaddr0", 0x200, 1)
    assert m.taken_effects() == effects.FLUSH_ALL
    configure(m, 0, 0)
    assert (m.taken_effects(), m.hart.pmp_active) == (effects.FLUSH_ALL, 0)
