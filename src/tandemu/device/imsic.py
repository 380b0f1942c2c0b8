"""Where messages to harts come in: RISC-V AIA 1.0, section 3.6 (incoming MSI controller).

Each hart's interrupt file has a page; a write of an identity there is a message. The files
themselves are the harts' (`isa.riscv.message_file`).

Left out: files of machine level and of guests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

PAGE_BYTES = 0x1000
_LITTLE_ENDIAN, _BIG_ENDIAN = 0, 4
"""Offsets of seteipnum_le and seteipnum_be in a page."""


class Imsic:
    """The pages of all harts; *files* take an identity each, of which only some exist."""

    def __init__(self, files: Sequence[Callable[[int], None]]) -> None:
        self._files = files

    @property
    def size(self) -> int:
        """How many bytes of addresses the pages take."""
        return len(self._files) * PAGE_BYTES

    def send(self, hart: int, identity: int) -> None:
        """Send a message to a hart; to one that there is not, it is lost. Any thread."""
        if hart < len(self._files):
            self._files[hart](identity)

    def read(self, offset: int, size: int) -> int:
        """The registers read as zero (section 3.6)."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a message: an aligned word at one of two offsets. All else is ignored there."""
        hart, place = divmod(offset, PAGE_BYTES)
        if size != 4 or place not in (_LITTLE_ENDIAN, _BIG_ENDIAN):
            return
        if place == _BIG_ENDIAN:
            value = int.from_bytes(value.to_bytes(4, "little"), "big")
        self.send(hart, value)
