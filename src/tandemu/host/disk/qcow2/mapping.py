"""From guest offsets to clusters: the L1 table, the L2 tables in use, and what an entry means.

Source: the qcow2 specification, sections "Cluster mapping" and "Extended L2 Entries". Tables are
kept in memory, the least recently used ones go; changed ones stay until they are written. The
caller holds the image's lock.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator

from tandemu.host.disk.qcow2.layout import (
    ALL_SUBCLUSTERS,
    COPIED,
    L1_RESERVED,
    L2_RESERVED,
    OFFSET_MASK,
    PACKED,
    ZERO,
    Header,
    broken,
)
from tandemu.host.disk.qcow2.refcounts import Refcounts, unpack_words
from tandemu.host.disk.storage import Storage, read_at

IS_ABSENT, IS_ZERO, IS_DATA, IS_PACKED, IS_MIXED = range(5)
"""What a cluster is: nothing, zeros, data as it is, compressed data, subclusters that differ."""

Run = tuple[int, int, int, int]
"""(kind, guest offset, length, host offset, or for a packed one its entry)."""

CACHE_BYTES = 32 << 20
SUBCLUSTERS = 32


class Table:
    """One L2 table: *entries* as words, two for each cluster if subclusters are told of.

    *low* and *high* bound the words that were changed since it was written; *fresh*: the L1
    entry on disk does not lead to it yet.
    """

    __slots__ = ("entries", "fresh", "high", "low", "offset", "writing")

    def __init__(self, offset: int, entries: array[int], *, fresh: bool = False) -> None:
        self.offset = offset
        self.entries = entries
        self.fresh = fresh
        self.writing = False
        self.low, self.high = (0, len(entries)) if fresh else (len(entries), 0)

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to write."""
        return self.low < self.high

    def touch(self, low: int, high: int) -> None:
        """The words from *low* to before *high* have changed."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def clean(self) -> None:
        """What changed is written."""
        self.low, self.high = len(self.entries), 0


class Mapping:
    """The active L1 table of an image and the L2 tables below it."""

    def __init__(
        self, storage: Storage, header: Header, refcounts: Refcounts | None, reserved: set[int]
    ) -> None:
        self._storage = storage
        self._path = storage.path
        self._refcounts = refcounts
        self._reserved = reserved
        self.cluster_bits = header.cluster_bits
        self.cluster_bytes = header.cluster_bytes
        self.extended = header.extended
        self.words = 2 if header.extended else 1
        self.coverage_bits = header.cluster_bits + (header.l2_entries.bit_length() - 1)
        self._index_mask = header.l2_entries - 1
        self._unplain = L2_RESERVED | PACKED | ZERO | (header.cluster_bytes - 512)
        self.host_end = -(-storage.size() >> header.cluster_bits) << header.cluster_bits
        self.l1 = unpack_words(read_at(storage, header.l1_offset, header.l1_size * 8))
        self.changed_l1: set[int] = set()
        self.tables: OrderedDict[int, Table] = OrderedDict()
        self._capacity = max(8, CACHE_BYTES >> header.cluster_bits)
        if refcounts is not None:
            for index, entry in enumerate(self.l1):
                if entry:
                    reserved.add(self._table_offset(index) >> self.cluster_bits)

    def _table_offset(self, index: int) -> int:
        entry = self.l1[index]
        offset = entry & OFFSET_MASK
        if entry & L1_RESERVED or offset & (self.cluster_bytes - 1) or not offset:
            raise broken(self._path, f"L1 entry {index} is {entry:#x}")
        if offset >= self.end():
            raise broken(self._path, f"L2 table {index} lies beyond the end of the file")
        return offset

    def end(self) -> int:
        """The host offset behind everything there is."""
        if self._refcounts is None:
            return self.host_end
        return max(self.host_end, self._refcounts.end << self.cluster_bits)

    def table(self, index: int) -> Table | None:
        """L2 table *index*, or None if there is none."""
        table = self.tables.get(index)
        if table is not None:
            self.tables.move_to_end(index)
            return table
        if index >= len(self.l1) or not self.l1[index]:
            return None
        offset = self._table_offset(index)
        table = Table(offset, unpack_words(read_at(self._storage, offset, self.cluster_bytes)))
        self._keep(index, table)
        return table

    def _keep(self, index: int, table: Table) -> None:
        if len(self.tables) >= self._capacity:
            for old, one in self.tables.items():
                if not (one.is_dirty or one.writing or one.fresh):
                    del self.tables[old]
                    break
        self.tables[index] = table

    def dirty_tables(self) -> int:
        """How many tables wait to be written."""
        return sum(one.is_dirty for one in self.tables.values())

    def is_crowded(self) -> bool:
        """Whether so many tables are changed that they should be written."""
        return len(self.tables) >= self._capacity and self.dirty_tables() * 2 >= self._capacity

    def table_for_writing(self, index: int) -> tuple[Table, int]:
        """L2 table *index*, made if there is none, copied if a snapshot shares it.

        With it the cluster that lost a reference by that, or 0.
        """
        refcounts = self._refcounts
        assert refcounts is not None
        table = self.table(index)
        entry = self.l1[index]
        if table is not None and entry & COPIED:
            return table, 0
        cluster, _ = refcounts.allocate(1)
        offset = cluster << self.cluster_bits
        if table is None:
            entries, lost = array("Q", bytes(self.cluster_bytes)), 0
        else:
            entries, lost = table.entries[:], table.offset >> self.cluster_bits
            self._reserved.discard(lost)
        self.tables.pop(index, None)
        table = Table(offset, entries, fresh=True)
        self._keep(index, table)
        self._reserved.add(cluster)
        self.l1[index] = offset | COPIED
        self.changed_l1.add(index)
        return table, lost

    def kind_of(self, entry: int, bitmap: int) -> int:
        """What the cluster is that the words *entry* and *bitmap* of an L2 table tell of."""
        if entry & PACKED:
            if entry & COPIED:
                raise broken(self._path, f"L2 entry {entry:#x} is packed and copied")
            return IS_PACKED
        offset = entry & OFFSET_MASK
        if entry & L2_RESERVED or offset & (self.cluster_bytes - 1):
            raise broken(self._path, f"an L2 entry is {entry:#x}")
        if not self.extended:
            if entry & ZERO:
                return IS_ZERO
            return IS_DATA if offset or entry & COPIED else IS_ABSENT
        allocated, zero = bitmap & ALL_SUBCLUSTERS, bitmap >> 32
        if entry & ZERO or allocated & zero or (allocated and not (offset or entry & COPIED)):
            raise broken(self._path, f"an L2 entry is {entry:#x} with subclusters {bitmap:#x}")
        if allocated == ALL_SUBCLUSTERS:
            return IS_DATA
        if zero == ALL_SUBCLUSTERS:
            return IS_ZERO
        return IS_MIXED if bitmap else IS_ABSENT

    def locate(self, offset: int) -> tuple[int, int]:
        """The L1 index of a guest offset, and the index of its cluster in the L2 table."""
        return offset >> self.coverage_bits, (offset >> self.cluster_bits) & self._index_mask

    def plain_data(self, offset: int, length: int, *, own: bool) -> int:
        """The host offset of a range within one cluster of plain data, or -1: the usual case.

        *own*: nothing else may refer to the cluster.
        """
        index = offset >> self.coverage_bits
        table = self.tables.get(index)
        within = offset & (self.cluster_bytes - 1)
        if table is None or self.extended or within + length > self.cluster_bytes:
            return -1
        entry = table.entries[(offset >> self.cluster_bits) & self._index_mask]
        host = entry & OFFSET_MASK
        if entry & self._unplain or not host or (own and not entry & self.l1[index] & COPIED):
            return -1
        self.tables.move_to_end(index)
        return host + within

    def runs(self, offset: int, length: int) -> list[Run]:
        """What stands where in a range of the guest's, as few runs as there can be."""
        found: list[Run] = []
        end = offset + length
        while offset < end:
            index, at = self.locate(offset)
            stop = min(end, (index + 1) << self.coverage_bits)
            table = self.table(index)
            if table is None:
                _add(found, (IS_ABSENT, offset, stop - offset, 0))
            else:
                for run in self._runs_of(table, at, offset, stop):
                    _add(found, run)
            offset = stop
        return found

    def _runs_of(self, table: Table, at: int, offset: int, stop: int) -> Iterator[Run]:
        cluster_bytes, words, entries = self.cluster_bytes, self.words, table.entries
        extended = self.extended
        while offset < stop:
            within = offset & (cluster_bytes - 1)
            part = min(cluster_bytes - within, stop - offset)
            entry = entries[at * words]
            bitmap = entries[at * words + 1] if extended else 0
            if entry or bitmap:
                kind = self.kind_of(entry, bitmap)
                if kind == IS_MIXED:
                    yield from self._subcluster_runs(entry & OFFSET_MASK, bitmap, offset, part)
                else:
                    host = entry if kind == IS_PACKED else (entry & OFFSET_MASK) + within
                    yield kind, offset, part, host
            else:
                yield IS_ABSENT, offset, part, 0
            offset += part
            at += 1

    def _subcluster_runs(self, host: int, bitmap: int, offset: int, length: int) -> Iterator[Run]:
        size = self.cluster_bytes // SUBCLUSTERS
        end = offset + length
        while offset < end:
            within = offset & (self.cluster_bytes - 1)
            bit = within // size
            part = min(size - within % size, end - offset)
            if bitmap >> bit & 1:
                yield IS_DATA, offset, part, host + within
            elif bitmap >> (bit + 32) & 1:
                yield IS_ZERO, offset, part, 0
            else:
                yield IS_ABSENT, offset, part, 0
            offset += part


def _add(found: list[Run], run: Run) -> None:
    """Append *run*, or make the last one longer by it."""
    if found:
        kind, offset, length, host = found[-1]
        if kind == run[0] and kind != IS_PACKED and (kind != IS_DATA or host + length == run[3]):
            found[-1] = (kind, offset, length + run[2], host)
            return
    found.append(run)
