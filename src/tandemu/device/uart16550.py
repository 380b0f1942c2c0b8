"""16550A UART: National Semiconductor PC16550D data sheet, sections 8.1 to 8.10.

Eight byte-wide registers, 16-byte receive FIFO. What a guest transmits goes to
*sink* at once, so the transmitter is always empty. What the host has to say
comes in through `Uart16550.receive`, which takes as much as there is room for;
the rest stays with the caller until *ready* is called. Below the trigger level
the receiver reports a character time-out at once instead of four character
times later. CTS, DSR and DCD are up.

Left out: baud rate (any divisor is taken), parity and framing errors, DMA
signals, the 64-byte FIFO of the 16750.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

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

FIFO_BYTES = 16
POLLS = 16
"""So many looks at an empty receiver in a row are a guest that waits for input."""
TRIGGER_LEVELS = (1, 4, 8, 14)
DIVISOR_LATCH_ACCESS = "divisor"

# Interrupt enable
RECEIVED, TRANSMITTED, LINE_STATUS, MODEM_STATUS = 1, 2, 4, 8
# Interrupt identification
NO_INTERRUPT, MODEM_ID, TRANSMIT_ID, RECEIVE_ID, LINE_ID, TIMEOUT_ID = 1, 0, 2, 4, 6, 12
FIFOS_ENABLED_ID = 0xC0
# FIFO control
FIFO_ENABLE, FIFO_CLEAR_RECEIVE = 1, 2
# Line control, line status
BREAK_CONTROL, DIVISOR_LATCH = 0x40, 0x80
DATA_READY, OVERRUN, BREAK, TRANSMITTER_EMPTY, FIFO_ERROR = 0x01, 0x02, 0x10, 0x60, 0x80
ERRORS = 0x1E
# Modem control, modem status
LOOPBACK = 0x10
CTS, DSR, RI, DCD = 0x10, 0x20, 0x40, 0x80
LINES_UP = CTS | DSR | DCD

_BYTES = tuple(bytes((value,)) for value in range(256))


LINE_STATUS_OFFSET = 5


def _nothing() -> None:
    """Default of the *ready* handle."""


def _show_nobody(status: int | None) -> None:
    """What `Uart16550.show_status` begins with."""


class Uart16550(Peripheral):
    """One 16550A. *sink* takes transmitted bytes, *irq* the level of the interrupt line.

    *ready* is called, from the thread of the vCPU that read, when the receiver is
    empty again after it had refused bytes.
    """

    registers = RegisterMap(
        Register("receive_buffer", 0, 1, access=Access.RO),
        Register("transmit_holding", 0, 1, access=Access.WO),
        Register("divisor_low", 0, 1, bank=DIVISOR_LATCH_ACCESS, reset=12),
        Register("interrupt_enable", 1, 1, (Field("enabled", 0, 4),)),
        Register("divisor_high", 1, 1, bank=DIVISOR_LATCH_ACCESS),
        Register("interrupt_identification", 2, 1, access=Access.RO),
        Register(
            "fifo_control",
            2,
            1,
            (
                Field("enable", 0, access=Access.WO),
                Field("clear_receive", 1, access=Access.WO),
                Field("clear_transmit", 2, access=Access.WO),
                Field("dma_mode", 3, access=Access.WO),
                Field("trigger", 6, 2, access=Access.WO),
            ),
        ),
        Register("line_control", 3, 1),
        Register("modem_control", 4, 1, (Field("outputs", 0, 4), Field("loopback", 4))),
        Register("line_status", LINE_STATUS_OFFSET, 1, access=Access.RO, reset=TRANSMITTER_EMPTY),
        Register("modem_status", 6, 1, access=Access.RO, reset=LINES_UP),
        Register("scratch", 7, 1),
    )

    sink: Callable[[bytes], None]
    irq: InterruptLine
    ready: Callable[[], None] = _nothing

    divisor_low: int = registers.divisor_low.state()
    divisor_high: int = registers.divisor_high.state()
    interrupt_enable: int = registers.interrupt_enable.state()
    fifo_control: int = registers.fifo_control.state()
    line_control: int = registers.line_control.state()
    modem_control: int = registers.modem_control.state()
    line_status: int = registers.line_status.state()
    modem_status: int = registers.modem_status.state()
    scratch: int = registers.scratch.state()
    transmit_pending: int = state(1)
    last_received: int = state(8)
    received: list[int] = queue(FIFO_BYTES, 16)
    """Received characters; the high byte holds the line status bits that came with each."""

    def prepare(self) -> None:
        self._lock = threading.Lock()
        self._level = False
        self._refused = False
        self._polls = 0
        self._show: Callable[[int | None], None] = _show_nobody

    def show_status(self, show: Callable[[int | None], None]) -> None:
        """Let *show* hear what a read of the line status gives; None where it changes something."""
        self._show = show
        with self._lock:
            self._update()

    def restored(self) -> None:
        with self._lock:
            self.select_bank(DIVISOR_LATCH_ACCESS if self.line_control & DIVISOR_LATCH else "")
            self._level = False
            self.irq(False)
            self._update()
        self._wake()

    # The host's side

    def receive(self, data: bytes) -> int:
        """Take up to as many bytes as there is room for; return how many. Any thread."""
        with self._lock:
            if self.modem_control & LOOPBACK:
                room = 0
            else:
                room = (FIFO_BYTES if self.fifo_control & FIFO_ENABLE else 1) - len(self.received)
            accepted = min(max(room, 0), len(data))
            self._refused = accepted < len(data)
            if accepted:
                self.received.extend(data[:accepted])
                self.line_status |= DATA_READY
                self._update()
        return accepted

    @property
    def listening(self) -> bool:
        """Whether the guest takes input: its receive interrupt is on, or it polls for some.

        Whoever transmits reads the line status too, but then writes: only reads in a row count.
        """
        return bool(self.interrupt_enable & RECEIVED) or self._polls >= POLLS

    def receive_break(self) -> None:
        """Signal a break condition to the guest. Any thread."""
        with self._lock:
            self._push(BREAK << 8)
            self._update()

    # Registers

    def read_receive_buffer(self) -> int:
        with self._lock:
            if self.received:
                self.last_received = self.received.pop(0) & 0xFF
                self._front()
                self._update()
            value = self.last_received
        if self._refused and not self.received:
            self._wake()
        return value

    def write_transmit_holding(self, value: int) -> None:
        if self.modem_control & LOOPBACK:
            with self._lock:
                self._push(value)
                self.transmit_pending = 1
                self._update()
            return
        self._transmit(_BYTES[value])

    def write_burst(self, values: bytes) -> None:
        """Carry out a guest's writes of one byte each to offset 0, one after another."""
        if (self.line_control & DIVISOR_LATCH) or (self.modem_control & LOOPBACK):
            for value in values:
                self.write(0, 1, value)
        else:
            self._transmit(values)

    def _transmit(self, characters: bytes) -> None:
        self._polls = 0
        self.sink(characters)
        if self.interrupt_enable & TRANSMITTED:
            with self._lock:
                self.transmit_pending = 1
                self._update()

    def write_interrupt_enable(self, value: int) -> None:
        with self._lock:
            if value & ~self.interrupt_enable & TRANSMITTED:
                # The holding register is empty, so enabling its interrupt raises it (8.6.3).
                self.transmit_pending = 1
            self.interrupt_enable = value
            self._update()

    def read_interrupt_identification(self) -> int:
        with self._lock:
            identity = self._identity()
            if identity == TRANSMIT_ID:
                self.transmit_pending = 0
                self._update()
            return identity | (FIFOS_ENABLED_ID if self.fifo_control & FIFO_ENABLE else 0)

    def write_fifo_control(self, value: int) -> None:
        with self._lock:
            changed = (value ^ self.fifo_control) & FIFO_ENABLE
            if changed or value & FIFO_CLEAR_RECEIVE:
                self.received.clear()
                self._front()
            # The clear bits clear themselves; the trigger counts only with the FIFOs on.
            self.fifo_control = value & 0xC9 if value & FIFO_ENABLE else 0
            self._update()
        if self._refused and not self.received:
            self._wake()

    def write_line_control(self, value: int) -> None:
        with self._lock:
            if value & ~self.line_control & BREAK_CONTROL and self.modem_control & LOOPBACK:
                self._push(BREAK << 8)
                self._update()
            self.line_control = value
            self.select_bank(DIVISOR_LATCH_ACCESS if value & DIVISOR_LATCH else "")

    def write_modem_control(self, value: int) -> None:
        with self._lock:
            self.modem_control = value
            lines = LINES_UP
            if value & LOOPBACK:
                # DTR, RTS, OUT1, OUT2 appear as DSR, CTS, RI, DCD (8.7).
                lines = (value & 1) << 5 | (value & 2) << 3 | (value & 4) << 4 | (value & 8) << 4
            changed = (lines ^ self.modem_status) & 0xF0
            delta = (changed & (CTS | DSR | DCD)) >> 4
            if changed & RI and not lines & RI:
                delta |= 4
            self.modem_status = lines | self.modem_status & 0x0F | delta
            self._update()
        if self._refused and not value & LOOPBACK:
            self._wake()

    def read_line_status(self) -> int:
        status = self.line_status
        if not status & DATA_READY and self._polls < POLLS:
            self._polls += 1
        if status & ERRORS:
            with self._lock:
                status = self.line_status
                self.line_status &= ~ERRORS
                self._update()
        return status

    def read_modem_status(self) -> int:
        with self._lock:
            value = self.modem_status
            if value & 0x0F:
                self.modem_status &= 0xF0
                self._update()
            return value

    # Inside; the lock is held

    def _push(self, character: int) -> None:
        """Put a character of the UART's own (loop-back, break) into the receiver."""
        limit = FIFO_BYTES if self.fifo_control & FIFO_ENABLE else 1
        if len(self.received) >= limit:
            self.line_status |= OVERRUN
            if limit > 1:
                return
            self.received.clear()
        self.received.append(character)
        self._front(arrived=len(self.received) == 1)

    def _front(self, arrived: bool = True) -> None:
        """Show the oldest character in the line status, with what came with it."""
        status = self.line_status & ~(DATA_READY | FIFO_ERROR)
        if self.received:
            status |= DATA_READY
            if arrived:
                status |= self.received[0] >> 8 & ERRORS
                self.received[0] &= 0xFF
            if any(character >> 8 for character in self.received):
                status |= FIFO_ERROR
        self.line_status = status

    def _identity(self) -> int:
        """The interrupt of the highest priority (data sheet, table IV)."""
        enabled = self.interrupt_enable
        if enabled & LINE_STATUS and self.line_status & ERRORS:
            return LINE_ID
        if enabled & RECEIVED and self.line_status & DATA_READY:
            if not self.fifo_control & FIFO_ENABLE:
                return RECEIVE_ID
            trigger = TRIGGER_LEVELS[self.fifo_control >> 6]
            return RECEIVE_ID if len(self.received) >= trigger else TIMEOUT_ID
        if enabled & TRANSMITTED and self.transmit_pending:
            return TRANSMIT_ID
        if enabled & MODEM_STATUS and self.modem_status & 0x0F:
            return MODEM_ID
        return NO_INTERRUPT

    def _update(self) -> None:
        changes = self.line_status & ERRORS or self.modem_control & LOOPBACK
        self._show(None if changes else self.line_status)
        level = self._identity() != NO_INTERRUPT
        if level != self._level:
            self._level = level
            self.irq(level)

    def _wake(self) -> None:
        """Tell the host that there is room; the lock is not held."""
        self._refused = False
        self.ready()
