"""PL011 UART, revision r1p5: Arm DDI 0183, chapters 2 and 3.

Receive FIFO of 32 characters. What a guest transmits goes to *sink* at once; while UART or
transmitter are off it waits in the transmit FIFO. What the host has to say comes in through
`Pl011.receive`, which takes as much as there is room for; the rest stays with the caller until
*ready* is called. Below the trigger level the receiver reports a time-out at once instead of 32 bit
periods later. The UART is on after a reset, as a board's firmware leaves it for the kernel's
first messages; CTS, DSR and DCD are up.

Left out: baud rate and frame format (any is taken), IrDA, DMA signals, parity and framing errors;
with hardware flow control the other side is always ready.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tandemu.device.primecell import IDENTIFICATION, PrimeCell, identification
from tandemu.device.registers import (
    Access,
    Field,
    InterruptLine,
    Peripheral,
    Register,
    RegisterMap,
    queue,
    state,
)

FIFO_CHARACTERS = 32
POLLS = 16
"""So many looks at an empty receiver in a row are a guest that waits for input."""
TRIGGER_LEVELS = tuple(FIFO_CHARACTERS * eighths // 8 for eighths in (1, 2, 4, 6, 7, 7, 7, 7))
FLAGS_OFFSET = 0x18

# Data: errors that came with a character (bits 11 to 8), as in the receive status
BREAK, OVERRUN = 1 << 2, 1 << 3
# Flags
CTS, DSR, DCD, RI = 1 << 0, 1 << 1, 1 << 2, 1 << 8
BUSY, RECEIVE_EMPTY, TRANSMIT_FULL, RECEIVE_FULL, TRANSMIT_EMPTY = 8, 16, 32, 64, 128
LINES_UP = CTS | DSR | DCD
# Line control
SEND_BREAK, FIFO_ENABLE = 1 << 0, 1 << 4
# Control
ENABLE, LOOPBACK, TRANSMIT_ENABLE, RECEIVE_ENABLE = 1 << 0, 1 << 7, 1 << 8, 1 << 9
DTR, RTS, OUT1, OUT2 = 1 << 10, 1 << 11, 1 << 12, 1 << 13
_TRANSMITS, _RECEIVES = ENABLE | TRANSMIT_ENABLE, ENABLE | RECEIVE_ENABLE
# Interrupts
RECEIVED, TRANSMITTED, TIMEOUT, BREAK_ERROR, OVERRUN_ERROR = 16, 32, 64, 512, 1024
_MODEM = ((RI, 1 << 0), (CTS, 1 << 1), (DCD, 1 << 2), (DSR, 1 << 3))

_BYTES = tuple(bytes((value,)) for value in range(256))


def _nothing() -> None:
    """Default of the *ready* handle."""


def _show_nobody(status: int | None) -> None:
    """What `Pl011.show_status` begins with."""


class Pl011(PrimeCell, Peripheral):
    """One PL011. *sink* takes transmitted bytes, *irq* the level of the combined interrupt.

    *ready* is called, from the thread of the vCPU that read, when the receiver is
    empty again after it had refused bytes.
    """

    identity = identification(0x011, revision=3)
    registers = RegisterMap(
        Register("data", 0x00, 4, (Field("character", 0, 12),)),
        Register("receive_status", 0x04, 4, (Field("errors", 0, 4),)),
        Register("flags", FLAGS_OFFSET, 4, (Field("flags", 0, 9, Access.RO),)),
        Register("low_power_divisor", 0x20, 4, (Field("divisor", 0, 8),)),
        Register("integer_divisor", 0x24, 4, (Field("divisor", 0, 16),)),
        Register("fractional_divisor", 0x28, 4, (Field("divisor", 0, 6),)),
        Register("line_control", 0x2C, 4, (Field("control", 0, 8),)),
        Register(
            "control",
            0x30,
            4,
            (
                Field("enables", 0, 3, reset=ENABLE),
                Field("lines", 7, 9, reset=(TRANSMIT_ENABLE | RECEIVE_ENABLE) >> 7),
            ),
        ),
        Register(
            "trigger", 0x34, 4, (Field("transmit", 0, 3, reset=2), Field("receive", 3, 3, reset=2))
        ),
        Register("mask", 0x38, 4, (Field("interrupts", 0, 11),)),
        Register("raw_status", 0x3C, 4, (Field("interrupts", 0, 11, Access.RO),)),
        Register("masked_status", 0x40, 4, (Field("interrupts", 0, 11, Access.RO),)),
        Register("clear", 0x44, 4, (Field("interrupts", 0, 11, Access.WO),)),
        Register("dma_control", 0x48, 4, (Field("control", 0, 3),)),
        IDENTIFICATION,
    )

    sink: Callable[[bytes], None]
    irq: InterruptLine
    ready: Callable[[], None] = _nothing

    receive_status: int = registers.receive_status.state()
    low_power_divisor: int = registers.low_power_divisor.state()
    integer_divisor: int = registers.integer_divisor.state()
    fractional_divisor: int = registers.fractional_divisor.state()
    line_control: int = registers.line_control.state()
    control: int = registers.control.state()
    trigger: int = registers.trigger.state()
    mask: int = registers.mask.state()
    raw_status: int = registers.raw_status.state()
    dma_control: int = registers.dma_control.state()
    overran: int = state(1)
    """A character was lost since the last one that found room."""
    last_received: int = state(12)
    received: list[int] = queue(FIFO_CHARACTERS, 12)
    """Received characters; bits 11 to 8 are the errors that came with each."""
    waiting: list[int] = queue(FIFO_CHARACTERS, 8)
    """Characters to transmit once that is enabled."""

    def prepare(self) -> None:
        self._lock = threading.Lock()
        self._refused = False
        self._polls = 0
        self._show: Callable[[int | None], None] = _show_nobody

    def show_status(self, show: Callable[[int | None], None]) -> None:
        """Let *show* hear what a read of the flags gives."""
        self._show = show
        with self._lock:
            self._update()

    def restored(self) -> None:
        with self._lock:
            self._update()
        self._wake()

    # The host's side

    def receive(self, data: bytes) -> int:
        """Take up to as many bytes as there is room for; return how many. Any thread."""
        with self._lock:
            takes = self.control & (_RECEIVES | LOOPBACK) == _RECEIVES
            room = self._depth() - len(self.received) if takes else 0
            accepted = min(max(room, 0), len(data))
            self._refused = accepted < len(data)
            if accepted:
                self.received.extend(data[:accepted])
                self._arrived()
                self._update()
        return accepted

    @property
    def listening(self) -> bool:
        """Whether the guest takes input: its receive interrupt is on, or it polls for some.

        Whoever transmits reads the flags too, but then writes: only reads in a row count.
        """
        return bool(self.mask & (RECEIVED | TIMEOUT)) or self._polls >= POLLS

    def receive_break(self) -> None:
        """Signal a break condition to the guest. Any thread."""
        with self._lock:
            if self.control & _RECEIVES == _RECEIVES:
                self._push(BREAK << 8)
                self._update()

    # Registers

    def read_data(self) -> int:
        with self._lock:
            if self.received:
                self.last_received = self.received.pop(0)
                self.receive_status = self.last_received >> 8 | self.receive_status & OVERRUN
                if len(self.received) < self._trigger():
                    self.raw_status &= ~RECEIVED
                if not self.received:
                    self.raw_status &= ~TIMEOUT
                self._update()
            value = self.last_received
        if self._refused and not self.received:
            self._wake()
        return value

    def write_data(self, value: int) -> None:
        self.write_burst(_BYTES[value & 0xFF])

    def write_burst(self, values: bytes) -> None:
        """Carry out a guest's writes of one character each to the data register, in turn."""
        self._polls = 0
        if self.control & (_TRANSMITS | LOOPBACK) == _TRANSMITS:
            self.sink(values)
            if not self.raw_status & TRANSMITTED:
                with self._lock:
                    self.raw_status |= TRANSMITTED
                    self._update()
            return
        with self._lock:
            # What finds no room is lost (3.3.1 leaves it to the driver to look first).
            room = max(self._depth() - len(self.waiting), 0)
            self.waiting.extend(values[:room])
            sent = self._send()
            self._update()
        if sent:
            self.sink(sent)

    def write_receive_status(self, value: int) -> None:
        # Any write clears the errors.
        self.receive_status = 0

    def read_flags(self) -> int:
        if not self.received and self._polls < POLLS:
            self._polls += 1
        return self._flags()

    def write_line_control(self, value: int) -> None:
        with self._lock:
            begins = value & ~self.line_control & SEND_BREAK
            if (value ^ self.line_control) & FIFO_ENABLE:
                # Turning the FIFOs on or off empties them: the holding registers are others.
                self.received.clear()
                self.waiting.clear()
                self.raw_status &= ~(RECEIVED | TIMEOUT)
            self.line_control = value
            if begins and self.control & LOOPBACK and self.control & _RECEIVES == _RECEIVES:
                self._push(BREAK << 8)
            self._update()
        if self._refused and not self.received:
            self._wake()

    def write_control(self, value: int) -> None:
        with self._lock:
            before = self._lines()
            self.control = value
            changed = before ^ self._lines()
            for line, interrupt in _MODEM:
                if changed & line:
                    self.raw_status |= interrupt
            sent = self._send()
            self._update()
        if sent:
            self.sink(sent)
        if self._refused and value & (_RECEIVES | LOOPBACK) == _RECEIVES:
            self._wake()

    # Inside; the lock is held

    def _depth(self) -> int:
        return FIFO_CHARACTERS if self.line_control & FIFO_ENABLE else 1

    def _trigger(self) -> int:
        """How many received characters raise the receive interrupt."""
        return TRIGGER_LEVELS[self.trigger >> 3] if self.line_control & FIFO_ENABLE else 1

    def _arrived(self) -> None:
        """Characters have come into the receiver."""
        self.raw_status |= RECEIVED if len(self.received) >= self._trigger() else TIMEOUT

    def _push(self, character: int) -> None:
        """Put a character of the UART's own (loop-back, break) into the receiver."""
        if character >> 8 & BREAK:
            self.raw_status |= BREAK_ERROR
        if len(self.received) >= self._depth():
            self.overran = 1
            self.receive_status |= OVERRUN
            self.raw_status |= OVERRUN_ERROR
            return
        # The next character that finds room says that some before it were lost (3.3.1).
        self.received.append(character | OVERRUN << 8 if self.overran else character)
        self.overran = 0
        self._arrived()

    def _send(self) -> bytes:
        """Take what waits off the transmit FIFO, if it may go; return what leaves the UART."""
        if not self.waiting or self.control & _TRANSMITS != _TRANSMITS:
            return b""
        sent = bytes(self.waiting)
        self.waiting.clear()
        self.raw_status |= TRANSMITTED
        if not self.control & LOOPBACK:
            return sent
        if self.control & RECEIVE_ENABLE:
            for character in sent:
                self._push(character)
        return b""

    def _lines(self) -> int:
        """The modem lines as flags; looped back they are the UART's own outputs (3.3.8)."""
        if not self.control & LOOPBACK:
            return LINES_UP
        pairs = ((DTR, DSR), (RTS, CTS), (OUT1, DCD), (OUT2, RI))
        return sum(line for output, line in pairs if self.control & output)

    def _flags(self) -> int:
        flags = self._lines()
        if not self.received:
            flags |= RECEIVE_EMPTY
        elif len(self.received) >= self._depth():
            flags |= RECEIVE_FULL
        if not self.waiting:
            return flags | TRANSMIT_EMPTY
        if len(self.waiting) >= self._depth():
            flags |= TRANSMIT_FULL
        return flags | BUSY

    def _update(self) -> None:
        self._show(self._flags())
        super()._update()

    def _wake(self) -> None:
        """Tell the host that there is room; the lock is not held."""
        self._refused = False
        self.ready()
