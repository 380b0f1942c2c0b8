"""The PL011, driven through its registers the way drivers do."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.device.pl011 import Pl011

DR, RSR, FR, LCR_H, CR, IFLS, IMSC, RIS, MIS, ICR = (
    *(0x00, 0x04, 0x18, 0x2C, 0x30, 0x34, 0x38),
    *(0x3C, 0x40, 0x44),
)
FEN = 0x10
RXIS, TXIS, RTIS, BEIS, OEIS = 0x10, 0x20, 0x40, 0x200, 0x400
UARTEN, LBE, TXE, RXE = 0x1, 0x80, 0x100, 0x200
ON = UARTEN | TXE | RXE


@dataclass
class Wires:
    """A UART and what it says to the outside."""

    sent: bytearray = field(default_factory=bytearray)
    line: bool = False
    wakes: int = 0
    shown: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.uart = Pl011(self.sent.extend, self.drive, self.woken)

    def drive(self, level: bool) -> None:
        self.line = level

    def woken(self) -> None:
        self.wakes += 1

    def __getitem__(self, offset: int) -> int:
        return self.uart.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.uart.write(offset, 4, value)


@pytest.fixture
def wires() -> Wires:
    return Wires()


def test_reset_values_and_identification(wires: Wires) -> None:
    assert (wires[FR], wires[CR], wires[IFLS]) == (0x97, 0x301, 0x12)
    assert [wires[offset] for offset in (RSR, LCR_H, IMSC, RIS, MIS, 0x24, 0x28, 0x48)] == [0] * 8
    number = [wires[0xFE0 + 4 * index] for index in range(8)]
    assert number == [0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1]


def test_divisors_keep_their_bits(wires: Wires) -> None:
    for offset, width in ((0x20, 8), (0x24, 16), (0x28, 6), (LCR_H, 8), (IMSC, 11), (0x48, 3)):
        wires[offset] = 0xFFFF_FFFF
        assert wires[offset] == (1 << width) - 1
    wires[CR] = 0xFFFF_FFFF
    assert wires[CR] == 0xFF87


def test_output_by_polling_and_by_interrupt(wires: Wires) -> None:
    for byte in b"Hello":
        assert not wires[FR] & 0x20
        wires[DR] = byte
    assert bytes(wires.sent) == b"Hello"
    assert wires[RIS] == TXIS and not wires.line, "the FIFO drained, but the interrupt is masked"
    wires[IMSC] = TXIS
    assert wires.line and wires[MIS] == TXIS
    wires[ICR] = TXIS
    assert not wires.line, "the interrupt comes with the transition, not with the level"
    wires[DR] = 0x21
    assert wires.line
    wires.uart.write_burst(b" and more")
    assert bytes(wires.sent) == b"Hello! and more"


def test_an_idle_transmitter_raises_nothing_when_its_interrupt_is_enabled(wires: Wires) -> None:
    wires[IMSC] = TXIS
    assert not wires.line


def test_what_is_written_while_the_transmitter_is_off_waits(wires: Wires) -> None:
    wires[LCR_H] = FEN
    wires[CR] = UARTEN | RXE
    for _ in range(31):
        wires[DR] = 0x61
    assert wires[FR] & 0xA8 == 0x08, "busy, neither full nor empty"
    wires[DR] = 0x62
    assert wires[FR] & 0xA8 == 0x28, "full"
    wires[DR] = 0x63
    assert not wires.sent
    wires[CR] = ON
    assert bytes(wires.sent) == b"a" * 31 + b"b"
    assert wires[FR] & 0xA8 == 0x80


def test_input_one_by_one(wires: Wires) -> None:
    wires[IMSC] = RXIS
    assert wires.uart.receive(b"xyz") == 1
    assert wires.line and wires[FR] & 0x50 == 0x40
    assert wires[DR] == 0x78
    assert not wires.line and wires[FR] & 0x50 == 0x10
    assert wires.wakes == 1, "there is room for what was refused"
    assert wires[DR] == 0x78, "an empty receiver has the last character still"


@pytest.mark.parametrize(("select", "level"), [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28)])
def test_trigger_levels_and_timeout(wires: Wires, select: int, level: int) -> None:
    wires[LCR_H] = FEN
    wires[IFLS] = select << 3
    wires[IMSC] = RXIS
    assert wires.uart.receive(bytes(range(level - 1))) == level - 1
    assert wires[RIS] == RTIS and not wires.line
    wires.uart.receive(b"\xff")
    assert wires.line
    assert wires[DR] == 0
    assert not wires.line, "below the level"
    assert [wires[DR] for _ in range(level - 2)] == list(range(1, level - 1))
    assert wires[RIS] == RTIS
    assert wires[DR] == 0xFF and wires[RIS] == 0


def test_cleared_receive_interrupts_come_with_the_next_character(wires: Wires) -> None:
    wires[LCR_H], wires[IMSC] = FEN, RXIS | RTIS
    wires.uart.receive(b"a")
    wires[ICR] = RTIS
    assert not wires.line
    wires.uart.receive(b"b")
    assert wires.line


def test_a_full_fifo_refuses(wires: Wires) -> None:
    wires[LCR_H] = FEN
    assert wires.uart.receive(bytes(40)) == 32
    assert wires[FR] & 0x50 == 0x40
    for _ in range(31):
        wires[DR]
    assert wires.wakes == 0
    wires[DR]
    assert wires.wakes == 1


def test_a_receiver_that_is_off_takes_nothing_and_wakes_when_it_is_on(wires: Wires) -> None:
    wires[CR] = UARTEN | TXE
    assert wires.uart.receive(b"a") == 0
    wires[CR] = ON
    assert wires.wakes == 1
    assert wires.uart.receive(b"a") == 1


def test_turning_the_fifos_off_empties_them(wires: Wires) -> None:
    wires[LCR_H] = FEN
    wires.uart.receive(b"abc")
    wires[LCR_H] = 0
    assert wires[FR] & 0x10 and wires[RIS] == 0


def test_break(wires: Wires) -> None:
    wires[LCR_H], wires[IMSC] = FEN, BEIS
    wires.uart.receive_break()
    assert wires.line
    assert wires[DR] == 0x400 and wires[RSR] == 4
    wires[ICR] = BEIS
    wires[RSR] = 0xFF
    assert wires[RSR] == 0 and not wires.line


def test_loopback_of_characters_and_lines(wires: Wires) -> None:
    wires[LCR_H], wires[CR] = FEN, ON | LBE
    assert wires[FR] & 0x107 == 0
    assert wires[RIS] & 0xF == 0b1110, "CTS, DCD and DSR went"
    wires[ICR] = 0xF
    for output, line, interrupt in (
        *((1 << 10, 1 << 1, 1 << 3), (1 << 11, 1 << 0, 1 << 1)),
        *((1 << 12, 1 << 2, 1 << 2), (1 << 13, 1 << 8, 1 << 0)),
    ):
        wires[CR] = ON | LBE | output
        assert wires[FR] & 0x107 == line and wires[RIS] & 0xF == interrupt
        wires[CR] = ON | LBE
        wires[ICR] = 0xF
    for byte in b"around":
        wires[DR] = byte
    assert not wires.sent
    assert bytes(wires[DR] for _ in range(6)) == b"around"


def test_overrun_in_loopback_is_told_with_the_next_character(wires: Wires) -> None:
    wires[CR] = ON | LBE
    for byte in b"ab":
        wires[DR] = byte
    assert wires[RIS] & OEIS and wires[RSR] == 8
    assert wires[DR] == 0x61
    wires[DR] = 0x63
    assert wires[DR] == 0x863
    wires[DR] = 0x64
    assert wires[DR] == 0x64


def test_the_flags_are_shown_whenever_they_change(wires: Wires) -> None:
    wires.uart.show_status(wires.shown.append)
    wires.uart.receive(b"a")
    wires[DR]
    assert wires.shown == [0x97, 0xC7, 0x97]


def test_who_polls_an_empty_receiver_listens(wires: Wires) -> None:
    assert not wires.uart.listening
    for _ in range(40):
        wires[FR], wires[DR] = 0, 0x61
        wires[FR]
    assert not wires.uart.listening, "it looks, but to transmit"
    for _ in range(16):
        wires[FR]
    assert wires.uart.listening
    wires[DR] = 0x61
    wires[IMSC] = RTIS
    assert wires.uart.listening


ACCESSES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 0x50), st.integers(0, 0x1000)),
        st.sampled_from([1, 2, 4, 8]),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=40),
    ),
    max_size=30,
)


@given(ACCESSES)
def test_no_access_raises_and_the_state_moves(accesses: list[tuple[int, int, int, bytes]]) -> None:
    one, other = Wires(), Wires()
    for offset, size, value, data in accesses:
        one.uart.write(offset, size, value)
        assert 0 <= one.uart.receive(data) <= len(data)
        assert 0 <= one.uart.read(offset, size) < 1 << 8 * size
    other.uart.load(one.uart.save())
    assert other.uart.save() == one.uart.save()
    assert other.line == one.line
    assert [other[offset] for offset in range(0x18, 0x4C, 4)] == [
        one[offset] for offset in range(0x18, 0x4C, 4)
    ]
    assert [other[DR] for _ in range(34)] == [one[DR] for _ in range(34)]
