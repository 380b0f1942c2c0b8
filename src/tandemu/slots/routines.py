"""The routines of `emitters` as native code, for Python, and as a `PageNotes`.

An engine whose own image has them gives that; others load a small image, which is compiled once
and kept on disk. It is needed as soon as any native code changes the flags of a guest's pages.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from tandemu.memory import PageNotes, RamRegion
from tandemu.memory.layout import PAGE_SHIFT
from tandemu.native import ExecutableMemory, Image, load
from tandemu.native.made import BASELINE, made_or_built, write_made

IMAGE = "guest-memory"
_SOURCES = ("bits", "memory", "ir", "native", "slots")

Routine = Callable[[str, int], Any]
"""A routine of an image by its name and number of 64-bit arguments."""


def _build() -> bytes:
    # LLVM and the emitters are loaded only when something has to be compiled.
    from tandemu.slots.generate import generate

    return generate()


def make(package: str) -> None:
    """Compile the image for any x86-64, into the folder *package* of a Tandemu (`native.made`)."""
    from tandemu.slots.generate import generate

    write_made(package, IMAGE, generate(BASELINE), _SOURCES)


@cache
def memory_routines() -> Routine:
    """The routines of this module's own image; it is loaded once in a process."""
    image = Image.from_bytes(made_or_built(IMAGE, _build, _SOURCES))
    loaded = load(image, ExecutableMemory(image.size))

    @cache
    def routine(name: str, arguments: int) -> Any:
        return loaded.function(name, ctypes.c_uint64, [ctypes.c_uint64] * arguments)

    return routine


class NativeNotes(PageNotes):
    """Notes on the guest memory whose `GUEST_MEMORY` structure is at host address *memory*."""

    def __init__(self, memory: int, routine: Routine) -> None:
        self._memory = memory
        self._note_pages = routine("note_pages", 4)
        self._take_dirty = routine("take_dirty", 4)

    def note_written(self, region: RamRegion, offset: int, size: int) -> None:
        """As in `PageNotes`."""
        first, last = offset >> PAGE_SHIFT, (offset + size - 1) >> PAGE_SHIFT
        host = region.host_address + (first << PAGE_SHIFT)
        self._note_pages(self._memory, host, region.flags_address + first, last + 1 - first)

    def take_dirty(self, region: RamRegion, bit: int) -> bytes:
        """As in `PageNotes`."""
        pages = region.size >> PAGE_SHIFT
        bits = ctypes.create_string_buffer((pages + 7) // 8)
        self._take_dirty(region.flags_address, pages, ctypes.addressof(bits), bit)
        return bits.raw

    def mark_dirty(self, region: RamRegion, bits: bytes) -> None:
        """As in `PageNotes`."""
        number = int.from_bytes(bits, "little")
        while number:
            lowest = (number & -number).bit_length() - 1
            rest = number >> lowest
            run = (~rest & (rest + 1)).bit_length() - 1
            self.note_written(region, lowest << PAGE_SHIFT, run << PAGE_SHIFT)
            number = number >> (lowest + run) << (lowest + run)
