"""What every processor of the translator is made of: its state, and the code it shares."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

from tandemu.bits import align_up, mask
from tandemu.jit.engine.code_cache import CodeCache
from tandemu.jit.engine.load import Engine
from tandemu.jit.shared.layout import (
    COUNTERS,
    EXIT_NAMES,
    EXIT_READ,
    NANOSECONDS_PER_TICK,
    OUTSIDE,
)


class TranslatedCpu:
    """The memory of one processor, prepared for generated code.

    *machine* is the host address of the structure it shares with others, *cache* their code.
    """

    def __init__(self, engine: Engine, machine: int, cache: CodeCache) -> None:
        self._engine, self._machine, self.cache = engine, machine, cache
        # Pages of an anonymous mapping cost memory only once touched.
        # Private: a child of fork has a state of its own.
        self._memory = mmap.mmap(
            -1,
            align_up(engine.layout.size, mmap.PAGESIZE),
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        )
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        """Host address of the CPU structure."""
        self.cpu: Any = engine.layout.at(self.address)
        """The CPU structure, live."""
        self._enter = engine.routine("enter", 1)
        self._change_request = engine.routine("change_request", 3)
        self.lookup = engine.routine("lookup", 4)
        self.make_room = engine.routine("make_room", 3)
        self.install_region = engine.routine("install_region", 4)
        self.place_region = engine.routine("place_region", 4)
        self.link_region = engine.routine("link_region", 5)
        self.start_worker = engine.routine("start_worker", 6)
        self._prepare()

    def _prepare(self) -> None:
        """Fill the CPU structure, which is all zeros, with what generated code relies on."""
        cpu, engine = self.cpu, self._engine
        cpu.epoch = OUTSIDE
        for name, address in engine.addresses.items():
            setattr(cpu, name, address)
        cpu.machine = self._machine
        cpu.code_cache = self.cache.address
        # No epoch of the cache is this: the jump caches are emptied first.
        cpu.seen_epoch = OUTSIDE

    def _begin_anew(self) -> None:
        """Forget everything. The processor must be at rest."""
        ctypes.memset(self.address, 0, self._engine.layout.size)
        self._prepare()

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
        return counts
