"""Counting what a qcow2 file refers to: the truth that its reference counts are compared with.

Used to check an image, to repair it, and to make the counts anew whenever snapshots change.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.qcow2 import compression
from tandemu.host.disk.qcow2.bitmaps import Bitmaps
from tandemu.host.disk.qcow2.layout import (
    COPIED,
    L1_RESERVED,
    L2_RESERVED,
    OFFSET_MASK,
    PACKED,
    ZERO,
    Header,
)
from tandemu.host.disk.qcow2.refcounts import unpack_words
from tandemu.host.disk.storage import Storage, read_at

_MOST_CLUSTERS = 1 << 28
_MOST_PROBLEMS = 100

Walked = Callable[[int, int], None]
"""Told (bytes of the disk done, bytes in all) now and then."""


class References:
    """How often each cluster is referred to, and what was wrong on the way.

    *data*: clusters of the guest's that the active tables lead to; *packed* of these are
    compressed, *fragmented* do not follow the one before.
    """

    def __init__(self, counts: array[int]) -> None:
        self.counts = counts
        self.problems: list[str] = []
        self.more_problems = 0
        self.data = self.packed = self.fragmented = 0

    def complain(self, text: str) -> None:
        """Note something wrong; of very many only the number."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)
        else:
            self.more_problems += 1

    def add(self, cluster: int, what: str) -> bool:
        """Count a reference to *cluster*; False, with a complaint, if it is outside the file."""
        if cluster >= len(self.counts):
            self.complain(f"{what} lies beyond the end of the file")
            return False
        self.counts[cluster] += 1
        return True

    def add_range(self, offset: int, length: int, bits: int, what: str) -> None:
        """The same for all clusters that *length* bytes at *offset* touch."""
        if length:
            for cluster in range(offset >> bits, ((offset + length - 1) >> bits) + 1):
                if not self.add(cluster, what):
                    break


def clusters_in(storage: Storage, header: Header) -> int:
    """How many clusters the file has; `DiskError` if they are too many to count."""
    count = -(-storage.size() >> header.cluster_bits)
    if count > _MOST_CLUSTERS:
        raise DiskError(f"{storage.path} has {count} clusters: too many to count them")
    return count


def read_l1(storage: Storage, offset: int, size: int) -> array[int]:
    """An L1 table of *size* entries."""
    return unpack_words(read_at(storage, offset, size * 8))


class Walk:
    """Walks the tables of one file, and tells *walked* how far it is."""

    def __init__(
        self,
        storage: Storage,
        header: Header,
        references: References,
        *,
        external: bool,
        walked: Walked = lambda done, total: None,
    ) -> None:
        self._storage = storage
        self._header = header
        self.references = references
        self._external = external
        self._last = -1
        self.walked = walked

    def bitmaps(self, bitmaps: Bitmaps) -> None:
        """Count what the bitmaps take."""
        for cluster in bitmaps.clusters(self._storage):
            self.references.add(cluster, "a bitmap")

    def tables(self, l1: array[int], what: str, *, active: bool = False) -> None:
        """Count what an L1 table leads to."""
        for index, offset, entries in self.l2_tables(l1, what):
            if self.references.add(
                offset >> self._header.cluster_bits, f"{what}: L2 table {index}"
            ):
                self._entries(entries, f"{what}: L2 table {index}", active=active)

    def l2_tables(self, l1: array[int], what: str) -> Iterator[tuple[int, int, array[int]]]:
        """(index, offset, entries) of every L2 table that can be read."""
        size = self._header.cluster_bytes
        end = len(self.references.counts) * size
        for index, entry in enumerate(l1):
            if not entry:
                continue
            offset = entry & OFFSET_MASK
            if entry & L1_RESERVED or offset & (size - 1) or not 0 < offset < end:
                self.references.complain(f"{what}: L1 entry {index} is {entry:#x}")
                continue
            yield index, offset, unpack_words(read_at(self._storage, offset, size))

    def _entries(self, entries: array[int], what: str, *, active: bool) -> None:
        references, bits = self.references, self._header.cluster_bits
        mask = self._header.cluster_bytes - 1
        step = 2 if self._header.extended else 1
        counts = references.counts
        end = len(counts)
        for at, entry in enumerate(entries[::step]):
            if not entry:
                continue
            if entry & PACKED:
                if entry & COPIED:
                    references.complain(f"{what}: entry {at} is packed and copied")
                for cluster in compression.clusters_of(entry, bits):
                    # The length is rounded up, and may reach beyond the last cluster.
                    if cluster < end:
                        counts[cluster] += 1
                    elif cluster == compression.place_of(entry, bits)[0] >> bits:
                        references.complain(f"{what}: entry {at} lies beyond the end of the file")
                if active:
                    references.packed += 1
                    references.data += 1
                continue
            offset = entry & OFFSET_MASK
            if entry & L2_RESERVED or offset & mask or (entry & ZERO and step == 2):
                references.complain(f"{what}: entry {at} is {entry:#x}")
                continue
            if self._external or not offset:
                continue
            cluster = offset >> bits
            if cluster >= end:
                references.complain(f"{what}: entry {at} lies beyond the end of the file")
                continue
            counts[cluster] += 1
            if active:
                references.data += 1
                references.fragmented += cluster != self._last + 1 and self._last >= 0
                self._last = cluster
