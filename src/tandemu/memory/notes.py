"""What a write to guest memory leaves behind in the flags of its pages.

`PageNotes` is what `GuestMemory` needs done. Where generated code changes the flags as well
(the translator's vCPUs, native device code) its own routines do it, with atomic operations
(`tandemu.slots`); `PythonNotes` is enough where only Python does.
"""

from __future__ import annotations

import threading
from typing import Protocol

from tandemu.memory.layout import PAGE_DIRTY, PAGE_SHIFT, PAGE_WRITTEN
from tandemu.memory.ram import RamRegion


class PageNotes(Protocol):
    """How flags of pages are changed."""

    def note_written(self, region: RamRegion, offset: int, size: int) -> None:
        """Note a write that has been done: *size* bytes from *offset* of *region*."""

    def take_dirty(self, region: RamRegion, bit: int) -> bytes:
        """The pages of *region* with the dirty flag *bit*, one bit each, LSB first.

        Clears it, and has the next write to each page noted.
        """

    def mark_dirty(self, region: RamRegion, bits: bytes) -> None:
        """Note as dirty, for all logs, the pages whose bits are set (LSB first)."""


class PythonNotes:
    """For guests whose pages hold no translated code, and flags that only Python changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def note_written(self, region: RamRegion, offset: int, size: int) -> None:
        """As in `PageNotes`."""
        first = (region.offset + offset) >> PAGE_SHIFT
        last = (region.offset + offset + size - 1) >> PAGE_SHIFT
        with self._lock:
            region.ram.flags[first : last + 1] = bytes((PAGE_WRITTEN | PAGE_DIRTY,)) * (
                last + 1 - first
            )

    def take_dirty(self, region: RamRegion, bit: int) -> bytes:
        """As in `PageNotes`."""
        first, pages = region.offset >> PAGE_SHIFT, region.size >> PAGE_SHIFT
        flags = region.ram.flags[first : first + pages]
        is_set = bytes(ord("1") if one & bit else ord("0") for one in range(256))
        cleared = bytes(one & ~bit for one in range(256))
        with self._lock:
            old = bytes(flags)
            flags[:] = old.translate(cleared)
        return int(old.translate(is_set)[::-1], 2).to_bytes((pages + 7) // 8, "little")

    def mark_dirty(self, region: RamRegion, bits: bytes) -> None:
        """As in `PageNotes`."""
        number = int.from_bytes(bits, "little")
        if not number:
            return
        first, pages = region.offset >> PAGE_SHIFT, region.size >> PAGE_SHIFT
        flags = region.ram.flags[first : first + pages]
        digits = f"{number:0{pages}b}"[::-1][:pages].encode()
        dirty = digits.translate(bytes(PAGE_DIRTY * (one == ord("1")) for one in range(256)))
        with self._lock:
            both = int.from_bytes(flags, "little") | int.from_bytes(dirty, "little")
            flags[:] = both.to_bytes(pages, "little")
