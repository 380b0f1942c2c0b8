"""MSI-X: interrupts as messages (PCI Local Bus Specification 3.0, section 6.8.2).

A message is an address and 32 bits of data; who takes it, an interrupt controller or the
engine, is the board's concern (`MessageSink`).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from tandemu.device.pci.function import Bar, PciFunction
from tandemu.device.registers import DeviceError, Peripheral, RegisterMap, state, states

MessageSink = Callable[[int, int], object]
"""Takes a message: address and data. Any thread."""

MSIX = 0x11
TABLE_BYTES = 0x1000
MAX_VECTORS = 128
_PENDING_OFFSET = 0x800
_ENABLE, _FUNCTION_MASK = 1 << 15, 1 << 14
_ENTRY_WORDS = 4
_ADDRESS, _ADDRESS_HIGH, _DATA, _CONTROL = range(_ENTRY_WORDS)
_MASKED = 1


class Msix(Peripheral):
    """The table and the pending bits of *vectors* messages, in a BAR of `TABLE_BYTES`."""

    registers = RegisterMap()

    vectors: int
    message: MessageSink

    words: list[int] = states(MAX_VECTORS * _ENTRY_WORDS, 32)
    pending: int = state(MAX_VECTORS)

    def prepare(self) -> None:
        if not 0 < self.vectors <= MAX_VECTORS:
            raise DeviceError(f"MSI-X with {self.vectors} vectors: must be 1 to {MAX_VECTORS}")
        self._lock = threading.Lock()
        self._function: PciFunction | None = None
        self._control = 0
        self.restored()

    def restored(self) -> None:
        self.pending &= (1 << self.vectors) - 1
        if not any(self.words):  # after reset every vector is masked
            self.words[_CONTROL::_ENTRY_WORDS] = [_MASKED] * MAX_VECTORS

    @property
    def bar(self) -> Bar:
        """The base address register that shows the table."""
        return Bar(TABLE_BYTES, self, wide=False)

    def plug(self, function: PciFunction, bar: int) -> None:
        """Add the capability to *function*, whose BAR number *bar* is `bar`."""
        body = struct.pack("<HII", self.vectors - 1, bar, _PENDING_OFFSET | bar)
        writable = struct.pack("<H", _ENABLE | _FUNCTION_MASK)
        self._control = function.add_capability(MSIX, body, writable)
        self._function = function
        function.watch(self._configured)

    @property
    def enabled(self) -> bool:
        """Whether the guest uses messages instead of the wire."""
        return bool(self._message_control() & _ENABLE)

    def _message_control(self) -> int:
        function = self._function
        return 0 if function is None else function.word(self._control) >> 16

    def _configured(self, place: int) -> None:
        if place == self._control:
            self._deliver()

    def signal(self, vector: int) -> None:
        """Send message number *vector*, or keep it pending while it is masked. Any thread."""
        if vector >= self.vectors:
            return
        with self._lock:
            self.pending |= 1 << vector
        self._deliver()

    def _deliver(self) -> None:
        control = self._message_control()
        function = self._function
        if not control & _ENABLE or control & _FUNCTION_MASK:
            return
        if function is None or not function.bus_master:
            return
        due = []
        with self._lock:
            for vector in range(self.vectors) if self.pending else ():
                word = vector * _ENTRY_WORDS
                if self.pending >> vector & 1 and not self.words[word + _CONTROL] & _MASKED:
                    self.pending &= ~(1 << vector)
                    address = self.words[word + _ADDRESS_HIGH] << 32 | self.words[word + _ADDRESS]
                    due.append((address, self.words[word + _DATA]))
        for address, data in due:
            self.message(address, data)

    # The table --------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read whole aligned words of 4 or 8 bytes; the specification allows no others."""
        if size not in (4, 8) or offset % size:
            return 0
        low = self._word(offset)
        return low if size == 4 else low | self._word(offset + 4) << 32

    def _word(self, offset: int) -> int:
        if offset >= _PENDING_OFFSET:
            return self.pending >> (offset - _PENDING_OFFSET) * 8 & 0xFFFF_FFFF
        index = offset // 4
        return self.words[index] if index < self.vectors * _ENTRY_WORDS else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if size not in (4, 8) or offset % size:
            return
        for place in range(offset, offset + size, 4):
            if place < self.vectors * _ENTRY_WORDS * 4:
                word = value >> (place - offset) * 8 & 0xFFFF_FFFF
                if place // 4 % _ENTRY_WORDS == _CONTROL:
                    word &= _MASKED
                self.words[place // 4] = word
        self._deliver()
