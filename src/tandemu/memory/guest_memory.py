"""The memory of a guest: regions of RAM at guest-physical addresses, and the one door to them.

Devices, firmware and loaders read and write guest memory here and nowhere else, so that
translated code and dirty logs see each write. Native code finds the same regions in the slot
table (`layout`, `tandemu.slots`) and says afterwards what it wrote.

A guest names any address: what is not all RAM is answered by None or False, never by an exception.
"""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tandemu.memory.dirty_log import DirtyLog, WriteTracker
from tandemu.memory.errors import MapError
from tandemu.memory.layout import (
    DIRTY_BITS,
    GUEST_MEMORY,
    PAGE_SIZE,
    SLOT,
    SLOT_LIMIT,
    SLOT_READONLY,
    SLOT_TABLE,
)
from tandemu.memory.notes import PageNotes, PythonNotes
from tandemu.memory.ram import RamRegion


class _Piece(NamedTuple):
    """*size* bytes from *offset* of one region."""

    region: RamRegion
    offset: int
    size: int

    @property
    def view(self) -> memoryview:
        start = self.region.offset + self.offset
        return self.region.ram.view[start : start + self.size]


class Loan:
    """Guest memory lent for writing: *views* in the order of addresses.

    Whoever borrowed it writes into the views and then calls `end`, or leaves the ``with`` block;
    from then on the writes count. Nothing may be written afterwards.
    """

    def __init__(self, memory: GuestMemory, pieces: Sequence[_Piece]) -> None:
        self._memory = memory
        self._pieces = pieces
        self.views = [piece.view for piece in pieces]

    def end(self, written: int | None = None) -> None:
        """Give it back; only the first *written* bytes were written (None: all)."""
        pieces, self._pieces = self._pieces, ()
        self.views = []
        for piece in pieces:
            size = piece.size if written is None else min(piece.size, written)
            if size:
                self._memory.note_region_written(piece.region, piece.offset, size)
            if written is not None:
                written -= size

    def __enter__(self) -> list[memoryview]:
        return self.views

    def __exit__(self, *_: object) -> None:
        self.end()


