"""Small page tables for tests: Sv39 and Sv48 trees in guest memory."""

from __future__ import annotations

from tests.jit.small_machine import BASE, PAGE, SmallMachine

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
RX = V | R | X | A
RW = V | R | W | A | D
RWX = RX | W | D
TABLES = BASE + (2 << 20)
"""Where the tables of a test are: nothing else is there."""


class PageTable:
    """A tree at `TABLES` (or *base*); pages are made as they are needed."""

    def __init__(self, machine: SmallMachine, levels: int = 3, base: int = TABLES) -> None:
        self.machine, self.levels = machine, levels
        self.root = base
        self._next = base + PAGE
        self._tables: dict[tuple[int, int], int] = {}

    def entry(self, virtual: int, level: int = 0) -> int:
        """Physical address of the entry for *virtual*; *level* 1 is a page of 2 MiB."""
        table = self.root
        for depth in range(self.levels - 1, level, -1):
            index = virtual >> (12 + 9 * depth) & 511
            key = table, index
            if key not in self._tables:
                self._tables[key] = self._next
                self._put(table + 8 * index, self._next >> 12 << 10 | V)
                self._next += PAGE
            table = self._tables[key]
        return table + 8 * (virtual >> (12 + 9 * level) & 511)

    def _put(self, address: int, value: int) -> None:
        self.machine.write(address, value.to_bytes(8, "little"))

    def map(self, virtual: int, physical: int, flags: int, level: int = 0) -> int:
        """Map one page; the address of its entry."""
        place = self.entry(virtual, level)
        self._put(place, physical >> 12 << 10 | flags)
        return place

    def satp(self, asid: int = 0) -> int:
        return (5 + self.levels) << 60 | asid << 44 | self.root >> 12


def pte(physical: int, flags: int) -> int:
    """The value of a leaf entry."""
    return physical >> 12 << 10 | flags
