"""One PCI function: its configuration space, base address registers and interrupt pin.

PCI Local Bus Specification 3.0, chapter 6 (header type 0), as PCI Express keeps it. What the
guest has written is state; what it cannot write is computed from what the function is made
of, so a loaded state cannot change it.

Left out: I/O space, expansion ROMs, extended capabilities (offsets from 256 on read as
zero), power management.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tandemu.bits import Record, mask
from tandemu.device.registers import (
    DeviceError,
    InterruptLine,
    Peripheral,
    RegisterMap,
    states,
)
from tandemu.memory import Device

HEADER_BYTES = 64
CONFIGURATION_BYTES = 256
_WORDS = CONFIGURATION_BYTES // 4

COMMAND, STATUS, BARS, CAPABILITIES, INTERRUPT = 0x04, 0x06, 0x10, 0x34, 0x3C
BAR_COUNT = 6

MEMORY_SPACE, BUS_MASTER, INTERRUPT_DISABLE = 1 << 1, 1 << 2, 1 << 10
INTERRUPT_STATUS, CAPABILITIES_LIST = 1 << 3, 1 << 4
_BAR_64_BIT, _BAR_PREFETCHABLE = 4, 8
_SMALLEST_BAR = 16


class Identity(Record):
    """What a function says it is: vendor and device, class (24 bits), revision, subsystem."""

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0


Doorbells = Mapping[int, int]
"""Offsets of registers whose writes, of two bytes, only tell a device to look, whatever they are;
and the event descriptor that may stand for such writes."""
NO_DOORBELLS: Doorbells = {}


class Bar(NamedTuple):
    """*size* bytes of memory space that *device* answers; *wide*: anywhere in 64 bits."""

    size: int
    device: Device
    wide: bool = True
    prefetchable: bool = False
    doorbells: Doorbells = NO_DOORBELLS


class MappedBar(NamedTuple):
    """A BAR at the address that the guest gave it."""

    address: int
    size: int
    device: Device
    doorbells: Doorbells


class PciFunction(Peripheral):
    """A function that is *identity*; *bars* by the number of the first register they take.

    Capabilities are added before it is plugged in. The bridge fills in `changed` and `wire`.
    """

    registers = RegisterMap()

    identity: Identity
    bars: dict[int, Bar]
    interrupt_pin: int = 0
    """1 to 4 for INTA to INTD, 0 for none."""

    written: list[int] = states(_WORDS, 32)
    """The bits that the guest may write, word by word."""

    def prepare(self) -> None:
        self._lock = threading.Lock()
        self._asserted = False
        self._fixed = [0] * _WORDS
        self._writable = [0] * _WORDS
        self._last_capability = CAPABILITIES
        self._end = HEADER_BYTES
        self._watchers: list[Callable[[int], None]] = []
        self._answers: dict[int, tuple[Callable[[], int], Callable[[int], None]]] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called when BARs may stand elsewhere."""
        self.wire: InterruptLine = lambda level: None
        """The wire of its interrupt pin."""
        who = self.identity
        self._fix(0, who.device << 16 | who.vendor, 0)
        self._fix(COMMAND, 0, MEMORY_SPACE | BUS_MASTER | INTERRUPT_DISABLE)
        self._fix(0x08, who.class_code << 8 | who.revision, 0)
        self._fix(0x0C, 0, 0xFF)  # the cache line size may be written and means nothing
        self._fix(0x2C, who.subsystem << 16 | who.subsystem_vendor, 0)
        self._fix(INTERRUPT, self.interrupt_pin << 8, 0xFF)
        for number, bar in self.bars.items():
            self._fix_bar(number, bar)

    def _fix(self, offset: int, value: int, writable: int) -> None:
        self._fixed[offset // 4] = value
        self._writable[offset // 4] = writable

    def _fix_bar(self, number: int, bar: Bar) -> None:
        if bar.size < _SMALLEST_BAR or bar.size & bar.size - 1:
            raise DeviceError(
                f"BAR {number} of {bar.size} bytes: must be a power of two from {_SMALLEST_BAR}"
            )
        if not 0 <= number < BAR_COUNT - bar.wide or (bar.wide and number + 1 in self.bars):
            raise DeviceError(f"BAR {number}: there are {BAR_COUNT}, and a wide one takes two")
        kind = bar.wide * _BAR_64_BIT | bar.prefetchable * _BAR_PREFETCHABLE
        writable = mask(64) & -bar.size
        self._fix(BARS + 4 * number, kind, writable & mask(32))
        if bar.wide:
            self._fix(BARS + 4 * number + 4, 0, writable >> 32)

    def add_capability(self, kind: int, body: bytes, writable: bytes = b"") -> int:
        """Add a capability of ID *kind* with *body* behind its two bytes; return its offset.

        *writable* are the bits of *body* that the guest may write.
        """
        offset = self._end
        data = bytes((kind, 0)) + body
        self._end = (offset + len(data) + 3) & ~3
        if self._end > CONFIGURATION_BYTES:
            raise DeviceError(f"capability {kind:#x} does not fit into configuration space")
        allowed = (bytes(2) + writable).ljust(len(data), b"\0")
        for place, (value, bits) in enumerate(zip(data, allowed, strict=True), offset):
            self._fixed[place // 4] |= value << place % 4 * 8
            self._writable[place // 4] |= bits << place % 4 * 8
        previous = self._last_capability + (self._last_capability != CAPABILITIES)
        self._fixed[previous // 4] |= offset << previous % 4 * 8
        self._fixed[STATUS // 4] |= CAPABILITIES_LIST << 16
        self._last_capability = offset
        return offset

    def watch(self, heard: Callable[[int], None]) -> None:
        """Have *heard* called with the offset of each word of configuration that was written."""
        self._watchers.append(heard)

    def answer(self, offset: int, read: Callable[[], int], write: Callable[[int], None]) -> None:
        """Have *read* and *write* stand for the word of configuration at *offset*."""
        self._answers[offset] = read, write

    def restored(self) -> None:
        self.written = [old & bits for old, bits in zip(self.written, self._writable, strict=True)]
        self.changed()
        self._drive()

    # Configuration space ----------------------------------------------------------------

    def word(self, offset: int) -> int:
        """The 32-bit word at *offset*, a multiple of 4 below 256."""
        value = self._fixed[offset >> 2] | self.written[offset >> 2]
        if offset == COMMAND and self._asserted:
            value |= INTERRUPT_STATUS << 16
        return value

    def read_configuration(self, offset: int, size: int) -> int:
        """Read *size* bytes at *offset*, which may be any."""
        result = 0
        for place in range(offset & ~3, offset + size, 4):
            if place in self._answers:
                value = self._answers[place][0]()
            else:
                value = self.word(place) if place < CONFIGURATION_BYTES else 0
            shift = (place - offset) * 8
            result |= value << shift if shift >= 0 else value >> -shift
        return result & mask(size * 8)

    def write_configuration(self, offset: int, size: int, value: int) -> None:
        """Write *size* bytes at *offset*, which may be any."""
        for place in range(offset & ~3, min(offset + size, CONFIGURATION_BYTES), 4):
            shift = (place - offset) * 8
            bits, part = mask(size * 8), value & mask(size * 8)
            if shift >= 0:
                bits, part = bits >> shift, part >> shift
            else:
                bits, part = bits << -shift, part << -shift
            if place in self._answers:
                self._answers[place][1](part)
                continue
            bits &= self._writable[place >> 2]
            with self._lock:
                kept = self.written[place >> 2] & ~bits
                self.written[place >> 2] = kept | part & bits
            self._wrote(place)

    def _wrote(self, place: int) -> None:
        if BARS <= place < BARS + 4 * BAR_COUNT:
            self.changed()
        elif place == COMMAND:
            self.changed()
            self._drive()
        for heard in self._watchers:
            heard(place)

    # What follows from it ---------------------------------------------------------------

    @property
    def bus_master(self) -> bool:
        """Whether the function may reach memory and send messages."""
        return bool(self.written[COMMAND // 4] & BUS_MASTER)

    def mappings(self) -> Iterator[MappedBar]:
        """Where its BARs stand, if it answers in memory space at all."""
        if not self.written[COMMAND // 4] & MEMORY_SPACE:
            return
        for number, bar in self.bars.items():
            word = BARS // 4 + number
            address = self.written[word]
            if bar.wide:
                address |= self.written[word + 1] << 32
            yield MappedBar(address, bar.size, bar.device, bar.doorbells)

    def interrupt(self, level: bool) -> None:
        """Raise or lower its interrupt pin. Any thread."""
        with self._lock:
            self._asserted = level
        self._drive()

    def _drive(self) -> None:
        with self._lock:
            self.wire(self._asserted and not self.written[COMMAND // 4] & INTERRUPT_DISABLE)
