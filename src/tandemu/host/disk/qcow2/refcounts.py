"""Reference counts of a qcow2 file's clusters, and the allocation that stands on them.

Source: the qcow2 specification, section "Host cluster management". Counts are changed in memory
and written by `take_changes` / `finish`, in the order that keeps the file consistent whenever the
power goes: see `tandemu.host.disk.qcow2.image`.
"""

from __future__ import annotations

import errno
import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.qcow2.layout import MAX_REFCOUNT_TABLE_BYTES, OFFSET_MASK, Header, broken
from tandemu.host.disk.storage import Storage, read_at

_TYPECODES = {0: "B", 1: "B", 2: "B", 3: "B", 4: "H", 5: "I", 6: "Q"}
_SWAP = sys.byteorder == "little"


def unpack_words(data: bytes, typecode: str = "Q") -> array[int]:
    """Big-endian numbers as an array in the host's order."""
    words = array(typecode, data)
    if _SWAP:
        words.byteswap()
    return words


def pack_words(words: array[int]) -> bytes:
    """The array as big-endian numbers."""
    if not _SWAP:
        return words.tobytes()
    copy = words[:]
    copy.byteswap()
    return copy.tobytes()


def unpack_counts(data: bytes, order: int) -> array[int]:
    """A refcount block: counts of 2^*order* bits; those below a byte begin at its low bits."""
    if order >= 3:
        return unpack_words(data, _TYPECODES[order])
    bits = 1 << order
    per_byte, mask = 8 >> order, (1 << bits) - 1
    split = [bytes((one >> (bits * i)) & mask for i in range(per_byte)) for one in range(256)]
    return array("B", b"".join(map(split.__getitem__, data)))


def pack_counts(counts: array[int], order: int) -> bytes:
    """The reverse of `unpack_counts`."""
    if order >= 3:
        return pack_words(counts)
    bits = 1 << order
    data = bytearray(len(counts) >> (3 - order))
    for shift in range(8 >> order):
        for i, count in enumerate(counts[shift :: 8 >> order]):
            data[i] |= count << (bits * shift)
    return bytes(data)


class Changes(NamedTuple):
    """What of the counts is to be written: *blocks* first, then what makes them known."""

    blocks: list[tuple[int, bytes]]
    entries: list[tuple[int, bytes]]
    moved: bool
    indices: list[int]


