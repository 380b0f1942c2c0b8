"""Every block of a small machine's program as a region, and the machine as it began."""

from __future__ import annotations

import ctypes

from tandemu.isa.riscv import state as riscv
from tandemu.isa.riscv.instruction_set import BY_XLEN
from tandemu.jit.layout import BLOCK, INVALID
from tandemu.jit.regions.compiler import compile_request
from tandemu.jit.regions.request import Refusal, RegionRequest
from tests.jit.small_machine import BASE, SmallMachine

_MACHINE_BIT = 1 << 62


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
        cpu.effects |= riscv.MODE | riscv.FLUSH_ALL
        cpu.slice_length = slice_length


def block_addresses(m: SmallMachine) -> list[int]:
    """The guest addresses at which the first hart has blocks."""
    cpu = m.cpu
    records = [BLOCK.at(cpu.blocks + number * BLOCK.size) for number in range(1, cpu.block_count)]
    return [one.tag & ~(_MACHINE_BIT | 1) for one in records if one.tag != INVALID]


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
        installed += m.vcpu.regions.install(answer)
    assert m.cpu.privilege == privilege
    return installed
