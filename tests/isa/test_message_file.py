"""The interrupt file of a hart: Ssaia's registers, messages that come in, what is delivered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandemu.bits import mask
from tandemu.isa.riscv import state
from tests.isa.hart_machine import Machine, machine

DELIVERY, THRESHOLD, PENDING, ENABLED = 0x70, 0x72, 0x80, 0xC0
WRITE, SET, CLEAR = 1, 2, 3


@pytest.fixture(params=[(64, False), (64, True), (32, False), (32, True)], ids=str)
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    hart = machine(*request.param).fresh(firmware_calls=True)
    hart.hart.message_file = 1
    yield hart


def indirect(m: Machine, register: int, value: int = 0, operation: int = 0) -> int | None:
    m.csr("siselect", register, WRITE)
    return m.csr("sireg", value, operation)


def enable(m: Machine, *identities: int) -> None:
    indirect(m, DELIVERY, 1, WRITE)
    for identity in identities:
        word, bit = divmod(identity, m.xlen)
        indirect(m, ENABLED + word * m.xlen // 32, 1 << bit, SET)


def external(m: Machine) -> bool:
    return bool(m.hart.mip & state.SEIP)


def test_no_file_no_registers(m: Machine) -> None:
    m.hart.message_file = 0
    for name in ("siselect", "sireg", "stopei", "stopi"):
        assert m.csr(name) is None
    m.call("take_message", 5)
    assert not external(m)


def test_a_message_is_delivered_and_claimed(m: Machine) -> None:
    enable(m, 5, 200)
    m.call("take_message", 200)
    m.call("take_message", 5)
    assert external(m) and m.csr("stopei") == 5 << 16 | 5
    assert m.csr("stopei") == 5 << 16 | 5, "a read alone claims nothing"
    assert m.csr("stopei", 0, WRITE) == 5 << 16 | 5
    assert external(m)
    assert m.csr("stopei", 0, WRITE) == 200 << 16 | 200
    assert not external(m) and m.csr("stopei", 0, WRITE) == 0


def test_what_is_not_enabled_waits(m: Machine) -> None:
    indirect(m, DELIVERY, 1, WRITE)
    m.call("take_message", 64)
    assert not external(m) and m.csr("stopei") == 0
    enable(m, 64)
    assert external(m)
    indirect(m, DELIVERY, 0, WRITE)
    assert not external(m) and m.csr("stopei") == 64 << 16 | 64
    indirect(m, DELIVERY, 0x4000_0000, WRITE)
    assert indirect(m, DELIVERY) == 0, "an APLIC does not deliver to it directly"


def test_threshold(m: Machine) -> None:
    enable(m, 7, 8)
    assert indirect(m, THRESHOLD, 8, WRITE) == 0
    m.call("take_message", 8)
    assert not external(m) and m.csr("stopei") == 0
    m.call("take_message", 7)
    assert external(m)
    assert m.csr("stopei", 0, WRITE) == 7 << 16 | 7
    assert not external(m)
    indirect(m, THRESHOLD, 9, WRITE)
    assert external(m)


@pytest.mark.parametrize("identity", [0, 256, 1 << 20, mask(32)])
def test_identities_that_do_not_exist(m: Machine, identity: int) -> None:
    indirect(m, DELIVERY, 1, WRITE)
    for number in range(64):
        indirect(m, ENABLED + number, -1, WRITE)
    m.call("take_message", identity)
    assert not external(m) and not any(m.hart.messages_pending)


def test_arrays(m: Machine) -> None:
    """Identity 0 is read-only zero, what is beyond the last reads zero, odd ones are for RV32."""
    step = m.xlen // 32
    for base in (PENDING, ENABLED):
        for number in range(0, 64, step):
            m.call("take_message", 0)
            assert indirect(m, base + number, -1, WRITE) is not None
            exists = mask(m.xlen) if number < 8 else 0
            assert indirect(m, base + number) == (exists - 1 if number == 0 else exists)
        assert (indirect(m, base + 1) is None) == (m.xlen == 64)
    assert indirect(m, PENDING, 0b1000, CLEAR) is not None
    assert indirect(m, PENDING) == mask(m.xlen) & ~0b1001


def test_registers_by_number(m: Machine) -> None:
    for number in (0x71, 0x73, 0x7F):
        assert indirect(m, number, -1, WRITE) == 0 and indirect(m, number) == 0
    for number in range(0x30, 0x40, m.xlen // 32):
        assert indirect(m, number, -1, WRITE) == 0 and indirect(m, number) == 0
    for number in (0, 0x2F, 0x40, 0x6F, 0x100, 0x1FF):
        assert indirect(m, number) is None
    assert m.csr("siselect", -1, WRITE) is not None and m.csr("siselect") == 0x1FF


def test_the_first_interrupt(m: Machine) -> None:
    """stopi: of those that are pending and enabled, in the order of default priorities."""
    assert m.csr("stopi") == 0
    m.csr("sie", state.SSIP | state.STIP | state.SEIP, WRITE)
    m.hart.mip |= state.STIP
    assert m.csr("stopi") == 5 << 16 | 1
    m.hart.mip |= state.SSIP
    assert m.csr("stopi") == 1 << 16 | 1
    enable(m, 3)
    m.call("take_message", 3)
    assert m.csr("stopi") == 9 << 16 | 1
    assert m.csr("stopi", 0, WRITE) is None, "it is read-only"
