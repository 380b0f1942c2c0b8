"""Which children of a process have started a program: setpgid(2) is refused for those.

The host's kernel does not know when that happens inside of the process. So parent and child share
a page, with a byte for each child. Where it is stands in the structure that native calls share
(`native.layout.PROCESS`), for `native.process_calls` makes children too: *children* is the host
address of the page, 0 until there is a child; *child_numbers* that of an array of `PLACES` process
numbers; *next_child* counts the places given. *parents_children* is the page of the parent, on
which *own_place* is this process's.
"""

from __future__ import annotations

import ctypes
from typing import Any

from tandemu.linux import host
from tandemu.linux.host import NUMBERS, PAGE

PLACES = 1024
"""So many children are remembered, the youngest ones; a power of two."""
NUMBER_SIZE = 4
READ_WRITE = 3
SHARED, ALONE = 0x21, 0x22
"""MAP_SHARED and MAP_PRIVATE, of no file."""


class Offspring:
    """The children of one process, as far as they are programs that run here."""

    def __init__(self, process: Any) -> None:
        self._process = process
        process.children = process.parents_children = 0
        process.child_numbers = _map(PLACES * NUMBER_SIZE, ALONE)

    def reserve(self) -> int:
        """A place for a child that is about to be made: the oldest one's, if there are too many."""
        process = self._process
        if not process.children:
            process.children, process.next_child = _map(PAGE, SHARED), 0
        place: int = process.next_child % PLACES
        process.next_child += 1
        ctypes.c_uint8.from_address(process.children + place).value = 0
        self._number(place).value = 0
        return place

    def _number(self, place: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_address(self._process.child_numbers + NUMBER_SIZE * place)

    def born(self, pid: int, place: int) -> None:
        """In the parent: the child *pid* has that place."""
        self._number(place).value = pid

    def begin(self, place: int) -> None:
        """In the child: it has that place, and no children."""
        process = self._process
        process.parents_children, process.own_place = process.children, place
        process.children = 0

    def start_program(self) -> None:
        """This process starts a program."""
        process = self._process
        if process.parents_children:
            ctypes.c_uint8.from_address(process.parents_children + process.own_place).value = 1

    def has_started(self, pid: int) -> bool:
        """Whether the child *pid* has started a program here."""
        process = self._process
        if not process.children:
            return False
        last = process.next_child
        # The youngest first: numbers are given again.
        for count in range(last - 1, max(last - PLACES, 0) - 1, -1):
            place = count % PLACES
            if self._number(place).value == pid:
                return ctypes.c_uint8.from_address(process.children + place).value != 0
        return False


def _map(size: int, flags: int) -> int:
    """Fresh memory of the host's, for the rest of the process."""
    found = host.quick(NUMBERS["mmap"], 0, size, READ_WRITE, flags, -1, 0)
    if found < 0:
        raise OSError(-found, "no memory")
    return found
