"""A part of a board: a chip, a bank or a window, where it stands and what its interrupt is."""

from __future__ import annotations

from tandemu.bits import Record

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Part(Record):
    """*count* parts of *size* bytes each, the first at guest-physical *base*.

    *interrupt* is the input of the board's interrupt controller, of the first, 0 if it has none;
    the others follow.
    """

    name: str
    base: int
    size: int
    interrupt: int = 0
    count: int = 1

    def bases(self) -> list[int]:
        """The address of each."""
        return [self.base + number * self.size for number in range(self.count)]

    @property
    def end(self) -> int:
        """The address behind the last."""
        return self.base + self.count * self.size
