"""Every block of a small machine's program as a region, and the machine as it began."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

from tandemu.isa import effects
from tandemu.isa.riscv.architecture import BY_XLEN
from tandemu.jit.engine.code_cache import CodeCache
from tandemu.jit.machine.vcpu import JitVcpu
from tandemu.jit.program.user import JitUserCpu
from tandemu.jit.regions.compiler import compile_request
from tandemu.jit.regions.installer import Place
from tandemu.jit.regions.request import Refusal, Region, RegionKind, RegionRequest
from tandemu.jit.shared.layout import BLOCK, INVALID
from tandemu.jit.shared.tags import block_tag, tag_address
from tests.jit.small_machine import BASE, SmallMachine

_EXPECTED = ("interpreter's", "cannot be told by", "after TailCall cannot run")
"""Why there may be no region: also accesses that LLVM joined, and one that is never aligned."""
_FIND_BLOCK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)


class Beginning:
    """The state of a machine's first hart and its RAM, to begin again without forgetting code."""

    def __init__(self, m: SmallMachine) -> None:
        self._size = m.vm.engine.layout.offset("machine")
        self._hart = ctypes.string_at(m.vcpu.address, self._size)
        self._ram = bytes(m.ram.view)

    def again(self, m: SmallMachine, slice_length: int) -> None:
        ctypes.memmove(m.vcpu.address, self._hart, self._size)
        m.ram.view[:] = self._ram
        cpu = m.cpu
        cpu.instructions = cpu.slice = cpu.budget = cpu.response_state = 0
        cpu.effects |= effects.MODE | effects.FLUSH_ALL
        cpu.slice_length = slice_length


def block_addresses(m: SmallMachine) -> list[int]:
    """The guest addresses at which the first hart has blocks."""
    return [tag_address(one.tag) for one in block_records(m.vm.cache) if one.tag != INVALID]


def block_records(cache: CodeCache) -> Iterator[Any]:
    """The records of all blocks in a code cache, of stale ones too."""
    for number in cache.block_numbers():
        yield BLOCK.at(cache.state.blocks + number * BLOCK.size)


class FirstTouch:
    """Has a region at blocks of a processor from the moment that they are touched.

    What was compiled is kept for the next run of the same program, and so is where the blocks
    were: then they are all there when the first is touched.
    """

    def __init__(self, xlen: int, levels: Sequence[int] = (1, 2), one_in: int = 1) -> None:
        """*levels* are taken in turns; *one_in* so many blocks gets a region."""
        self._isa, self._levels, self._one_in = BY_XLEN[xlen], levels, one_in
        self._places: dict[RegionKind, set[int]] = {}
        self._known: dict[tuple[RegionKind, int], list[Region]] = {}
        self._asked: set[tuple[RegionKind, int, int]] = set()
        self.compiled = self.installed = 0

    def touch(self, processor: JitVcpu | JitUserCpu) -> None:
        """Install regions at blocks that have none, of the mode that runs."""
        cpu = processor.cpu
        here = processor.place(cpu.pc)
        if here is None:
            return
        kind = here.kind
        find_block = _FIND_BLOCK(processor.routine_address("find_block"))
        places = self._places.setdefault(kind, set())
        for pc in places:
            find_block(processor.address, pc)
        for block in block_records(processor.cache):
            pc = tag_address(block.tag)
            if block.tag == block_tag(kind.context, pc):
                places.add(pc)
                place = processor.place(pc)
                if not block.region and place is not None and (pc >> 1) % self._one_in == 0:
                    self.installed += self._install(processor, place)

    def _install(self, processor: JitVcpu | JitUserCpu, place: Place) -> bool:
        known = self._known.setdefault((place.kind, place.pc), [])
        if any(processor.regions.install(one, processor, processor) for one in known):
            return True
        pages = processor.code(place)
        asked = place.kind, place.pc, hash(tuple(pages.items()))
        if asked in self._asked:
            return False
        self._asked.add(asked)
        level = self._levels[self.compiled % len(self._levels)]
        self.compiled += 1
        answer = compile_request(self._isa, RegionRequest(place.kind, place.pc, level, pages))
        if isinstance(answer, Refusal):
            assert any(reason in answer.reason for reason in _EXPECTED), answer
            return False
        known.append(answer)
        return processor.regions.install(answer, processor, processor)


def optimise(m: SmallMachine, level: int = 1) -> int:
    """Compile and install a region at every block; how many there are."""
    installed = 0
    privilege = m.cpu.privilege
    for pc in block_addresses(m):
        if pc < BASE:
            continue
        place = m.vcpu.place(pc)
        if place is None:
            continue
        pages = m.vcpu.code(place)
        answer = compile_request(BY_XLEN[m.xlen], RegionRequest(place.kind, pc, level, pages))
        if isinstance(answer, Refusal):
            assert "interpreter's" in answer.reason, answer
            continue
        installed += m.vcpu.regions.install(answer, m.vcpu, m.vcpu)
    assert m.cpu.privilege == privilege
    return installed
