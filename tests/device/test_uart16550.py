"""The 16550A, driven through its registers the way drivers do."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.device.uart16550 import Uart16550

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7


@dataclass
class Wires:
    """A UART and what it says to the outside."""

    sent: bytearray = field(default_factory=bytearray)
    levels: list[bool] = field(default_factory=list)
    wakes: int = 0

    def __post_init__(self) -> None:
        self.uart = Uart16550(self.sent.extend, self.levels.append, self.woken)

    def woken(self) -> None:
        self.wakes += 1

    def __getitem__(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def __setitem__(self, offset: int, value: int) -> None:
        self.uart.write(offset, 1, value)

    @property
    def line(self) -> bool:
        return self.levels[-1] if self.levels else False


@pytest.fixture
def wires() -> Wires:
    return Wires()


def test_polled_output(wires: Wires) -> None:
    assert wires[LSR] == 0x60
    for byte in b"Hello":
        wires[DATA] = byte
    assert bytes(wires.sent) == b"Hello"
    assert not wires.levels


def test_a_burst_is_as_its_writes_one_by_one(wires: Wires) -> None:
    wires.uart.write_burst(b"Hello")
    assert bytes(wires.sent) == b"Hello"
    wires[LCR] = 0x83
    wires.uart.write_burst(b"\x12\x34")
    assert wires[DATA] == 0x34
    wires[LCR] = 0x03
    wires[FCR], wires[MCR] = 1, 0x10  # FIFOs, loop-back
    wires.uart.write_burst(b"back")
    assert bytes(wires[DATA] for _ in range(4)) == b"back"
    assert bytes(wires.sent) == b"Hello"


def test_a_burst_raises_the_transmitters_interrupt_once(wires: Wires) -> None:
    wires[IER] = 2
    assert wires[IIR] == 2
    assert not wires.line
    wires.uart.write_burst(b"Hello")
    assert wires.levels == [True, False, True]
    assert wires[IIR] == 2
    assert not wires.line


def test_divisor_latch_hides_data_and_interrupt_enable(wires: Wires) -> None:
    wires[IER] = 5
    wires[LCR] = 0x83
    wires[DATA], wires[IER] = 0x34, 0x12
    assert (wires[DATA], wires[IER]) == (0x34, 0x12)
    wires[LCR] = 0x03
    assert wires[IER] == 5
    assert not wires.sent


def test_probing_as_linux_does(wires: Wires) -> None:
    """What distinguishes a 16550A from its relatives."""
    wires[IER] = 0xFF
    assert wires[IER] == 0x0F
    wires[IER] = 0
    wires[SCR] = 0xA5
    assert wires[SCR] == 0xA5
    wires[MCR] = 0x1A
    assert wires[MSR] & 0xF0 == 0x90
    wires[MCR] = 0
    assert wires[MSR] & 0xF0 == 0xB0
    assert wires[IIR] == 0x01
    wires[FCR] = 1
    assert wires[IIR] >> 6 == 3
    wires[LCR] = 0xBF
    assert wires[IIR] != 0, "no extended features register"


def test_transmit_interrupt(wires: Wires) -> None:
    wires[IER] = 2
    assert wires.line and wires[IIR] == 0x02
    assert not wires.line and wires[IIR] == 0x01
    wires[DATA] = 65
    assert wires.line
    wires[IER] = 0
    assert not wires.line
    wires[IER] = 2
    assert wires.line, "enabling it again raises it: the transmitter is empty"


def test_receive_without_fifo(wires: Wires) -> None:
    wires[IER] = 1
    assert wires.uart.receive(b"ab") == 1
    assert wires.line and wires[IIR] == 0x04 and wires[LSR] & 1
    assert wires.uart.receive(b"b") == 0
    assert wires.wakes == 0
    assert wires[DATA] == ord("a")
    assert wires.wakes == 1 and not wires.line and not wires[LSR] & 1
    assert wires[DATA] == ord("a"), "an empty receiver repeats its last character"


def test_receive_with_fifo_trigger_and_timeout(wires: Wires) -> None:
    wires[FCR] = 0x81
    wires[IER] = 1
    assert wires.uart.receive(b"1234567") == 7
    assert wires[IIR] == 0xCC, "below the trigger level it is a character time-out"
    assert wires.uart.receive(b"8901234567") == 9
    assert wires[IIR] == 0xC4
    assert bytes(wires[DATA] for _ in range(16)) == b"1234567890123456"
    assert wires.wakes == 1 and not wires.line


def test_clearing_the_fifo_makes_room(wires: Wires) -> None:
    wires[FCR] = 1
    wires.uart.receive(bytes(20))
    wires[FCR] = 3
    assert wires.wakes == 1 and wires[LSR] == 0x60


def test_a_guest_that_polls_for_input_is_told_from_one_that_prints(wires: Wires) -> None:
    uart = wires.uart
    for _ in range(100):
        uart.read(5, 1)
        uart.read(5, 1)
        uart.write(0, 1, ord("x"))
    assert not uart.listening
    for _ in range(16):
        assert not uart.listening
        uart.read(5, 1)
    assert uart.listening
    uart.write(0, 1, ord("x"))
    assert not uart.listening
    uart.write(1, 1, 1)
    assert uart.listening


def test_break_is_an_error_with_a_character(wires: Wires) -> None:
    wires[FCR], wires[IER] = 1, 5
    wires.uart.receive(b"x")
    wires.uart.receive_break()
    assert wires[LSR] == 0xE1, "an error waits in the FIFO"
    assert wires[DATA] == ord("x")
    assert wires[LSR] & 0x11 == 0x11
    assert wires[LSR] & 0x10 == 0
    assert wires[DATA] == 0


def test_break_raises_the_line_status_interrupt_first(wires: Wires) -> None:
    wires[FCR], wires[IER] = 1, 5
    wires.uart.receive_break()
    assert wires[IIR] == 0xC6
    assert wires[LSR] & 0x10
    assert wires[IIR] == 0xC4


def test_loopback(wires: Wires) -> None:
    wires[FCR] = 1
    wires[MCR] = 0x10
    wires[DATA] = 0x42
    assert not wires.sent and wires[LSR] & 1 and wires[DATA] == 0x42
    assert wires.uart.receive(b"z") == 0
    for value in range(17):
        wires[DATA] = value
    assert wires[LSR] & 2, "the seventeenth character overran"
    wires[MCR] = 0
    assert wires.wakes == 1


def test_modem_status_interrupt(wires: Wires) -> None:
    wires[IER] = 8
    wires[MCR] = 0x10
    assert wires.line and wires[IIR] == 0x00
    assert wires[MSR] & 0x0F == 0x0B
    assert not wires.line


def test_state_moves_to_another_uart(wires: Wires) -> None:
    wires[FCR], wires[IER] = 1, 1
    wires.uart.receive(b"abc")
    wires[LCR] = 0x83
    other = Wires()
    other.uart.load(wires.uart.save())
    assert other.line
    other[LCR] = 3
    assert bytes(other[DATA] for _ in range(3)) == b"abc"
    other.uart.reset()
    assert not other.line and other[LSR] == 0x60


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.integers(0, 0xFF), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1)
            ),
            st.binary(max_size=40),
        ),
        max_size=40,
    )
)
def test_hostile_guest(steps: list[tuple[int, int, int] | bytes]) -> None:
    wires = Wires()
    for step in steps:
        if isinstance(step, bytes):
            assert 0 <= wires.uart.receive(step) <= len(step)
            continue
        offset, size, value = step
        wires.uart.write(offset, size, value & (1 << size * 8) - 1)
        assert 0 <= wires.uart.read(offset, size) < 1 << size * 8
        assert len(wires.uart.received) <= 16
    Wires().uart.load(wires.uart.save())
