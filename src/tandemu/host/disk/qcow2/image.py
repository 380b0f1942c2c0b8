"""A qcow2 image in use: the guest's writes, zeros and discards.

Clusters that a request is about to give a place are told to others (`_growing`), who wait for
them. What of the tables is changed is written by `writeback`.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from tandemu.bits import replace
from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.image import Content, Image
from tandemu.host.disk.qcow2 import compression
from tandemu.host.disk.qcow2.layout import (
    ALL_SUBCLUSTERS,
    COPIED,
    CORRUPT,
    DIRTY,
    KNOWN_AUTOCLEAR,
    OFFSET_MASK,
    PACKED,
    ZERO,
    Header,
    broken,
)
from tandemu.host.disk.qcow2.mapping import (
    IS_ABSENT,
    IS_DATA,
    IS_MIXED,
    IS_PACKED,
    IS_ZERO,
    Table,
)
from tandemu.host.disk.qcow2.reading import Qcow2Reader
from tandemu.host.disk.qcow2.refcounts import Refcounts
from tandemu.host.disk.qcow2.writeback import Writeback
from tandemu.host.disk.storage import Storage, write_at
from tandemu.host.disk.vectors import Buffers, cut, zeros

_UNPACKED_BYTES = 4 << 20
_CONTENT = {IS_DATA: Content.DATA, IS_PACKED: Content.DATA, IS_ZERO: Content.ZERO}


class Growth:
    """A request that gives clusters a place: *count* from *offset*, at *host*.

    *skips*: what it does not write reads as zeros there already. *is_new*: the place was
    allocated for it.
    """

    __slots__ = ("count", "end", "host", "is_new", "offset", "skips")

    def __init__(
        self, offset: int, end: int, count: int, host: int, *, is_new: bool, skips: bool
    ) -> None:
        self.offset, self.end, self.count, self.host = offset, end, count, host
        self.is_new, self.skips = is_new, skips


class Qcow2Image(Qcow2Reader):
    """An open qcow2 image that can be written, unless it was opened for reading only."""

    def __init__(
        self,
        storage: Storage,
        header: Header,
        *,
        backing: Image | None = None,
        data: Storage | None = None,
    ) -> None:
        super().__init__(storage, header, backing=backing, data=data)
        self._settled = threading.Condition(self.lock)
        self._growing: list[Growth] = []
        self._trouble = ""
        self._closed = False
        self._has_changed = False
        self._packed_at = 0
        """Where the next compressed cluster goes."""

    def load(self) -> None:
        """Read the tables that `header` names, anew if it is another one now."""
        super().load()
        self._packed_at = 0

    def _forget_packed(self) -> None:
        super()._forget_packed()
        self._packed_at = 0  # it may be in one of them

    # ---- writing --------------------------------------------------------------------------

    def _writev(self, offset: int, buffers: Buffers, length: int) -> None:
        self.begin_change()
        done = 0
        while done < length:
            done += self._write_some(offset + done, buffers, done, length - done)
        self.bitmaps.mark(offset, length)
        if self.mapping.is_crowded():
            self._write_back()

    def _write_some(self, offset: int, buffers: Buffers, done: int, length: int) -> int:
        """Write as much of *length* bytes as goes at once; how much that was."""
        writeback = self._live()
        plan: tuple[int, int] | Growth
        with self.lock:
            if self._growing:
                self._wait_for_growth(offset, length)
            self._check_trouble()
            host = self.mapping.plain_data(offset, length, own=True)
            if host >= 0 and host >> self.mapping.cluster_bits not in self._reserved:
                plan = (host, length)
            else:
                plan = self._plan(offset, length)
            generation = writeback.inflight.enter()
        try:
            if isinstance(plan, tuple):
                host, count = plan
                part = cut(buffers, done, count) if done or count < length else buffers
                self._data.writev(host, part)
                return count
            count = min(plan.end - offset, length)
            self._fill(plan, offset, cut(buffers, done, count), count)
        except BaseException:
            with self.lock:
                if isinstance(plan, Growth):
                    self._give_up(plan)
            raise
        finally:
            with self.lock:
                writeback.inflight.leave(generation)
        return count

    def _plan(self, offset: int, length: int) -> tuple[int, int] | Growth:
        """Where to write: (host offset, length) in place, or clusters that get a place."""
        mapping = self.mapping
        index, at = mapping.locate(offset)
        stop = min(offset + length, (index + 1) << mapping.coverage_bits)
        table = mapping.table(index)
        own = table is not None and bool(mapping.l1[index] & COPIED)
        size = mapping.cluster_bytes
        first = offset & -size
        last = min(-(-stop // size) * size, (index + 1) << mapping.coverage_bits)
        count = (last - first) // size
        if self._external is not None:
            state = self._state(table, at, own=True)
            same = 1
            while same < count and (self._state(table, at + same, own=True)[0] == state[0]):
                same += 1
            if state[0]:
                return offset, min(first + same * size, stop) - offset
            return self._grow(first, same, first, is_new=False, skips=False)
        in_place, host = self._state(table, at, own)
        same = 1
        while same < count:
            next_in_place, next_host = self._state(table, at + same, own)
            if next_in_place != in_place or (host and next_host != host + same * size):
                break
            if bool(host) != bool(next_host):
                break
            same += 1
        if host:
            self._check_not_table(host, same)
        if in_place:
            return host + offset - first, min(first + same * size, stop) - offset
        if host:  # a place is there, but what stands in it is not what the guest sees
            return self._grow(first, same, host, is_new=False, skips=False)
        refcounts = self._counts()
        unused = refcounts.end
        cluster, same = refcounts.allocate(same)
        skips = (
            cluster >= unused
            and self.storage.is_regular
            and self._reads_zero(table, at)
            and self._reads_zero(table, at + same - 1)
        )
        host = cluster << mapping.cluster_bits
        return self._grow(first, same, host, is_new=True, skips=skips)

    def _grow(self, offset: int, count: int, host: int, *, is_new: bool, skips: bool) -> Growth:
        growth = Growth(
            offset, offset + count * self.mapping.cluster_bytes, count, host,
            is_new=is_new, skips=skips,
        )  # fmt: skip
        self._growing.append(growth)
        return growth

    def _words(self, table: Table | None, at: int) -> tuple[int, int]:
        """Entry and bitmap of a cluster."""
        if table is None:
            return 0, 0
        words = self.mapping.words
        return table.entries[at * words], table.entries[at * words + 1] if words == 2 else 0

    def _state(self, table: Table | None, at: int, own: bool) -> tuple[bool, int]:
        """Whether a cluster can be written in place, and the host offset that is its own, or 0."""
        entry, bitmap = self._words(table, at)
        if not entry or not own:
            return False, 0
        kind = self.mapping.kind_of(entry, bitmap)
        if kind == IS_PACKED or not entry & COPIED:
            return False, 0
        return kind == IS_DATA, entry & OFFSET_MASK

    def _reads_zero(self, table: Table | None, at: int) -> bool:
        kind = self.mapping.kind_of(*self._words(table, at))
        return kind == IS_ZERO or (kind == IS_ABSENT and self.backing is None)

    def _fill(self, plan: Growth, offset: int, buffers: list[memoryview], length: int) -> None:
        """Write the clusters of *plan*: the guest's part, and what was there around it."""
        host = plan.host
        head, tail = offset - plan.offset, plan.end - offset - length
        if plan.skips:
            self._data.writev(host + head, buffers)
        else:
            pieces = list(buffers)
            if head:
                pieces.insert(0, memoryview(self._old(plan.offset, head)))
            if tail:
                pieces.append(memoryview(self._old(offset + length, tail)))
            self._data.writev(host, pieces)
        with self.lock:
            self._set(plan.offset, plan.count, self._data_words(plan))
            self._growing.remove(plan)
            self._settled.notify_all()

    def _data_words(self, plan: Growth) -> Callable[[int], tuple[int, int]]:
        bits = self.mapping.cluster_bits
        return lambda i: ((plan.host + (i << bits)) | COPIED, ALL_SUBCLUSTERS)

    def _old(self, offset: int, length: int) -> bytearray:
        """What the guest sees in a range, with zeros beyond the image's end."""
        data = bytearray(length)
        there = min(length, self.size_bytes - offset)
        if there > 0:
            self._readv(offset, [memoryview(data)[:there]], there)
        return data

    def _give_up(self, plan: Growth) -> None:
        """Writing failed: the place was never known to anybody."""
        if plan not in self._growing:
            return
        self._growing.remove(plan)
        self._settled.notify_all()
        if plan.is_new:
            first = plan.host >> self.mapping.cluster_bits
            for cluster in range(first, first + plan.count):
                self._counts().add(cluster, -1)

    def _wait_for_growth(self, offset: int, length: int) -> None:
        size = self.mapping.cluster_bytes
        begin, end = offset & -size, -(-(offset + length) // size) * size
        while any(one.offset < end and begin < one.end for one in self._growing):
            self._settled.wait()

    def _set(self, offset: int, count: int, words: Callable[[int], tuple[int, int]]) -> None:
        """Make *count* entries from *offset* of one table anew, as *words* says of each."""
        mapping, writeback = self.mapping, self._live()
        index, at = mapping.locate(offset)
        table, lost = mapping.table_for_writing(index)
        if lost:
            writeback.free_later([lost])
        step = mapping.words
        for number in range(count):
            place = (at + number) * step
            old = table.entries[place]
            entry, bitmap = words(number)
            table.entries[place] = entry
            if step == 2:
                table.entries[place + 1] = bitmap
            if old and self._external is None:
                self._free_entry(old, entry)
        table.touch(at * step, (at + count) * step)

    def _free_entry(self, old: int, new: int) -> None:
        """What *old* led to is free, unless *new* leads there too."""
        bits = self.mapping.cluster_bits
        if old & PACKED:
            self._live().free_later(compression.clusters_of(old, bits))
        elif (host := old & OFFSET_MASK) and host != new & OFFSET_MASK:
            self._live().free_later([host >> bits])

    # ---- zeros and discard ----------------------------------------------------------------

    def _discard(self, offset: int, length: int) -> None:
        if self._external is not None:
            return
        gone = self._zero_words() if self.backing is not None else (0, 0)
        if gone is not None:
            self._change_clusters(offset, length, lambda entry, bitmap: (
                gone if entry or bitmap else None
            ))  # fmt: skip

    def _zero_words(self) -> tuple[int, int] | None:
        """The entry of zeros that have no place; None if version 2 cannot say that."""
        if self.header.version == 2:
            return None
        return (0, ALL_SUBCLUSTERS << 32) if self.mapping.extended else (ZERO, 0)

    def _write_zeroes(self, offset: int, length: int, may_unmap: bool) -> None:
        size = self.mapping.cluster_bytes
        begin = -(-offset // size) * size
        end = offset + length
        end = end if end == self.size_bytes else end & -size
        nothing = self._zero_words()
        if nothing is None and self.backing is None:
            nothing = (0, 0)
        if begin >= end or nothing is None or self._external is not None:
            self._write_plain_zeros(offset, length)
            return
        self._write_plain_zeros(offset, begin - offset)

        def zeroed(entry: int, bitmap: int) -> tuple[int, int] | None:
            kind = self.mapping.kind_of(entry, bitmap)
            if kind == IS_ZERO or (kind == IS_ABSENT and self.backing is None):
                return None
            keeps = not may_unmap and kind in (IS_DATA, IS_MIXED) and entry & COPIED
            if not keeps or self.header.version == 2:
                return nothing
            return (entry | nothing[0], nothing[1])

        self._change_clusters(begin, end - begin, zeroed)
        self._write_plain_zeros(end, offset + length - end)

    def _write_plain_zeros(self, offset: int, length: int) -> None:
        for part in zeros(length):
            self._writev(offset, [part], part.nbytes)
            offset += part.nbytes

    def _change_clusters(
        self, offset: int, length: int, change: Callable[[int, int], tuple[int, int] | None]
    ) -> None:
        """Give each whole cluster of a range the words that *change* makes of its own ones."""
        self.begin_change()
        mapping = self.mapping
        size = mapping.cluster_bytes
        begin, end = -(-offset // size) * size, offset + length
        end = -(-end // size) * size if end == self.size_bytes else end & -size
        while begin < end:
            index, at = mapping.locate(begin)
            stop = min(end, (index + 1) << mapping.coverage_bits)
            with self.lock:
                self._wait_for_growth(begin, stop - begin)
                self._check_trouble()
                self._change_table(index, at, (stop - begin) // size, change)
            begin = stop
        self.bitmaps.mark(offset, min(length, self.size_bytes - offset))
        if mapping.is_crowded():
            self._write_back()

    def _change_table(
        self,
        index: int,
        at: int,
        count: int,
        change: Callable[[int, int], tuple[int, int] | None],
    ) -> None:
        table = self.mapping.table(index)
        if table is None and change(0, 0) is None:
            return
        size = self.mapping.cluster_bytes
        for number in range(at, at + count):
            words = change(*self._words(table, number))
            if words is not None:
                offset = (index << self.mapping.coverage_bits) + number * size
                self._set(offset, 1, lambda _, words=words: words)  # type: ignore[misc]
                table = self.mapping.table(index)

    def give_places(self) -> None:
        """Give all clusters a place, with zeros in it: for an image that is new and empty."""
        self.begin_change()
        offset = 0
        while offset < self.size_bytes:
            length = self.size_bytes - offset
            with self.lock:
                plan = self._plan(offset, length)
                if isinstance(plan, tuple):
                    offset += plan[1]
                    continue
                self._set(plan.offset, plan.count, self._data_words(plan))
                self._growing.remove(plan)
                offset = plan.end
            if self.mapping.is_crowded():
                self._write_back()

    # ---- compressed clusters --------------------------------------------------------------

    def write_packed(self, offset: int, packed: bytes) -> None:
        """Put a compressed cluster at the guest's *offset*, where nothing is yet.

        For making images: *packed* is what `compression.pack` made of the whole cluster.
        """
        self.begin_change()
        bits, size = self.mapping.cluster_bits, self.mapping.cluster_bytes
        with self.lock:
            refcounts = self._counts()
            room = -self._packed_at % size
            first = self._packed_at >> bits
            if room < len(packed):
                cluster, _ = refcounts.allocate(1)
                if not room or cluster != first + 1:
                    self._packed_at, room, first = cluster << bits, 0, cluster
            place = self._packed_at
            entry = compression.entry_for(place, len(packed), bits)
            if entry is None:
                raise DiskError(f"{self.path} is too large for compressed clusters", errno.EFBIG)
            if room:
                refcounts.add(first, 1)
            self._packed_at += len(packed)
        self.storage.writev(place, [memoryview(packed)])
        with self.lock:
            self._set(offset, 1, lambda _: (entry, 0))
        self.bitmaps.mark(offset, min(size, self.size_bytes - offset))

    # ---- changes of the file's state ------------------------------------------------------

    def _live(self) -> Writeback:
        if self._writeback is None:
            raise self._unwritable()
        return self._writeback

    def _counts(self) -> Refcounts:
        if self._refcounts is None:
            raise self._unwritable()
        return self._refcounts

    def counts(self) -> Refcounts:
        """The reference counts of an image that is open for writing."""
        return self._counts()

    def _check_trouble(self) -> None:
        if self._trouble:
            raise DiskError(self._trouble)

    def _check_not_table(self, host: int, count: int) -> None:
        """Data must not stand where tables do: then the image is broken, and says so from now."""
        first = host >> self.mapping.cluster_bits
        if self._reserved.isdisjoint(range(first, first + count)):
            return
        self.header = replace(self.header, incompatible=self.header.incompatible | CORRUPT)
        error = broken(self.path, f"the guest's data at {host:#x} lies on a table of the image")
        self._trouble = str(error)
        if self.header.version == 3:
            write_at(self.storage, 0, self.header.pack_fields())
        raise error

    def forget(self, offset: int, length: int) -> None:
        """Make whole clusters absent, whatever is below them: they will be outside the image."""
        self._change_clusters(offset, length, lambda entry, bitmap: (
            (0, 0) if entry or bitmap else None
        ))  # fmt: skip

    def begin_change(self) -> None:
        """Before the first change: say in the file what holds no longer."""
        if self._has_changed:
            return
        with self.lock:
            if self._has_changed:
                return
            if self._closed:
                raise DiskError(f"{self.path} is closed", errno.EBADF)
            header = self.header
            if header.version == 3:
                autoclear = header.autoclear & KNOWN_AUTOCLEAR
                dirty = DIRTY if self.is_lazy else 0
                header = replace(
                    header, autoclear=autoclear, incompatible=header.incompatible | dirty
                )
            self.bitmaps.begin_change(self.storage)
            if header != self.header:
                write_at(self.storage, 0, header.pack_fields())
                self.storage.flush()
                self.header = header
            self._has_changed = True

    def _keep_header(self, header: Header) -> None:
        self.header = header

    def set_header(self, header: Header) -> None:
        """Write the fixed fields of another *header*, which one sector holds, and flush."""
        write_at(self.storage, 0, header.pack_fields())
        self.storage.flush()
        self.header = header
        self.size_bytes = header.size

    def _write_back(self, *, all_counts: bool = False) -> None:
        self._live().write_back(lambda: self.header, self._keep_header, all_counts=all_counts)

    def flush(self) -> None:
        """Return when all that was written before is safe from a loss of power."""
        if self._writeback is not None and self._has_changed:
            self._check_trouble()
            self._write_back()

    def settle(self) -> None:
        """Bring the file to a state that says everything, as `close` does. No request may run."""
        if self._writeback is None or not self._has_changed:
            return
        self._check_trouble()
        with self.lock:
            self.bitmaps.store(self._counts(), self.storage)
        self._write_back(all_counts=True)
        self._write_back(all_counts=True)  # the counts of what the first one freed
        self.bitmaps.finish(self.storage, self._counts())
        self._write_back(all_counts=True)
        end = self.mapping.end()
        if self.storage.is_regular and self.storage.size() < end:
            self.storage.truncate(end)
        if self.header.incompatible & DIRTY:
            self.set_header(replace(self.header, incompatible=self.header.incompatible & ~DIRTY))
        self._has_changed = False

    def close(self) -> None:
        """Write what is due and let the files go; again: nothing happens."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._trouble:
                self.settle()
        finally:
            self.storage.close()
            if self._external is not None:
                self._external.close()
            if self.backing is not None:
                self.backing.close()
