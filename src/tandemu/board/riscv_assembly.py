"""A ``riscv-virt`` board put together from its list of parts."""

from __future__ import annotations

from collections.abc import Sequence

from tandemu.accel import Vcpu, Vm
from tandemu.board.instance import Instance, Lent
from tandemu.board.riscv_parts import RAM_BASE, Making, entries, make_controllers
from tandemu.board.riscv_virt import RiscvVirt


def assemble_riscv_virt(board: RiscvVirt, vm: Vm, vcpus: Sequence[Vcpu], lent: Lent) -> Instance:
    """Put *board* together on an engine's *vm* and *vcpus*, one a hart."""
    instance = Instance(board, vm, vcpus, lent)
    instance.add_memory("ram", RAM_BASE, board.memory_bytes)
    making = Making(board, instance, vcpus, *make_controllers(board, vm, vcpus))
    for entry in entries(board):
        entry.make(entry, making)
    for name, make in lent.devices.items():
        instance.plug(name, make)
    return instance
