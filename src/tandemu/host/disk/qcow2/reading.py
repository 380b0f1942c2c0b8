"""An open qcow2 image as far as it is read: the guest's reads, the map, what there is to say.

The lock guards the tables, and is not held while data is read or written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from tandemu.bits import replace
from tandemu.host.disk.image import Content, Description, Extent, Image
from tandemu.host.disk.qcow2 import compression
from tandemu.host.disk.qcow2.bitmaps import Bitmaps
from tandemu.host.disk.qcow2.layout import (
    BITMAPS_VALID,
    COMPRESSIONS,
    CORRUPT,
    DATA_FILE_RAW,
    DIRTY,
    EXT_BACKING_FORMAT,
    LAZY_REFCOUNTS,
    Header,
    broken,
)
from tandemu.host.disk.qcow2.mapping import (
    IS_ABSENT,
    IS_DATA,
    IS_PACKED,
    IS_ZERO,
    Mapping,
    Run,
)
from tandemu.host.disk.qcow2.refcounts import Refcounts
from tandemu.host.disk.qcow2.writeback import Writeback
from tandemu.host.disk.storage import Storage, read_at
from tandemu.host.disk.vectors import Buffers, cut, fill_zeros, scatter

_UNPACKED_BYTES = 4 << 20
_CONTENT = {IS_DATA: Content.DATA, IS_PACKED: Content.DATA, IS_ZERO: Content.ZERO}


class Qcow2Reader(Image):
    """An open qcow2 image that can be read: *storage* with its *header*, and *backing* below it.

    *data*: the file of its own that holds the guest's data, if the image has one.
    """

    format = "qcow2"

    def __init__(
        self,
        storage: Storage,
        header: Header,
        *,
        backing: Image | None = None,
        data: Storage | None = None,
    ) -> None:
        self.storage = storage
        self.header = header
        self.backing = backing
        self.path = storage.path
        self.read_only = storage.read_only
        self.size_bytes = header.size
        self._external = data
        self._data = data or storage
        self.lock = threading.Lock()
        self._unpacked: OrderedDict[int, bytes] = OrderedDict()
        self.load()

    def load(self) -> None:
        """Read the tables that `header` names, anew if it is another one now."""
        storage, header = self.storage, self.header
        reserved: set[int] = set()
        refcounts = None
        if not self.read_only:
            for offset, length in (
                (0, header.cluster_bytes),
                (header.l1_offset, header.l1_size * 8),
                (header.snapshots_offset, header.snapshot_count and 1),
            ):
                first = offset >> header.cluster_bits
                last = (offset + length - 1) >> header.cluster_bits
                reserved.update(range(first, last + 1))
            refcounts = Refcounts(storage, header, reserved)
        self._reserved = reserved
        self._refcounts = refcounts
        self.mapping = Mapping(storage, header, refcounts, reserved)
        self._writeback = None
        if refcounts is not None:
            self._writeback = Writeback(
                storage, self._data, self.mapping, refcounts, self.lock, lazy=self.is_lazy
            )
            self._writeback.on_reuse = self._forget_packed
        self._unpacked.clear()
        self.bitmaps = Bitmaps.load(storage, header)

    def _forget_packed(self) -> None:
        """Clusters are free: what was unpacked of them may be overwritten. The lock is held."""
        self._unpacked.clear()

    @property
    def is_lazy(self) -> bool:
        """Whether reference counts are written only when it is closed."""
        return bool(self.header.version == 3 and self.header.compatible & LAZY_REFCOUNTS)

    # ---- reading --------------------------------------------------------------------------

    def _readv(self, offset: int, buffers: Buffers, length: int) -> None:
        with self.lock:
            host = self.mapping.plain_data(offset, length, own=False)
            if host >= 0:
                runs = [(IS_DATA, offset, length, host)]
            else:
                runs = self.mapping.runs(offset, length)
            generation = self._writeback.inflight.enter() if self._writeback else 0
            end = self.mapping.end()
        try:
            if len(runs) == 1:
                self._read_run(runs[0], buffers, end)
                return
            done = 0
            for run in runs:
                self._read_run(run, cut(buffers, done, run[2]), end)
                done += run[2]
        finally:
            if self._writeback:
                with self.lock:
                    self._writeback.inflight.leave(generation)

    def _read_run(self, run: Run, buffers: Buffers, end: int) -> None:
        kind, offset, length, host = run
        if kind == IS_DATA:
            if host + length > end and self._external is None:
                raise broken(self.path, f"the data of guest offset {offset:#x} lies beyond its end")
            self._data.readv(host, buffers)
        elif kind == IS_PACKED:
            within = offset & (self.mapping.cluster_bytes - 1)
            scatter(memoryview(self._unpack(host, end))[within : within + length], buffers)
        elif kind == IS_ABSENT and self.backing is not None:
            there = min(max(self.backing.size_bytes - offset, 0), length)
            if there == length:
                self.backing.readv(offset, buffers)
                return
            if there:
                self.backing.readv(offset, cut(buffers, 0, there))
            fill_zeros(cut(buffers, there, length - there))
        else:
            fill_zeros(buffers)

    def _unpack(self, entry: int, end: int) -> bytes:
        """The cluster that is packed where *entry* says."""
        cluster = self._unpacked.get(entry)
        if cluster is not None:
            return cluster
        bits, size = self.mapping.cluster_bits, self.mapping.cluster_bytes
        offset, length = compression.place_of(entry, bits)
        if offset >= end:
            raise broken(self.path, f"a compressed cluster at {offset:#x} lies beyond its end")
        data = read_at(self.storage, offset, length)
        cluster = compression.unpack(self.header.compression, data, size, self.path)
        with self.lock:
            self._unpacked[entry] = cluster
            while len(self._unpacked) * size > _UNPACKED_BYTES and len(self._unpacked) > 1:
                self._unpacked.popitem(last=False)
        return cluster

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        end = offset + length
        while offset < end:
            # Table by table: a large image has too many runs for one list.
            coverage = 1 << self.mapping.coverage_bits
            stop = min(end, (offset // coverage + 1) * coverage)
            with self.lock:
                runs = self.mapping.runs(offset, stop - offset)
            for kind, begin, size, host in runs:
                if kind == IS_ABSENT:
                    yield from self._absent_extents(begin, size)
                else:
                    place = host if kind == IS_DATA and self._external is None else None
                    yield Extent(begin, size, _CONTENT[kind], place, packed=kind == IS_PACKED)
            offset = stop

    def _absent_extents(self, offset: int, length: int) -> Iterator[Extent]:
        backing = self.backing
        there = 0 if backing is None else min(max(backing.size_bytes - offset, 0), length)
        if there and backing is not None:
            for one in backing.extents(offset, there):
                yield replace(one, depth=one.depth + 1)
        if there < length:
            yield Extent(offset + there, length - there, Content.ABSENT)

    def describe(self) -> Description:
        """What there is to say about it."""
        header = self.header
        facts: dict[str, object] = {
            "version": header.version,
            "cluster size": header.cluster_bytes,
            "compression": compression_name(header),
            "refcount bits": 1 << header.refcount_order,
            "lazy refcounts": self.is_lazy,
            "subclusters": header.extended,
        }
        if header.snapshot_count:
            facts["snapshots"] = header.snapshot_count
        if self._external is not None:
            facts["data file"] = self._external.path
            facts["data file is raw"] = bool(header.autoclear & DATA_FILE_RAW)
        if header.incompatible & DIRTY:
            facts["not closed"] = True
        if header.incompatible & CORRUPT:
            facts["corrupt"] = True
        if names := self.bitmaps.describe():
            facts["bitmaps" if header.autoclear & BITMAPS_VALID else "stale bitmaps"] = names
        backing_format = header.extension(EXT_BACKING_FORMAT) or b""
        return Description(
            "qcow2",
            header.size,
            self.storage.allocated_bytes(),
            header.backing_name.decode("utf-8", "surrogateescape"),
            backing_format.decode("ascii", "replace"),
            facts,
        )


def compression_name(header: Header) -> str:
    """What its compressed clusters are packed with."""
    return COMPRESSIONS[header.compression]
