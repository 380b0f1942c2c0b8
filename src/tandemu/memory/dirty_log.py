"""Dirty logs: which pages of guest memory were written, by vCPUs, devices or anybody.

Several can be open, each for a consumer of its own (a snapshot, a migration, a screen):
what one has taken, another still sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tandemu.memory.guest_memory import GuestMemory
    from tandemu.memory.ram import RamRegion


class WriteTracker(Protocol):
    """An engine's side of the dirty logs: what its vCPUs write."""

    def begin(self, region: RamRegion) -> None:
        """Have writes to *region* noted: the first log was opened.

        Of a region that comes later, the engine asks `GuestMemory.is_logging`.
        """

    def end(self, region: RamRegion) -> None:
        """Have them noted no more: the last log was closed."""

    def collect(self, region: RamRegion) -> bytes | None:
        """What the engine itself knows to be written since last time, one bit a page, LSB first.

        None: its vCPUs set the flags of pages themselves.
        """

    def watch(self) -> None:
        """Have the next write to every page noted again: dirty flags were cleared."""


class DirtyLog:
    """One consumer's log of all guest memory, from when it was opened. Any thread."""

    def __init__(self, memory: GuestMemory, bit: int) -> None:
        self._memory = memory
        self.bit = bit
        """Its flag of a page; 0 once it is closed."""

    def take(self, base: int) -> bytes:
        """Return and clear the written pages of the region at *base*: one bit a page, LSB first.

        `MapError` if there is no such region, or the log is closed. What a vCPU or device
        writes meanwhile is in this answer or in the next.
        """
        return self._memory.take_dirty(self, base)

    def close(self) -> None:
        """Note no more for this consumer."""
        self._memory.close_dirty_log(self)

    def __enter__(self) -> DirtyLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
