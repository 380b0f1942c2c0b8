"""The translated code of one machine or program: memory, tables, and Python's way to change it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tandemu.bits import align_up
from tandemu.jit.engine.load import Engine
from tandemu.jit.shared.layout import (
    ARENAS,
    BLOCK,
    BLOCK_LIMIT,
    CACHE_COUNTERS,
    CODE_CACHE,
    HASH_BUCKETS,
    SITE,
    SYMBOLS,
)
from tandemu.native import ExecutableMemory, NativeError

MEBIBYTE = 1 << 20

_TABLES = {
    "blocks": BLOCK.size * BLOCK_LIMIT,
    "buckets": HASH_BUCKETS * 4,
    "pages": HASH_BUCKETS * 4,
}
"""The tables of blocks, by the field that holds their address; sizes in bytes."""


class CacheSizes(NamedTuple):
    """Sizes of a code cache's parts in bytes: address space; memory is used as it fills."""

    hot: int
    cold: int
    site: int
    region: int


def _mebibytes(hot: float, cold: float, site: float, region: float) -> CacheSizes:
    return CacheSizes(*(int(part * MEBIBYTE) for part in (hot, cold, site, region)))


CACHES = (
    _mebibytes(2, 1, 2, 1),
    _mebibytes(8, 4, 5, 3),
    _mebibytes(22, 12, 14, 8),
    _mebibytes(40, 24, 24, 16),
)
"""What code caches there are. Addresses below 2 GiB are scarce: where there are not enough for
the largest, as in a process with many machines, a smaller one is taken."""
LARGEST = CACHES[-1]


def _map_cache(sizes: CacheSizes) -> tuple[ExecutableMemory, CacheSizes]:
    """Memory for a code cache of *sizes*, or of smaller ones where there is not so much."""
    while True:
        try:
            return ExecutableMemory(sum(sizes)), sizes
        except NativeError:
            smaller = [one for one in CACHES if one.hot < sizes.hot]
            if not smaller:
                raise
            sizes = smaller[-1]


class CodeCache:
    """Code that the vCPUs of one owner share; *machine* is the address of what else they do.

    All methods may be called from any thread, but what says that it needs the lock.
    """

    def __init__(self, engine: Engine, machine: int, sizes: CacheSizes = LARGEST) -> None:
        self._engine = engine
        self._code, self.sizes = _map_cache(sizes)
        size = align_up(CODE_CACHE.size, mmap.PAGESIZE)
        # Pages of an anonymous mapping cost memory only once touched.
        # Private: a child of fork has code of its own.
        self._memory = mmap.mmap(
            -1, size + sum(_TABLES.values()), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        """Host address of the structure."""
        state = self.state = CODE_CACHE.at(self.address)
        """The structure, live."""
        place = self.address + size
        for name, table in _TABLES.items():
            setattr(state, name, place)
            place += table
        state.machine = machine
        place = self._code.address
        for name, part in self.sizes._asdict().items():
            setattr(state, f"{name}_start", place)
            # An arena of exit descriptors has whole ones.
            setattr(state, f"{name}_size", part // ARENAS // SITE.size * SITE.size)
            place += part
        # Record 0 means "none".
        state.block_start, state.block_size = 1, (BLOCK_LIMIT - 1) // ARENAS
        for number, symbol in enumerate(SYMBOLS):
            if engine.exports(symbol):
                state.values[number] = engine.image.address(symbol)
        self._lock = engine.routine("lock_code", 1)
        self._unlock = engine.routine("unlock_code", 1)
        self._flush_code = engine.routine("flush_code", 1)
        self.flush()

    @contextmanager
    def held(self) -> Iterator[None]:
        """With the lock: nothing is translated or changed by others meanwhile.

        So a fork finds it whole, and free when this ends in the child as well.
        """
        self._lock(self.address)
        try:
            yield
        finally:
            self._unlock(self.address)

    def flush(self) -> None:
        """Forget all translated code."""
        with self.held():
            self._flush_code(self.address)

    def counters(self) -> dict[str, int]:
        """What happened in it, by name of the counter, and how much there is."""
        state = self.state
        counts: dict[str, int] = {name: getattr(state, name) for name in CACHE_COUNTERS}
        used = self.used()
        counts["blocks"] = sum(end - start for start, end in used["block"])
        for part in ("hot", "cold", "site"):
            counts[f"{part}_bytes"] = sum(end - start for start, end in used[part])
        return counts

    def used(self) -> dict[str, list[tuple[int, int]]]:
        """By part (``hot``, ``cold``, ``site``, ``block``) where it is filled: begins and ends.

        Of arenas that are full all counts as filled, but for ``block`` and ``site``.
        """
        state = self.state
        now = state.arena
        used: dict[str, list[tuple[int, int]]] = {}
        for part in ("hot", "cold", "site", "block"):
            start, size = getattr(state, f"{part}_start"), getattr(state, f"{part}_size")
            spans = used[part] = []
            for number in range(ARENAS):
                arena, begin = state.arenas[number], start + number * size
                if number == now:
                    end = getattr(state, f"{part}_next")
                elif part in ("block", "site"):
                    end = getattr(arena, f"{part}s_end")
                else:
                    empty = arena.sites_end == state.site_start + number * state.site_size
                    end = begin if empty else begin + size
                spans.append((begin, end))
        return used

    def block_numbers(self) -> Iterator[int]:
        """The numbers of all block records, of stale ones too."""
        for start, end in self.used()["block"]:
            yield from range(start, end)

    def free(self) -> None:
        """Give the executable memory back. Nothing may run in it any more."""
        self._code.close()
