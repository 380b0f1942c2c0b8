"""Changing many tables of a qcow2 file at once: snapshots and repair.

All that changes is written anew behind the end of the file: the L1 table, the L2 tables whose
entries change, the snapshot table, and all reference counts, made from what is referred to. Then
one write of the header's first sector switches over. Before it the file is the old one, after
it the new one; there is nothing between.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence

from tandemu.bits import replace
from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.qcow2.bitmaps import Bitmaps
from tandemu.host.disk.qcow2.layout import (
    COPIED,
    CORRUPT,
    DIRTY,
    MAX_REFCOUNT_TABLE_BYTES,
    OFFSET_MASK,
    PACKED,
    Header,
    broken,
)
from tandemu.host.disk.qcow2.refcounts import pack_counts, pack_words
from tandemu.host.disk.qcow2.references import References, Walk, clusters_in, read_l1
from tandemu.host.disk.qcow2.snapshots import Snapshot, pack_table
from tandemu.host.disk.storage import Storage, write_at

_TYPECODES = {order: "B" for order in range(4)} | {4: "H", 5: "I", 6: "Q"}


class Restatement:
    """Writes a new state of *storage*, which has *header* and *bitmaps*.

    *l1*: the active L1 table to be; *snapshots* those to be. Their L1 tables stand where they
    say, or are given in *new_l1*: snapshot's index to entries. *strict*: what is broken is
    an error, and not left out.
    """

    def __init__(
        self,
        storage: Storage,
        header: Header,
        bitmaps: Bitmaps,
        l1: array[int],
        snapshots: Sequence[Snapshot],
        new_l1: dict[int, array[int]] | None = None,
        *,
        external: bool = False,
        strict: bool = True,
    ) -> None:
        self._storage = storage
        self._header = header
        self._bitmaps = bitmaps
        self._l1 = l1[:]
        self._snapshots = list(snapshots)
        self._new_l1 = new_l1 or {}
        self._external = external
        self._strict = strict
        self._bits = header.cluster_bits
        self._next = clusters_in(storage, header)
        # Whoever was killed may have left counts for clusters beyond the end: no matter, all
        # counts are new.
        self._writes: list[tuple[int, bytes]] = []
        self.problems: list[str] = []

    def _place(self, length: int) -> int:
        """The host offset for *length* bytes behind all there is."""
        offset = self._next << self._bits
        self._next += -(-length >> self._bits)
        return offset

    def _write(self, offset: int, data: bytes) -> None:
        self._writes.append((offset, data))

    def _put(self, data: bytes) -> int:
        """Write *data* behind all there is; where that is."""
        offset = self._place(len(data))
        # Whole clusters, so that what follows in the file is there.
        self._write(offset, data + bytes(-len(data) % (1 << self._bits)))
        return offset

    def run(self, **changes: object) -> Header:
        """Write it; return the header, which has *changes* besides."""
        header, bits = self._header, self._bits
        counted = self._count()
        self.problems = counted.problems
        if self.problems and self._strict:
            raise broken(self._storage.path, self.problems[0])
        counts = counted.counts
        self._restate_tables(counts)
        l1_offset = self._put(pack_words(self._l1)) if self._l1 else header.cluster_bytes
        for index, table in self._new_l1.items():
            self._snapshots[index] = replace(
                self._snapshots[index],
                l1_offset=self._put(pack_words(table)) if table else 0,
                l1_size=len(table),
            )
        table_offset = self._put(pack_table(self._snapshots)) if self._snapshots else 0
        first_new = len(counts)
        counts.extend([1] * (self._next - first_new))
        refcount_offset, refcount_clusters = self._put_counts(counts)
        for offset, data in self._writes:
            write_at(self._storage, offset, data)
        if self._storage.is_regular:
            end = self._next << bits
            if self._storage.size() < end:
                self._storage.truncate(end)
        self._storage.flush()
        new = replace(
            header,
            l1_offset=l1_offset,
            l1_size=len(self._l1),
            refcount_offset=refcount_offset,
            refcount_clusters=refcount_clusters,
            snapshot_count=len(self._snapshots),
            snapshots_offset=table_offset,
            incompatible=header.incompatible & ~(DIRTY | CORRUPT),
            **changes,
        )
        write_at(self._storage, 0, new.pack_fields())
        self._storage.flush()
        return new

    def _count(self) -> References:
        """What will be referred to of what stands in the file now."""
        references = References(array("I", bytes(4 * self._next)))
        walk = Walk(self._storage, self._header, references, external=self._external)
        references.add(0, "the header")
        walk.bitmaps(self._bitmaps)
        walk.tables(self._l1, "the active tables", active=True)
        for index, snapshot in enumerate(self._snapshots):
            l1 = self._new_l1.get(index)
            if l1 is None:
                references.add_range(
                    snapshot.l1_offset, snapshot.l1_size * 8, self._bits, "a snapshot's L1 table"
                )
                l1 = read_l1(self._storage, snapshot.l1_offset, snapshot.l1_size)
            walk.tables(l1, f"snapshot {snapshot.name!r}")
        return references

    def _restate_tables(self, counts: array[int]) -> None:
        """Give the active tables flags that fit *counts*; those that change get a new place."""
        step = 2 if self._header.extended else 1
        walk = Walk(self._storage, self._header, References(counts), external=self._external)
        readable = set()
        for index, offset, entries in walk.l2_tables(self._l1, "the active tables"):
            readable.add(index)
            changed = False
            for at in range(0, len(entries), step):
                entry = entries[at]
                host = entry & OFFSET_MASK
                if not entry or entry & PACKED or not (host or self._external):
                    continue
                cluster = host >> self._bits
                alone = self._external or (cluster < len(counts) and counts[cluster] == 1)
                if alone != bool(entry & COPIED):
                    entries[at] = entry ^ COPIED
                    changed = True
            if changed:
                counts[offset >> self._bits] -= 1
                self._l1[index] = self._put(pack_words(entries)) | COPIED
            else:
                alone = counts[offset >> self._bits] == 1
                self._l1[index] = offset | (COPIED if alone else 0)
        for index, entry in enumerate(self._l1):
            if entry and index not in readable:
                self._l1[index] = 0  # what cannot be read is given up: this is a repair

    def _put_counts(self, counts: array[int]) -> tuple[int, int]:
        """Write *counts*, and those of what this takes; (offset, clusters) of the table."""
        order, size = self._header.refcount_order, 1 << self._bits
        per_block = size * 8 >> order
        most = (1 << (1 << order)) - 1
        worst = max(counts, default=0)
        if worst > most:
            raise DiskError(
                f"{self._storage.path}: a cluster would have {worst} references, but its counts "
                f"hold {most} at most: make an image with more refcount bits",
                errno.EOVERFLOW,
            )
        used = [
            index
            for index in range(-(-len(counts) // per_block))
            if any(counts[index * per_block : (index + 1) * per_block])
        ]
        base = self._next
        # The counts' own clusters come last, and are counted as well: until the number is stable.
        blocks, table = len(used), 1
        while True:
            end = base + blocks + table
            indices = sorted({*used, *range(base // per_block, -(-end // per_block))})
            wanted = -(-(indices[-1] + 1) * 8 // size)
            if len(indices) == blocks and wanted == table:
                break
            blocks, table = len(indices), wanted
        if table * size > MAX_REFCOUNT_TABLE_BYTES:
            raise DiskError(f"{self._storage.path} is too large for its format", errno.EFBIG)
        counts.extend([1] * (blocks + table))
        self._next += blocks + table
        entries = array("Q", bytes(table * size))
        for number, index in enumerate(indices):
            offset = (base + number) << self._bits
            entries[index] = offset
            part = counts[index * per_block : (index + 1) * per_block]
            block = array(_TYPECODES[order], part.tolist())
            block.extend([0] * (per_block - len(block)))
            self._write(offset, pack_counts(block, order))
        offset = (base + blocks) << self._bits
        self._write(offset, pack_words(entries))
        return offset, table
