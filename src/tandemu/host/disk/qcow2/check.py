"""Checking a qcow2 image: its reference counts and flags against what is referred to."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.qcow2.bitmaps import Bitmaps
from tandemu.host.disk.qcow2.layout import COPIED, DATA_FILE, OFFSET_MASK, PACKED, Header
from tandemu.host.disk.qcow2.refcounts import Refcounts
from tandemu.host.disk.qcow2.references import References, Walk, Walked, clusters_in, read_l1
from tandemu.host.disk.qcow2.snapshots import read_snapshots
from tandemu.host.disk.storage import Storage


@dataclass(slots=True)
class Report:
    """What a check found: *errors* are damage, *leaks* clusters that are counted but unused.

    *data* clusters of *clusters* are the guest's; of these *packed* are compressed and
    *fragmented* do not follow the one before. *end*: where the file could end.
    """

    errors: list[str] = field(default_factory=list)
    more_errors: int = 0
    leaks: int = 0
    clusters: int = 0
    data: int = 0
    packed: int = 0
    fragmented: int = 0
    end: int = 0

    @property
    def error_count(self) -> int:
        """How many errors there are."""
        return len(self.errors) + self.more_errors

    @property
    def is_clean(self) -> bool:
        """Neither damage nor leaks."""
        return not self.error_count and not self.leaks


def check(storage: Storage, header: Header, walked: Walked = lambda done, total: None) -> Report:
    """Check the image in *storage*; nothing is changed. `DiskError` if it cannot be walked."""
    external = bool(header.incompatible & DATA_FILE)
    references = References(array("I", bytes(4 * clusters_in(storage, header))))
    walk = Walk(storage, header, references, external=external, walked=walked)
    bits = header.cluster_bits
    references.add(0, "the header")
    references.add_range(header.l1_offset, header.l1_size * 8, bits, "the L1 table")
    refcounts = _count_refcounts(storage, header, references)
    snapshots, table_bytes = read_snapshots(storage, header)
    references.add_range(header.snapshots_offset, table_bytes, bits, "the snapshot table")
    try:
        walk.bitmaps(Bitmaps.load(storage, header))
    except DiskError as error:
        references.complain(str(error))
    l1 = read_l1(storage, header.l1_offset, header.l1_size)
    walk.tables(l1, "the active tables", active=True)
    for one in snapshots:
        what = f"snapshot {one.name!r}"
        references.add_range(one.l1_offset, one.l1_size * 8, bits, f"the L1 table of {what}")
        walk.tables(read_l1(storage, one.l1_offset, one.l1_size), what)
    report = Report(
        data=references.data,
        packed=references.packed,
        fragmented=references.fragmented,
        clusters=-(-header.size >> bits),
    )
    _compare(references, refcounts, report, bits)
    _check_flags(walk, l1, header, external=external)
    report.errors = references.problems
    report.more_errors = references.more_problems
    return report


def _count_refcounts(storage: Storage, header: Header, references: References) -> Refcounts | None:
    """Count the refcount table and its blocks; None if they cannot be read."""
    bits = header.cluster_bits
    references.add_range(
        header.refcount_offset, header.refcount_clusters << bits, bits, "the refcount table"
    )
    try:
        refcounts = Refcounts(storage, header, set())
        clusters = list(refcounts.table_clusters())[header.refcount_clusters :]
    except DiskError as error:
        references.complain(str(error))
        return None
    for cluster in clusters:
        references.add(cluster, "a refcount block")
    return refcounts


def _compare(
    references: References, refcounts: Refcounts | None, report: Report, bits: int
) -> None:
    counts = references.counts
    seen = bytearray(len(counts))
    last = 0
    try:
        for first, block in refcounts.stored_blocks() if refcounts is not None else ():
            wanted = counts[first : first + len(block)]
            seen[first : first + len(wanted)] = b"\1" * len(wanted)
            if block.tolist()[: len(wanted)] == wanted.tolist() and not any(block[len(wanted) :]):
                continue
            for at, count in enumerate(block):
                expected = wanted[at] if at < len(wanted) else 0
                if count > expected:
                    report.leaks += 1
                elif count < expected:
                    references.complain(
                        f"cluster {first + at:#x} is used {expected} times, but counted {count}"
                    )
    except DiskError as error:
        references.complain(str(error))
    for cluster, count in enumerate(counts):
        if count:
            last = cluster
            if not seen[cluster]:
                references.complain(f"cluster {cluster:#x} is used {count} times, but not counted")
    report.end = (last + 1) << bits


def _check_flags(walk: Walk, l1: array[int], header: Header, *, external: bool) -> None:
    """Whether the flag of what has one reference alone is where it must be."""
    references, bits = walk.references, header.cluster_bits
    counts = references.counts
    step = 2 if header.extended else 1
    for index, offset, entries in walk.l2_tables(l1, "the active tables"):
        cluster = offset >> bits
        if (counts[cluster] == 1) != bool(l1[index] & COPIED):
            references.complain(f"L1 entry {index} has a wrong flag COPIED")
        for at, entry in enumerate(entries[::step]):
            host = entry & OFFSET_MASK
            if not entry or entry & PACKED or not (host or external):
                continue
            if external:
                alone = True
            elif host >> bits < len(counts):
                alone = counts[host >> bits] == 1
            else:
                continue
            if alone != bool(entry & COPIED):
                references.complain(f"L2 table {index}: entry {at} has a wrong flag COPIED")
