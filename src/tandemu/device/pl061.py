"""PL061 general-purpose input and output: Arm DDI 0190, chapters 2 and 3.

Eight pins, each an input or an output. Bits 9 to 2 of a data register's address say which pins an
access is about, so that one pin is written without reading the others. An input interrupts at an
edge, at either, or at a level. What stands outside drives inputs with `Pl061.drive` and hears
of outputs through *output*; a pin that nothing drives is low.

Pins under hardware control (alternate function) are not driven by the data register; no other
source is connected to them.
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
    state,
)

PINS = 8


def _register(name: str, offset: int, access: Access = Access.RW, count: int = 1) -> Register:
    """One bit a pin."""
    return Register(name, offset, 4, (Field("pins", 0, PINS, access),), count=count)


def _unconnected(pins: int, levels: int) -> None:
    """Default of the *output* handle."""


class Pl061(PrimeCell, Peripheral):
    """One PL061. *output* takes which pins are outputs now and their levels, a bit each."""

    identity = identification(0x061, revision=0)
    registers = RegisterMap(
        _register("data", 0x000, count=1 << PINS),
        _register("direction", 0x400),
        _register("sense", 0x404),
        _register("both_edges", 0x408),
        _register("event", 0x40C),
        _register("mask", 0x410),
        _register("raw_status", 0x414, Access.RO),
        _register("masked_status", 0x418, Access.RO),
        _register("clear", 0x41C, Access.WO),
        _register("alternate", 0x420),
        IDENTIFICATION,
    )

    irq: InterruptLine
    output: Callable[[int, int], None] = _unconnected

    outputs: int = state(PINS)
    """What was written to the data register."""
    inputs: int = state(PINS)
    """Levels that come from outside."""
    edges: int = state(PINS)
    """Edges that were seen and not cleared."""
    direction: int = registers.direction.state()
    sense: int = registers.sense.state()
    both_edges: int = registers.both_edges.state()
    event: int = registers.event.state()
    mask: int = registers.mask.state()
    alternate: int = registers.alternate.state()

    def prepare(self) -> None:
        self._lock = threading.Lock()
        self._told = (0, 0)

    def restored(self) -> None:
        with self._lock:
            self._update()

    def drive(self, pin: int, level: bool) -> None:
        """Something outside drives *pin* to *level*. Any thread."""
        with self._lock:
            before = self._pins()
            self.inputs = self.inputs & ~(1 << pin) | level << pin
            self._changed(before)

    def read_data(self, pins: int) -> int:
        return self._pins() & pins

    def write_data(self, pins: int, value: int) -> None:
        with self._lock:
            before = self._pins()
            written = pins & self.direction
            self.outputs = self.outputs & ~written | value & written
            self._changed(before)

    def write_direction(self, value: int) -> None:
        with self._lock:
            before = self._pins()
            self.direction = value
            self._changed(before)

    def write_sense(self, value: int) -> None:
        with self._lock:
            self.sense = value
            self._update()

    def write_event(self, value: int) -> None:
        with self._lock:
            self.event = value
            self._update()

    def write_alternate(self, value: int) -> None:
        with self._lock:
            self.alternate = value
            self._update()

    def read_raw_status(self) -> int:
        levels = ~(self._pins() ^ self.event) & self.sense
        return levels | self.edges & ~self.sense

    def write_clear(self, value: int) -> None:
        with self._lock:
            self.edges &= ~value
            self._update()

    # Inside; the lock is held

    def _pins(self) -> int:
        """The level of each pin."""
        return self.outputs & self.direction | self.inputs & ~self.direction

    def _changed(self, before: int) -> None:
        """Note the inputs' edges of interest since the pins were at *before*."""
        pins = self._pins()
        wanted = self.both_edges | ~(pins ^ self.event)
        self.edges |= (pins ^ before) & wanted & ~self.sense & ~self.direction
        self._update()

    def _update(self) -> None:
        driven = self.direction & ~self.alternate
        told = driven, self.outputs & driven
        if told != self._told:
            self._told = told
            self.output(*told)
        super()._update()
