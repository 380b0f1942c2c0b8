"""What Arm's PrimeCell peripherals have in common: eight registers at the end that say what one is.

Source: AMBA Designer, "PrimeCell identification registers", as in each peripheral's manual. Every
register is one byte in a word. A driver finds its device by them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from tandemu.device.registers import Access, Field, InterruptLine, Register

DESIGNER_ARM = 0x41
COMPONENT = (0x0D, 0xF0, 0x05, 0xB1)
IDENTIFICATION = Register(
    "identification", 0xFE0, 4, (Field("byte", 0, 8, access=Access.RO),), count=8
)
"""Peripheral identification 0 to 3, then component identification 0 to 3."""


def identification(part: int, revision: int) -> Sequence[int]:
    """The eight bytes for the peripheral of Arm's with this *part* number, of 12 bits."""
    number = part | DESIGNER_ARM << 12 | revision << 20
    return (*number.to_bytes(4, "little"), *COMPONENT)


class PrimeCell:
    """What a `Peripheral` that is one of them adds to: its identity and its interrupts."""

    identity: ClassVar[Sequence[int]]
    """`identification` of its kind."""

    if TYPE_CHECKING:  # its own
        irq: InterruptLine
        mask: int
        raw_status: int
        _lock: threading.Lock

    def read_raw_status(self) -> int:
        return self.raw_status

    def read_masked_status(self) -> int:
        return self.read_raw_status() & self.mask

    def write_mask(self, value: int) -> None:
        with self._lock:
            self.mask = value
            self._update()

    def write_clear(self, value: int) -> None:
        with self._lock:
            self.raw_status &= ~value
            self._update()

    def read_identification(self, index: int) -> int:
        return self.identity[index]

    def _update(self) -> None:
        """Set the interrupt line to what the registers say; the lock is held."""
        self.irq(bool(self.read_masked_status()))