class Refcounts:
    """The counts, in memory as far as they were looked at.

    *reserved* holds the clusters of metadata: allocation that comes upon one has found a broken
    image. *end* is the first cluster of which nobody has ever written.
    """

    def __init__(self, storage: Storage, header: Header, reserved: set[int]) -> None:
        self._storage = storage
        self._bits = header.cluster_bits
        self._order = header.refcount_order
        self._per_block_bits = header.cluster_bits + 3 - header.refcount_order
        self._per_block = 1 << self._per_block_bits
        self.most = (1 << (1 << header.refcount_order)) - 1
        self._reserved = reserved
        self.offset = header.refcount_offset
        self.clusters = header.refcount_clusters
        self._table = unpack_words(read_at(storage, self.offset, self.clusters << self._bits))
        self._blocks: dict[int, array[int]] = {}
        self._changed: set[int] = set()
        self._new_entries: set[int] = set()
        self._moved_from: list[tuple[int, int]] = []
        self._hint = 0
        self.end = -(-storage.size() >> self._bits)
        for index, entry in enumerate(self._table):
            if entry:
                self._reserved.add(self._block_offset(index) >> self._bits)
        self._reserve(self.offset, self.clusters)

    def _reserve(self, offset: int, clusters: int) -> None:
        first = offset >> self._bits
        self._reserved.update(range(first, first + clusters))

    def _block_offset(self, index: int) -> int:
        entry = self._table[index]
        if entry & ((1 << self._bits) - 1) or entry & ~OFFSET_MASK:
            raise broken(self._storage.path, f"refcount block {index} stands at {entry:#x}")
        return entry

    def _block(self, index: int) -> array[int] | None:
        block = self._blocks.get(index)
        if block is None:
            if index >= len(self._table) or not self._table[index]:
                return None
            offset = self._block_offset(index)
            if offset >> self._bits >= self.end:
                raise broken(self._storage.path, f"refcount block {index} lies beyond the file")
            data = read_at(self._storage, offset, 1 << self._bits)
            block = self._blocks[index] = unpack_counts(data, self._order)
        return block

    def get(self, cluster: int) -> int:
        """How many references *cluster* has."""
        block = self._block(cluster >> self._per_block_bits)
        return 0 if block is None else block[cluster & (self._per_block - 1)]

    def add(self, cluster: int, change: int) -> int:
        """Change the count of *cluster*; return the new one. `DiskError` if that cannot be."""
        index = cluster >> self._per_block_bits
        block = self._block(index)
        at = cluster & (self._per_block - 1)
        count = (block[at] if block is not None else 0) + change
        if block is None or count < 0:
            raise broken(self._storage.path, f"cluster {cluster:#x} has fewer references than uses")
        if count > self.most:
            raise DiskError(
                f"{self._storage.path}: cluster {cluster:#x} would have more than {self.most} "
                "references, which its reference counts are too narrow for",
                errno.EOVERFLOW,
            )
        block[at] = count
        self._changed.add(index)
        if not count and cluster < self._hint:
            self._hint = cluster
        return count

    def allocate(self, count: int) -> tuple[int, int]:
        """Up to *count* clusters side by side, each with one reference: the first, how many."""
        while True:
            first, found = self._find(count)
            index = first >> self._per_block_bits
            if self._block(index) is None:
                self._make_block(index, first)
                continue
            break
        block = self._block(index)
        assert block is not None
        at = first & (self._per_block - 1)
        for cluster in range(first, first + found):
            if cluster in self._reserved:
                raise broken(self._storage.path, f"cluster {cluster:#x} is free but holds a table")
        block[at : at + found] = array(block.typecode, [1] * found)
        self._changed.add(index)
        self._hint = first + found
        self.end = max(self.end, first + found)
        return first, found

    def _find(self, count: int) -> tuple[int, int]:
        """The first free clusters from the hint on, all of one refcount block."""
        cluster = self._hint
        while True:
            index, at = cluster >> self._per_block_bits, cluster & (self._per_block - 1)
            block = self._block(index)
            if block is None:
                return cluster, min(count, self._per_block - at)
            try:
                at = block.index(0, at)
            except ValueError:
                cluster = (index + 1) << self._per_block_bits
                continue
            found = 1
            most = min(count, self._per_block - at)
            while found < most and not block[at + found]:
                found += 1
            return (index << self._per_block_bits) + at, found

    def _make_block(self, index: int, first: int) -> None:
        """Make refcount block *index*, at *first*, a free cluster among those it counts."""
        if index >= len(self._table):
            self._grow_table(index)
            return
        if first in self._reserved:
            raise broken(self._storage.path, f"cluster {first:#x} is free but holds a table")
        self._blocks[index] = block = array(_TYPECODES[self._order], bytes(self._block_bytes()))
        self._table[index] = first << self._bits
        block[first & (self._per_block - 1)] = 1
        self._changed.add(index)
        self._new_entries.add(index)
        self._reserved.add(first)
        self.end = max(self.end, first + 1)

    def _block_bytes(self) -> int:
        return self._per_block * array(_TYPECODES[self._order]).itemsize

    def _grow_table(self, index: int) -> None:
        """Give the table room for block *index*: a larger one, behind all that is counted now."""
        wanted = max(index + 1, len(self._table) * 3 // 2)
        clusters = -(-wanted * 8 >> self._bits)
        if clusters << self._bits > MAX_REFCOUNT_TABLE_BYTES:
            raise DiskError(
                f"{self._storage.path} has reached the largest size of its format", errno.EFBIG
            )
        first = len(self._table) << self._per_block_bits
        self._moved_from.append((self.offset >> self._bits, self.clusters))
        self._table.extend([0] * ((clusters << self._bits - 3) - len(self._table)))
        # Blocks stand before the table in what they count.
        blocks = 1
        while blocks + clusters > blocks << self._per_block_bits:
            blocks += 1
        base = first >> self._per_block_bits
        for number in range(blocks):
            self._blocks[base + number] = array(_TYPECODES[self._order], bytes(self._block_bytes()))
            self._table[base + number] = (first + number) << self._bits
            self._changed.add(base + number)
        self.offset, self.clusters = (first + blocks) << self._bits, clusters
        self._reserve(first << self._bits, blocks + clusters)
        self.end = max(self.end, first + blocks + clusters)
        for cluster in range(first, first + blocks + clusters):
            self.add(cluster, 1)

    def take_changes(self) -> Changes:
        """What is to be written now, as bytes at offsets; it counts as written from here on."""
        indices = sorted(self._changed)
        blocks = [
            (self._table[index], pack_counts(self._blocks[index], self._order)) for index in indices
        ]
        moved = bool(self._moved_from)
        if moved:
            blocks.append((self.offset, pack_words(self._table)))
            entries = []
        else:
            entries = [
                (self.offset + index * 8, self._table[index].to_bytes(8, "big"))
                for index in sorted(self._new_entries)
            ]
        self._changed.clear()
        self._new_entries.clear()
        return Changes(blocks, entries, moved, indices)

    def put_back(self, changes: Changes) -> None:
        """Writing *changes* failed: they are due again."""
        self._changed.update(changes.indices)
        if not changes.moved:
            self._new_entries.update((at - self.offset) // 8 for at, _ in changes.entries)

    def take_old_tables(self) -> list[tuple[int, int]]:
        """(first cluster, how many) of tables that the header no longer names."""
        old, self._moved_from = self._moved_from, []
        for first, count in old:
            self._reserved.difference_update(range(first, first + count))
        return old

    def stored_blocks(self) -> Iterator[tuple[int, array[int]]]:
        """(number of its first cluster, counts) of every block there is."""
        for index in range(len(self._table)):
            if self._table[index]:
                block = self._block(index)
                assert block is not None
                yield index << self._per_block_bits, block

    def table_clusters(self) -> Iterator[int]:
        """The clusters that hold the table and its blocks."""
        first = self.offset >> self._bits
        yield from range(first, first + self.clusters)
        for index in range(len(self._table)):
            if self._table[index]:
                yield self._block_offset(index) >> self._bits
