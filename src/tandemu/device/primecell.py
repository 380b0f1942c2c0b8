"""What Arm's PrimeCell peripherals have in common: eight registers at the end that say what one is.

Source: AMBA Designer, "PrimeCell identification registers", as in each peripheral's manual. Every
register is one byte in a word. A driver finds its device by them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tandemu.device.registers import Access, Field, Register

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
