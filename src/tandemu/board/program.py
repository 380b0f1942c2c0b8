"""What is to be put into guest memory and started: segments and an entry point."""

from __future__ import annotations

import mmap
import os

from tandemu.bits import Record, replace
from tandemu.board.errors import LoadError
from tandemu.memory import GuestMemory


class Segment(Record):
    """*data* at guest-physical *address*, zeros behind it up to *size* bytes."""

    address: int
    data: memoryview
    size: int

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.size

    def load(self, memory: GuestMemory) -> None:
        """Put the data into memory that is new: it is zero where there is none.

        Pages that are zero are left untouched and cost nothing. LoadError if not all is memory.
        """
        is_there = memory.lend(self.address, self.size) is not None
        if not is_there or not memory.load(self.address, self.data):
            raise LoadError(f"no memory at {self.address:#x} to {self.end - 1:#x} to load into")
        let_go(self.data)


class Program(Record):
    """A program as its file describes it.

    A *movable* one has addresses that count from wherever it is put; *offset* is
    where it would like to stand, counted from the start of RAM.
    """

    name: str
    kind: str
    segments: tuple[Segment, ...]
    entry: int
    movable: bool = False
    offset: int = 0

    @property
    def start(self) -> int:
        """Its lowest address."""
        return min(segment.address for segment in self.segments)

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return max(segment.end for segment in self.segments)

    def moved(self, base: int) -> Program:
        """The same program at *base*, no longer movable."""
        segments = tuple(
            replace(segment, address=segment.address + base) for segment in self.segments
        )
        return replace(self, segments=segments, entry=self.entry + base, movable=False)


def raw(data: memoryview, name: str) -> Program:
    """A file without a format: its bytes, entered at the first."""
    if not data:
        raise LoadError(f"{name} is empty; give a kernel or firmware image")
    return Program(name, "raw binary", (Segment(0, data, len(data)),), 0, movable=True)


def read_file(path: str | os.PathLike[str]) -> memoryview:
    """Map a file into memory, without copying it; LoadError says what is wrong with it."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise LoadError(
            f"cannot read {path}: {reason}; check that it is a file you may read"
        ) from None


def let_go(data: memoryview) -> None:
    """Let the host drop the pages of a mapped file; they come back when they are read again."""
    if isinstance(data.obj, mmap.mmap):
        data.obj.madvise(mmap.MADV_DONTNEED)
