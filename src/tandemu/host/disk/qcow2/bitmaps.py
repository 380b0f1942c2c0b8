"""Persistent dirty bitmaps: kept true while the image is written to, so that backups go on.

Source: the qcow2 specification, sections "Bitmaps extension" and "Bitmaps". A bitmap that is
enabled is marked as in use in the file while Tandemu has a newer one in memory; should Tandemu
be killed, it stays so, and readers know not to trust it. Others are left as they are.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterator

from tandemu.bits import Mutable
from tandemu.host.disk.qcow2.layout import (
    BITMAPS_VALID,
    EXT_BITMAPS,
    OFFSET_MASK,
    Header,
    broken,
)
from tandemu.host.disk.qcow2.refcounts import Refcounts, pack_words, unpack_words
from tandemu.host.disk.storage import Storage, read_at, write_at

_EXTENSION = struct.Struct(">IIQQ")
_ENTRY = struct.Struct(">QIIBBHI")
_IN_USE, _AUTO = 1, 2
_FLAGS_AT = 12
_ALL_ONES = 1
_MOST_BITMAPS = 65535
_MOST_DIRECTORY_BYTES = 64 << 20
_MOST_BYTES = 64 << 20
"""Of one bitmap in memory: 32 TiB at the usual granularity."""


class Bitmap(Mutable):
    """One bitmap: its entry in the directory, and while it is kept its *bits*."""

    name: str
    entry_at: int
    table_offset: int
    table_size: int
    flags: int
    granularity_bits: int
    bits: bytearray | None = None
    table: array[int] = array("Q")  # replaced, never changed, while there are no bits


class Bitmaps:
    """The bitmaps of one image; none if it has none, or none that can be trusted."""

    def __init__(self, header: Header, path: str, found: list[Bitmap], directory: range) -> None:
        self._path = path
        self._bits = header.cluster_bits
        self._size = header.size
        self.found = found
        self.directory = directory
        self._kept: list[Bitmap] = []
        self._lock = threading.Lock()
        self._unneeded: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.found)

    @staticmethod
    def load(storage: Storage, header: Header) -> Bitmaps:
        """Read the directory; `DiskError` if it is broken."""
        data = header.extension(EXT_BITMAPS)
        if data is None or not header.autoclear & BITMAPS_VALID:
            return Bitmaps(header, storage.path, [], range(0))
        path = storage.path
        if len(data) != _EXTENSION.size:
            raise broken(path, f"a bitmaps extension of {len(data)} bytes")
        count, _, length, offset = _EXTENSION.unpack(data)
        end = offset + length
        if count > _MOST_BITMAPS or length > _MOST_DIRECTORY_BYTES or end > storage.size():
            raise broken(path, f"a directory of {count} bitmaps in {length} bytes at {offset:#x}")
        directory = read_at(storage, offset, length)
        found, at = [], 0
        for _ in range(count):
            if at + _ENTRY.size > length:
                raise broken(path, "the directory of bitmaps ends too early")
            table, size, flags, kind, granularity, name_bytes, extra = _ENTRY.unpack_from(
                directory, at
            )
            name_at = at + _ENTRY.size + extra
            if kind != 1 or not 9 <= granularity <= 31 or name_at + name_bytes > length:
                raise broken(path, "an entry in the directory of bitmaps makes no sense")
            if table & ((1 << header.cluster_bits) - 1) or table + size * 8 > storage.size():
                raise broken(path, "a bitmap's table stands outside the file")
            name = directory[name_at : name_at + name_bytes].decode("utf-8", "replace")
            found.append(Bitmap(name, offset + at, table, size, flags, granularity))
            at = -(-(name_at + name_bytes) // 8) * 8
        return Bitmaps(header, path, found, range(offset, end))

    def describe(self) -> list[str]:
        """A line for each."""
        lines = []
        for one in self.found:
            state = "enabled" if one.flags & _AUTO else "disabled"
            if one.flags & _IN_USE:
                state = "in use"
            lines.append(f"{one.name} (granularity {1 << one.granularity_bits}, {state})")
        return lines

    def begin_change(self, storage: Storage) -> None:
        """The image is about to be written: take the enabled bitmaps into memory."""
        wanted = [one for one in self.found if one.flags & _AUTO and not one.flags & _IN_USE]
        for one in wanted:
            self._read(storage, one)
        for one in wanted:
            one.flags |= _IN_USE
            write_at(storage, one.entry_at + _FLAGS_AT, struct.pack(">I", one.flags))
        if wanted:
            storage.flush()
        self._kept = wanted

    def _read(self, storage: Storage, one: Bitmap) -> None:
        count = -(-self._size >> one.granularity_bits)
        length = -(-count // 8)
        cluster = 1 << self._bits
        if length > _MOST_BYTES or one.table_size != -(-length // cluster):
            raise broken(self._path, f"bitmap {one.name!r} has a table of {one.table_size} entries")
        one.table = unpack_words(read_at(storage, one.table_offset, one.table_size * 8))
        one.bits = bytearray(length)
        for index, entry in enumerate(one.table):
            begin = index << self._bits
            part = min(cluster, length - begin)
            if entry & OFFSET_MASK:
                data = read_at(storage, entry & OFFSET_MASK, part)
            elif entry & _ALL_ONES:
                data = b"\xff" * part
            else:
                continue
            one.bits[begin : begin + part] = data

    def mark(self, offset: int, length: int) -> None:
        """The guest has changed a range."""
        if not self._kept or length <= 0:
            return
        with self._lock:
            for one in self._kept:
                first = offset >> one.granularity_bits
                last = (offset + length - 1) >> one.granularity_bits
                assert one.bits is not None
                _set_bits(one.bits, first, last + 1)

    def store(self, refcounts: Refcounts, storage: Storage) -> None:
        """Write what is in memory to clusters that nothing on disk trusts yet."""
        cluster = 1 << self._bits
        for one in self._kept:
            assert one.bits is not None
            for index in range(one.table_size):
                data = bytes(one.bits[index << self._bits : (index + 1) << self._bits])
                offset = one.table[index] & OFFSET_MASK
                if not any(data):
                    if offset:
                        self._unneeded.append(offset >> self._bits)
                    one.table[index] = 0
                    continue
                if not offset:
                    offset = refcounts.allocate(1)[0] << self._bits
                    one.table[index] = offset
                write_at(storage, offset, data + bytes(cluster - len(data)))

    def finish(self, storage: Storage, refcounts: Refcounts) -> None:
        """The counts are on disk: the bitmaps in the file are the true ones again."""
        if not self._kept:
            return
        for one in self._kept:
            write_at(storage, one.table_offset, pack_words(one.table))
        storage.flush()
        for one in self._kept:
            one.flags &= ~_IN_USE
            write_at(storage, one.entry_at + _FLAGS_AT, struct.pack(">I", one.flags))
            one.bits = None
        storage.flush()
        for cluster in self._unneeded:
            refcounts.add(cluster, -1)
        self._kept, self._unneeded = [], []

    def clusters(self, storage: Storage) -> Iterator[int]:
        """Every cluster that the bitmaps take."""
        if not self.directory:
            return
        yield from self._touched(self.directory.start, len(self.directory))
        for one in self.found:
            yield from self._touched(one.table_offset, one.table_size * 8)
            for entry in unpack_words(read_at(storage, one.table_offset, one.table_size * 8)):
                if entry & OFFSET_MASK:
                    yield (entry & OFFSET_MASK) >> self._bits

    def _touched(self, offset: int, length: int) -> range:
        if not length:
            return range(0)
        return range(offset >> self._bits, ((offset + length - 1) >> self._bits) + 1)


def _set_bits(bits: bytearray, first: int, end: int) -> None:
    """Set the bits from *first* to before *end*, the lowest of a byte first."""
    while first < end and first % 8:
        bits[first >> 3] |= 1 << (first & 7)
        first += 1
    whole = (end - first) >> 3
    if whole > 0:
        bits[first >> 3 : (first >> 3) + whole] = b"\xff" * whole
        first += whole * 8
    while first < end:
        bits[first >> 3] |= 1 << (first & 7)
        first += 1
