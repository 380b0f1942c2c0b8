"""The state of a paused machine without its memory: read, and put into another of its kind.

Everything is named integers, as the architecture and the devices call it, so that it can be
written down, looked at and checked. Memory is its own affair: it is large, and copied, shared or
mapped as whoever moves a machine sees fit. What the guest would read of the clock is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tandemu.accel import AccelError, Vcpu, Vm
from tandemu.bits import Record
from tandemu.board import BoardError, Hart, HartState
from tandemu.device import DeviceError
from tandemu.machine.errors import MachineError

if TYPE_CHECKING:
    from tandemu.board import Instance
    from tandemu.device import State


class HartImage(Record):
    """A processor: whether it runs (`HartState`), where it is to begin, its registers by name."""

    state: int
    address: int
    opaque: int
    registers: Mapping[str, int]


class MachineState(Record):
    """A whole machine, but for its memory. *clock* is in ticks of `Vm.time`."""

    clock: int
    harts: tuple[HartImage, ...]
    controllers: Mapping[str, int]
    """Interrupt controllers that are the engine's."""
    devices: Mapping[str, Mapping[str, object]]


def read_state(vm: Vm, instance: Instance) -> MachineState:
    """The state of a machine that is at rest."""
    devices: dict[str, State] = instance.save()
    return MachineState(
        clock=vm.time(),
        harts=tuple(_hart_image(hart) for hart in instance.harts),
        controllers=vm.controllers(),
        devices=devices,
    )


def _hart_image(hart: Hart) -> HartImage:
    vcpu: Vcpu = hart.vcpu
    registers = {name: vcpu.get(name) for name in vcpu.state_names}
    return HartImage(int(hart.state), hart.address, hart.opaque, registers)


def put_state(vm: Vm, instance: Instance, state: MachineState) -> None:
    """Give a machine that is at rest the state of another of its kind.

    `MachineError` says what does not fit; the machine is then good for nothing but its end.
    """
    if len(state.harts) != len(instance.harts):
        raise MachineError(
            f"the state is of a machine with {len(state.harts)} CPU(s), this one has "
            f"{len(instance.harts)}: make one like it"
        )
    try:
        vm.set_time(state.clock)
        instance.load(state.devices)
        vm.set_controllers(state.controllers)
        for hart, image in zip(instance.harts, state.harts, strict=True):
            hart.put(HartState(image.state), image.address, image.opaque)
            hart.vcpu.set_many(image.registers)
        # Once more: setting the state of processors may take a while.
        vm.set_time(state.clock)
    except (AccelError, BoardError, DeviceError, ValueError) as error:
        raise MachineError(f"the state does not fit this machine: {error}") from error
