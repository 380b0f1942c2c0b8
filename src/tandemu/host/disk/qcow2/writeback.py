"""Writing a qcow2 image's tables in an order that no loss of power turns into damage.

What an entry leads to is on disk before the entry is, and what is freed is free only after
nothing on disk leads to it. So, with a flush of the file between each two steps:

1. data (written already), reference counts, L2 tables that nothing leads to yet;
2. what makes counts known that are new: the refcount table, or the header if it has moved;
3. other L2 tables and the L1 entries;
4. only now counts go down where something was given up.

A power cut after any write leaves at worst clusters that are counted but not used (leaks).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tandemu.bits import replace
from tandemu.host.disk.qcow2.layout import Header
from tandemu.host.disk.qcow2.mapping import Mapping, Table
from tandemu.host.disk.qcow2.refcounts import Changes, Refcounts, pack_words
from tandemu.host.disk.storage import Storage, write_at


class Inflight:
    """Requests under way. What is given up while one runs is reused only when it has ended."""

    def __init__(self) -> None:
        self._generation = 0
        self._running: dict[int, int] = {}

    def enter(self) -> int:
        """A request begins; give what this returns to `leave`."""
        generation = self._generation
        self._running[generation] = self._running.get(generation, 0) + 1
        return generation

    def leave(self, generation: int) -> None:
        """It has ended."""
        left = self._running[generation] - 1
        if left:
            self._running[generation] = left
        else:
            del self._running[generation]

    def next_generation(self) -> int:
        """Requests from now on are told from those before; return the last one's generation."""
        self._generation += 1
        return self._generation - 1

    def all_ended(self, generation: int) -> bool:
        """Whether no request of *generation* or before it still runs."""
        return not self._running or min(self._running) > generation


class Writeback:
    """Keeps what is due of one image's tables. *lock* is the image's, held by callers if said."""

    def __init__(
        self,
        storage: Storage,
        data: Storage,
        mapping: Mapping,
        refcounts: Refcounts,
        lock: threading.Lock,
        *,
        lazy: bool,
    ) -> None:
        self._storage = storage
        self._data = data
        self._mapping = mapping
        self._refcounts = refcounts
        self._lock = lock
        self._lazy = lazy
        self._order = threading.Lock()
        self.inflight = Inflight()
        self._freed: list[int] = []
        self._waiting: list[tuple[int, list[int]]] = []
        self.on_reuse: Callable[[], None] = lambda: None

    def free_later(self, clusters: range | list[int]) -> None:
        """A table changed in memory leads to *clusters* no more. The lock is held."""
        self._freed.extend(clusters)

    def write_back(
        self, header: Callable[[], Header], keep: Callable[[Header], None], *, all_counts: bool
    ) -> None:
        """Write all that is due and flush. *all_counts*: the lazy ones too.

        *header* gives the header there is, *keep* takes the one that names a moved table.
        """
        with self._order:
            with self._lock:
                work = self._take(all_counts or not self._lazy)
            if work is None:
                self._data.flush()
                if self._data is not self._storage:
                    self._storage.flush()
                with self._lock:
                    self._release()
                return
            try:
                self._write(work, header, keep)
            except BaseException:
                with self._lock:
                    work.put_back(self._mapping, self._refcounts)
                    self._freed[:0] = work.freed
                raise
            with self._lock:
                for table in work.tables:
                    table.writing = False
                    table.fresh = False
                if work.freed:
                    self._waiting.append((self.inflight.next_generation(), work.freed))
                self._release()

    def _take(self, counts: bool) -> _Work | None:
        mapping = self._mapping
        tables = [one for one in mapping.tables.values() if one.is_dirty]
        changes = self._refcounts.take_changes() if counts else Changes([], [], False, [])
        if not (tables or mapping.changed_l1 or changes.blocks or self._freed):
            return None
        work = _Work(tables, changes, mapping, self._freed)
        self._freed = []
        return work

    def _write(
        self, work: _Work, header: Callable[[], Header], keep: Callable[[Header], None]
    ) -> None:
        storage, refcounts = self._storage, self._refcounts
        storage.extend(self._mapping.end())
        for offset, data in (*work.changes.blocks, *work.fresh):
            write_at(storage, offset, data)
        storage.flush()
        if self._data is not storage:
            self._data.flush()
        if work.changes.moved:
            moved = replace(
                header(), refcount_offset=refcounts.offset, refcount_clusters=refcounts.clusters
            )
            write_at(storage, 0, moved.pack_fields())
            storage.flush()
            keep(moved)
            with self._lock:
                for first, count in refcounts.take_old_tables():
                    work.freed.extend(range(first, first + count))
        elif work.changes.entries:
            for offset, data in work.changes.entries:
                write_at(storage, offset, data)
            storage.flush()
        if work.others or work.l1:
            for offset, data in work.others:
                write_at(storage, offset, data)
            base = header().l1_offset
            for index, value in work.l1:
                write_at(storage, base + index * 8, value.to_bytes(8, "big"))
            storage.flush()

    def _release(self) -> None:
        """Count down what was given up, where no request can still use it. The lock is held."""
        while self._waiting and self.inflight.all_ended(self._waiting[0][0]):
            _, clusters = self._waiting.pop(0)
            unused = [one for one in clusters if self._refcounts.add(one, -1) == 0]
            if unused:
                self.on_reuse()
                self._punch(sorted(unused))

    def _punch(self, clusters: list[int]) -> None:
        """Give the space of free clusters back to the host."""
        bits = self._mapping.cluster_bits
        begin = previous = clusters[0]
        for cluster in (*clusters[1:], None):
            if cluster == previous + 1:
                previous = cluster
                continue
            self._storage.punch(begin << bits, (previous + 1 - begin) << bits)
            if cluster is not None:
                begin = previous = cluster


class _Work:
    """What one write-back writes: copies of what is due, made while the lock is held."""

    def __init__(
        self, tables: list[Table], changes: Changes, mapping: Mapping, freed: list[int]
    ) -> None:
        self.tables = tables
        self.changes = changes
        self.freed = freed
        self.l1 = [(index, mapping.l1[index]) for index in sorted(mapping.changed_l1)]
        mapping.changed_l1.clear()
        self.fresh = [(one.offset, pack_words(one.entries)) for one in tables if one.fresh]
        self.others = [
            (one.offset + one.low * 8, pack_words(one.entries[one.low : one.high]))
            for one in tables
            if not one.fresh
        ]
        self._bounds = [(one.low, one.high) for one in tables]
        for table in tables:
            table.writing = True
            table.clean()

    def put_back(self, mapping: Mapping, refcounts: Refcounts) -> None:
        """Nothing of it counts as written."""
        refcounts.put_back(self.changes)
        mapping.changed_l1.update(index for index, _ in self.l1)
        for table, (low, high) in zip(self.tables, self._bounds, strict=True):
            table.writing = False
            table.touch(low, high)
