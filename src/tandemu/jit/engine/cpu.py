"""What every processor of the translator is made of: state, code cache, block tables."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, NamedTuple

from tandemu.bits import align_up, mask
from tandemu.jit.engine.load import Engine
from tandemu.jit.shared.layout import (
    BLOCK,
    BLOCK_LIMIT,
    COUNTERS,
    EXIT_NAMES,
    EXIT_READ,
    HASH_BUCKETS,
    NANOSECONDS_PER_TICK,
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


SMALLEST, SMALLER, SMALL, MEDIUM, LARGE, LARGEST = CACHES = (
    _mebibytes(0.25, 0.125, 0.25, 0.125),
    _mebibytes(1, 0.5, 1, 0.5),
    _mebibytes(2, 1, 2, 1),
    _mebibytes(8, 4, 5, 3),
    _mebibytes(22, 10, 12, 6),
    _mebibytes(44, 22, 22, 8),
)
"""What code caches there are: they begin small, since addresses below 2 GiB are scarce."""


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


class TranslatedCpu:
    """The memory of one processor, prepared for generated code.

    *machine* is the host address of the structure it shares with others.
    """

    def __init__(self, engine: Engine, machine: int, sizes: CacheSizes) -> None:
        self._engine, self._machine = engine, machine
        self._state_size = align_up(engine.layout.size, mmap.PAGESIZE)
        # Pages of an anonymous mapping cost memory only once touched.
        # Private: a child of fork has a state of its own.
        self._memory = mmap.mmap(
            -1,
            self._state_size + sum(_TABLES.values()),
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        )
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        """Host address of the CPU structure."""
        self.cpu: Any = engine.layout.at(self.address)
        """The CPU structure, live."""
        self._code, self._sizes = _map_cache(sizes)
        self._enter = engine.routine("enter", 1)
        self._change_request = engine.routine("change_request", 3)
        self.lookup = engine.routine("lookup", 4)
        self.install_region = engine.routine("install_region", 4)
        self.link_region = engine.routine("link_region", 5)
        self.start_worker = engine.routine("start_worker", 6)
        self._prepare()

    def _prepare(self) -> None:
        """Fill the CPU structure with all that generated code relies on."""
        cpu, engine = self.cpu, self._engine
        ctypes.memset(self.address, 0, engine.layout.size)
        place = self.address + self._state_size
        for name, size in _TABLES.items():
            setattr(cpu, name, place)
            place += size
        self._place_code()
        for name, address in engine.addresses.items():
            setattr(cpu, name, address)
        for number, symbol in enumerate(SYMBOLS):
            if engine.exports(symbol):
                cpu.values[number] = engine.image.address(symbol)
        cpu.machine = self._machine
        self.flush_code()

    def _place_code(self) -> None:
        """Divide the code cache."""
        cpu, place = self.cpu, self._code.address
        for name in ("hot", "cold", "site"):
            setattr(cpu, f"{name}_start", place)
            place += getattr(self._sizes, name)
            setattr(cpu, f"{name}_end", place)
        cpu.region_start = cpu.region_next = place
        self.region_end = place + self._sizes.region

    def grow(self) -> bool:
        """Take a larger code cache and forget the code; False if there is none to be had.

        The processor must be at rest.
        """
        larger = next((sizes for sizes in CACHES if sizes.hot > self._sizes.hot), None)
        if larger is None:
            return False
        try:
            code = ExecutableMemory(sum(larger))
        except NativeError:
            return False
        # Meanwhile the handler of another thread's fault finds nothing here.
        self.cpu.site_next = 0
        self._code.close()
        self._code, self._sizes = code, larger
        self._place_code()
        self.flush_code()
        return True

    def flush_code(self) -> None:
        """Forget every translation. The processor must be at rest."""
        self._engine.routine("flush_code", 1)(self.address)

    def routine_address(self, name: str) -> int:
        """Host address of a routine of the engine."""
        return self._engine.image.address(name)

    def request(self, flags: int) -> None:
        """Ask generated code to leave soon. Any thread."""
        self._change_request(self.address, flags, 0)

    def counters(self) -> dict[str, int]:
        """What this processor has done, by name of the counter."""
        cpu = self.cpu
        counts = {name: getattr(cpu, name) for name in COUNTERS}
        # What is left may be negative: a block is taken from it as a whole.
        counts["instructions"] = (cpu.instructions + cpu.slice - cpu.budget) & mask(64)
        for name in ("translated", "optimised"):
            ticks = getattr(cpu, f"{name}_ticks")
            counts[f"{name}_us"] = ticks * NANOSECONDS_PER_TICK // 1000
        for number, name in enumerate(EXIT_NAMES, EXIT_READ):
            counts[f"exits_{name}"] = cpu.exits[number]
        counts["blocks"] = cpu.block_count - 1
        for region in ("hot", "cold", "site"):
            used = getattr(cpu, f"{region}_next") - getattr(cpu, f"{region}_start")
            counts[f"{region}_bytes"] = used
        return counts

    def free(self) -> None:
        """Give the code cache back."""
        self._code.close()