class GuestMemory:
    """All RAM and ROM of one guest. Any thread.

    Regions come and go by the engine (`accel.Vm.set_memory_slot`), which calls `add` and `remove`
    here; *address* is that of the `GUEST_MEMORY` structure, for generated code.
    """

    def __init__(self) -> None:
        self._structure = ctypes.create_string_buffer(GUEST_MEMORY.size)
        self.address = ctypes.addressof(self._structure)
        """Host address of the `GUEST_MEMORY` structure; valid as long as this object exists."""
        self.notes: PageNotes = PythonNotes()
        """How flags of pages are changed; native code that does so too puts its own here."""
        self.holds_code = False
        """Whether pages may hold translated code, so that every write has to be noted."""
        self.tracker: WriteTracker | None = None
        """What the engine does for dirty logs."""
        self._logs: list[DirtyLog] = []
        self._changing = threading.RLock()
        self._taking = threading.Lock()
        # Read without a lock: replaced as a whole, bases beside the regions they belong to.
        self._index: tuple[tuple[int, ...], tuple[RamRegion, ...]] = ((), ())
        # Generated code may still be reading the tables of before, so all are kept: one for each
        # set of regions, as a guest can make the same ones come and go for ever.
        self._tables: dict[tuple[RamRegion, ...], Any] = {}
        self._publish(())

    # Regions -----------------------------------------------------------------------------

    @property
    def regions(self) -> tuple[RamRegion, ...]:
        """All regions in the order of addresses."""
        return self._index[1]

    def region(self, base: int) -> RamRegion:
        """The region at *base*; `MapError` if there is none."""
        for region in self.regions:
            if region.base == base:
                return region
        raise MapError(f"there is no memory slot at {base:#x}")

    def add(self, region: RamRegion) -> None:
        """Map *region*; one at the same base is replaced. `MapError` if it does not fit.

        Translated code is the engine's concern.
        """
        if region.base % PAGE_SIZE or region.size % PAGE_SIZE or region.offset % PAGE_SIZE:
            raise MapError(f"memory slot at {region.base:#x}: must be made of whole pages")
        with self._changing:
            kept = [old for old in self.regions if old.base != region.base]
            for other in kept:
                if region.base < other.end and other.base < region.end:
                    raise MapError(f"RAM at {region.base:#x} overlaps RAM at {other.base:#x}")
            if len(kept) == SLOT_LIMIT:
                raise MapError(f"more than {SLOT_LIMIT} memory slots: merge some regions")
            self._collect(old for old in self.regions if old.base == region.base)
            self._publish((*kept, region))

    def remove(self, base: int) -> None:
        """Unmap the region at *base*, if there is one.

        Loans of it go on to be valid; its `Ram` stays open until all devices are at rest.
        """
        with self._changing:
            self._collect(old for old in self.regions if old.base == base)
            self._publish(tuple(old for old in self.regions if old.base != base))

    def _collect(self, regions: Iterable[RamRegion]) -> None:
        """Bring what the engine knows to be written into the flags of the pages."""
        if not self._logs or self.tracker is None:
            return
        for region in regions:
            known = self.tracker.collect(region)
            if known is not None:
                self.notes.mark_dirty(region, known)

    def _publish(self, regions: Sequence[RamRegion]) -> None:
        ordered = tuple(sorted(regions, key=lambda one: one.base))
        memory = self._tables.get(ordered)
        if memory is None:
            first = SLOT_TABLE.offset("slots")
            memory = ctypes.create_string_buffer(first + len(ordered) * SLOT.size)
            self._tables[ordered] = memory
            for number, region in enumerate(sorted(ordered, key=lambda one: -one.size)):
                slot: Any = SLOT.over(memory, first + number * SLOT.size)
                slot.base, slot.size, slot.host = region.base, region.size, region.host_address
                slot.pages = region.flags_address
                slot.flags = SLOT_READONLY if region.readonly else 0
            ctypes.c_uint64.from_buffer(memory, SLOT_TABLE.offset("count")).value = len(ordered)
        self._index = tuple(region.base for region in ordered), ordered
        GUEST_MEMORY.at(self.address).slots = ctypes.addressof(memory)

    # The door ----------------------------------------------------------------------------

    def _pieces(self, address: int, size: int, *, writing: bool) -> list[_Piece] | None:
        """What *size* bytes at *address* consist of; None if not all of it is RAM."""
        bases, regions = self._index
        pieces = []
        index = bisect_right(bases, address) - 1
        while size > 0:
            if not 0 <= index < len(regions):
                return None
            region = regions[index]
            offset = address - region.base
            if not 0 <= offset < region.size or (writing and region.readonly):
                return None
            part = min(size, region.size - offset)
            pieces.append(_Piece(region, offset, part))
            address, size, index = address + part, size - part, index + 1
        return pieces

    def read(self, address: int, size: int) -> bytes | None:
        """Copy *size* bytes at *address*; None if not all of it is RAM or ROM."""
        pieces = self._pieces(address, size, writing=False)
        if pieces is None:
            return None
        if len(pieces) == 1:
            return bytes(pieces[0].view)
        return b"".join(piece.view for piece in pieces)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> bool:
        """Write *data* at *address*; False (and nothing written) if not all of it is RAM."""
        source = memoryview(data).cast("B")
        return self._write(self._pieces(address, len(source), writing=True), source)

    def load(self, address: int, data: bytes | bytearray | memoryview) -> bool:
        """As `write`, into ROM as well: what a machine begins with."""
        source = memoryview(data).cast("B")
        return self._write(self._pieces(address, len(source), writing=False), source)

    def _write(self, pieces: list[_Piece] | None, source: memoryview) -> bool:
        if pieces is None:
            return False
        done = 0
        for piece in pieces:
            piece.view[:] = source[done : done + piece.size]
            done += piece.size
            # Not before the bytes are there: who is told may look at once.
            self.note_region_written(piece.region, piece.offset, piece.size)
        return True

    def lend(self, address: int, size: int) -> list[memoryview] | None:
        """*size* bytes at *address* for reading, without a copy; None if not all of it is RAM."""
        pieces = self._pieces(address, size, writing=False)
        return None if pieces is None else [piece.view.toreadonly() for piece in pieces]

    def lend_for_writing(self, address: int, size: int) -> Loan | None:
        """*size* bytes at *address* to be written; None if not all of it is RAM."""
        pieces = self._pieces(address, size, writing=True)
        return None if pieces is None else Loan(self, pieces)

    def discard(self, address: int, size: int) -> bool:
        """Give *size* bytes at *address*, whole pages, back to the host: they are zero then.

        False (and nothing done) if not all of it is RAM.
        """
        pieces = self._pieces(address, size, writing=True)
        if pieces is None:
            return False
        for piece in pieces:
            piece.region.ram.discard(piece.region.offset + piece.offset, piece.size)
            self.note_region_written(piece.region, piece.offset, piece.size)
        return True

    def note_written(self, address: int, size: int) -> None:
        """Note that *size* bytes at *address* have been written by their host addresses.

        For whoever had those from the slot table. What is no RAM by now is passed over.
        """
        end = address + size
        for region in self.regions:
            start, stop = max(address, region.base), min(end, region.end)
            if start < stop:
                self.note_region_written(region, start - region.base, stop - start)

    def note_region_written(self, region: RamRegion, offset: int, size: int) -> None:
        """The same for *size* bytes from *offset* of *region*."""
        if self.holds_code or self._logs:
            self.notes.note_written(region, offset, size)

    # Dirty logs --------------------------------------------------------------------------

    @property
    def is_logging(self) -> bool:
        """Whether a dirty log is open."""
        return bool(self._logs)

    def open_dirty_log(self) -> DirtyLog:
        """Note from now on which pages are written; `MapError` if too many logs are open."""
        with self._changing:
            free = [bit for bit in DIRTY_BITS if bit not in {log.bit for log in self._logs}]
            if not free:
                raise MapError(
                    f"more than {len(DIRTY_BITS)} dirty logs of one guest: close one first"
                )
            log = DirtyLog(self, free[0])
            self._logs.append(log)
            if len(self._logs) == 1 and self.tracker is not None:
                for region in self.regions:
                    self.tracker.begin(region)
            for region in self.regions:
                log.take(region.base)
            return log

    def close_dirty_log(self, log: DirtyLog) -> None:
        """See `DirtyLog.close`."""
        with self._changing:
            if log not in self._logs:
                return
            self._logs.remove(log)
            log.bit = 0
            if not self._logs and self.tracker is not None:
                for region in self.regions:
                    self.tracker.end(region)

    def take_dirty(self, log: DirtyLog, base: int) -> bytes:
        """See `DirtyLog.take`."""
        with self._taking:
            region = self.region(base)
            if not log.bit:
                raise MapError("this dirty log is closed: open another one")
            self._collect((region,))
            bits = self.notes.take_dirty(region, log.bit)
            if self.tracker is not None:
                self.tracker.watch()
            return bits
