"""Which children of a process have started a program: setpgid(2) is refused for those.

The host's kernel does not know when that happens inside of the process. So parent and child share
a page, with a byte for each child.
"""

from __future__ import annotations

import mmap

from tandemu.linux.host import PAGE


class Offspring:
    """The children of one process, as far as they are programs that run here."""

    def __init__(self) -> None:
        self._page: mmap.mmap | None = None
        self._next = 0
        self._places: dict[int, int] = {}
        self._parents: tuple[mmap.mmap, int] | None = None
        """The parent's page, and where this process is on it."""

    def reserve(self) -> int:
        """A place for a child that is about to be made: the oldest one's, if there are too many."""
        if self._page is None:
            self._page = mmap.mmap(-1, PAGE)
        place = self._next
        self._next = (place + 1) % PAGE
        self._page[place] = 0
        return place

    def born(self, pid: int, place: int) -> None:
        """In the parent: the child *pid* has that place."""
        for other in [one for one, its in self._places.items() if its == place]:
            del self._places[other]
        self._places[pid] = place

    def begin(self, place: int) -> None:
        """In the child: it has that place, and no children."""
        if self._page is not None:
            self._parents = self._page, place
        self._page = None
        self._next = 0
        self._places.clear()

    def start_program(self) -> None:
        """This process starts a program."""
        if self._parents is not None:
            page, place = self._parents
            page[place] = 1

    def has_started(self, pid: int) -> bool:
        """Whether the child *pid* has started a program here."""
        place = self._places.get(pid)
        return place is not None and self._page is not None and self._page[place] != 0
