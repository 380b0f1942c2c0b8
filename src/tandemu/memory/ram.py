"""Guest RAM: one memfd, mapped shared, and a byte of flags for each of its pages.

An accelerator reaches it by its host address or its file descriptor; everybody else goes
through `GuestMemory`. Pages cost memory only once touched; where the host allows it for shared
memory they are huge, which saves a virtual processor nine of ten page faults.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from typing import NamedTuple

from tandemu.memory.layout import PAGE_DIRTY, PAGE_SHIFT, PAGE_SIZE

HUGE_PAGE_BYTES = 2 << 20


def _address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


class Ram:
    """*size* bytes of zeroed guest RAM; *size* is a multiple of the host page size."""

    def __init__(self, size: int, name: str = "guest-ram") -> None:
        if size <= 0 or size % mmap.PAGESIZE:
            raise ValueError(f"RAM of {size} bytes: must be a positive multiple of {mmap.PAGESIZE}")
        self.size = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        self._give_back = weakref.finalize(self, os.close, self.fd)
        self._give_back.atexit = False
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
        if size >= HUGE_PAGE_BYTES:
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)
        self.address = _address(self._map)
        """Host address of the first byte; valid until `close`."""
        self._flags = mmap.mmap(-1, size >> PAGE_SHIFT, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.flags = memoryview(self._flags)
        """`PAGE_*` of each page: they belong to the memory, wherever it is mapped."""
        self.flags_address = _address(self._flags)
        """Host address of the first page's flags; valid as long as this object exists."""

    def replaced(self, offset: int, size: int) -> None:
        """Note that *size* bytes from *offset* changed while they were no guest memory."""
        for page in range(offset >> PAGE_SHIFT, (offset + size + PAGE_SIZE - 1) >> PAGE_SHIFT):
            self.flags[page] |= PAGE_DIRTY

    def discard(self, offset: int, size: int) -> None:
        """Give whole pages back to the host: they are zero from now on."""
        self._map.madvise(mmap.MADV_REMOVE, offset, size)

    def close(self) -> None:
        """Give the memory back. Nothing may run on it any more."""
        if self.fd >= 0:
            self._give_back()
            self.fd = -1
            self.view.release()


class RamRegion(NamedTuple):
    """RAM or ROM at a guest-physical address: part of one `Ram`."""

    base: int
    size: int
    ram: Ram
    offset: int = 0
    readonly: bool = False

    @property
    def end(self) -> int:
        """The guest address behind its last byte."""
        return self.base + self.size

    @property
    def host_address(self) -> int:
        """Host address of the region's first byte."""
        return self.ram.address + self.offset

    @property
    def flags_address(self) -> int:
        """Host address of the flags of the region's first page."""
        return self.ram.flags_address + (self.offset >> PAGE_SHIFT)
