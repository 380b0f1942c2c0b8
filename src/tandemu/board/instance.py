"""A board put together: devices in the map, RAM slots, exits answered.

What is on it is the affair of the board's own `assemble`; everything here is the same for all.
The machine's vCPU threads hand every exit to `Instance.handle`, which answers accesses to devices
and calls of built-in firmware. Left to the machine: threads, resets (it builds anew), time-outs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, cast

from tandemu.accel import (
    Capability,
    DoorbellVm,
    Exit,
    FirmwareCall,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    PostingVm,
    Vcpu,
    Vm,
)
from tandemu.bits import Record
from tandemu.board.boot_plan import BootPlan
from tandemu.board.clock import Clock
from tandemu.board.errors import BoardError
from tandemu.board.hart import Hart
from tandemu.device import Peripheral, State, SystemEvent
from tandemu.device.pci import (
    DeviceMaker,
    HostBridge,
    MessageSink,
    PciResources,
    PluggedDevice,
    SlotMaker,
)
from tandemu.device.registers import InterruptLine
from tandemu.device.uart16550 import Uart16550
from tandemu.memory import DeviceMap, Ram, RamRegion


class Firmware(Protocol):
    """Built-in firmware: what answers a hart's calls and how a hart enters supervisor mode."""

    def call(self, hart: Hart) -> None:
        """Answer the call for which *hart*'s vCPU has left the guest."""

    def enter(self, hart: Hart) -> None:
        """Put a hart that was started where it was asked to begin."""


class Board(Protocol):
    """A board as a value: how large it is. Its parts are in its own module."""

    @property
    def kind(self) -> str:
        """What it is called."""

    @property
    def harts(self) -> int:
        """How many processors it has."""

    @property
    def xlen(self) -> int:
        """Width of a register in bits."""

    @property
    def isa(self) -> str:
        """The architecture of its processors, as engines call it."""

    @property
    def memory_bytes(self) -> int:
        """How much RAM it has."""

    def drawing(self) -> str:
        """The memory map as text, one part a line."""


def _nothing() -> None:
    pass


class Lent(Record):
    """What the machine lends a board.

    *console* takes what the serial port transmits, *console_ready* hears that the port has room
    again; *event* takes power-off, reset and the like; *time_of_day* is the host's time in ns
    since 1970. Callables run on vCPU threads. *devices* are plugged into the PCI bus in order,
    *slots* are devices for the slots of a board that has those.
    """

    console: Callable[[bytes], None]
    event: Callable[[SystemEvent, int], None]
    console_ready: Callable[[], None] = _nothing
    time_of_day: Callable[[], int] = time.time_ns
    devices: Mapping[str, DeviceMaker] = MappingProxyType({})
    slots: Mapping[str, SlotMaker] = MappingProxyType({})


class Instance:
    """One board, running, on an engine's *vm* and *vcpus*, one a hart."""

    def __init__(self, board: Board, vm: Vm, vcpus: Sequence[Vcpu], lent: Lent) -> None:
        if len(vcpus) != board.harts:
            raise BoardError(f"a board of {board.harts} harts cannot have {len(vcpus)} vCPUs")
        self.board = board
        self.vm = vm
        self.lent = lent
        self.map = DeviceMap()
        self.ports = DeviceMap()
        """x86's I/O ports, a space of addresses of its own."""
        self.harts = [Hart(index, vcpu) for index, vcpu in enumerate(vcpus)]
        self.devices: dict[str, Peripheral] = {}
        """Every device that has state, by the name under which it is saved."""
        self.memories: dict[str, Ram] = {}
        """RAM, boot ROM and flash banks."""
        self.clock = Clock(lent.time_of_day)
        self.uart: Uart16550
        """The console's port."""
        self.pci: HostBridge | None = None
        self.message: MessageSink | None = None
        """Who takes messages of devices, if anybody does."""
        self.plugged: dict[str, PluggedDevice] = {}
        """What the machine was given, by name."""
        self.firmware: Firmware | None = None
        self.press_power_button: Callable[[], None] | None = None
        self._plan: BootPlan | None = None

    # What the board's assembly calls ------------------------------------------------------

    def add(
        self, name: str, base: int, size: int, device: Peripheral, *, ports: bool = False
    ) -> None:
        """Add a device with state; it is saved under *name*."""
        self.devices[name] = device
        (self.ports if ports else self.map).add_device(base, size, device)

    def add_memory(self, name: str, base: int, size: int, *, readonly: bool = False) -> RamRegion:
        """Add RAM, or ROM."""
        ram = self.memories[name] = Ram(size, f"guest-{name}")
        region = RamRegion(base, size, ram, readonly=readonly)
        self.vm.set_memory_slot(region)
        return region

    @property
    def doorbells(self) -> DoorbellVm | None:
        """Who turns kicks of devices into events without an exit, if the engine does."""
        able = Capability.DOORBELLS in self.vm.capabilities
        return cast(DoorbellVm, self.vm) if able else None

    @property
    def posting(self) -> PostingVm | None:
        """Who takes the writes of a console together, if the engine does."""
        able = Capability.POSTED_WRITES in self.vm.capabilities
        return cast(PostingVm, self.vm) if able else None

    def plug(self, name: str, make: DeviceMaker) -> None:
        """Plug a device into the first free PCI slot; its state is saved under *name*."""
        if self.pci is None:
            raise BoardError(f"the board {self.board.kind} has no bus to plug {name} into")
        device = make(PciResources(self.vm.memory, self.message))
        self.pci.plug(device.function)
        self._keep(name, device)

    def plug_into_slot(
        self, name: str, make: SlotMaker, base: int, size: int, line: InterruptLine
    ) -> None:
        """The same for the slot of *size* bytes at *base*, which has an interrupt *line*."""
        device = make(self.vm.memory, line)
        self.map.add_device(base, size, device)
        self._keep(name, device)

    def _keep(self, name: str, device: PluggedDevice) -> None:
        self.plugged[name] = device
        for part, peripheral in device.parts().items():
            self.devices[f"{name}.{part}"] = peripheral

    # Running ------------------------------------------------------------------------------

    def handle(self, vcpu: Vcpu, exit: Exit) -> bool:
        """Answer an exit; False if it is none of the board's concern. The vCPU's own thread."""
        if isinstance(exit, MmioWrite):
            found = self.map.write(exit.address, exit.size, exit.value)
            vcpu.complete(0 if found else None)
            return True
        if isinstance(exit, MmioRead):
            vcpu.complete(self.map.read(exit.address, exit.size))
            return True
        if isinstance(exit, PortWrite):
            self.ports.write(exit.port, exit.size, exit.value)
            return True
        if isinstance(exit, PortRead):
            vcpu.complete(self.ports.read(exit.port, exit.size))
            return True
        if isinstance(exit, FirmwareCall) and self.firmware is not None:
            self.firmware.call(self.harts[vcpu.index])
            return True
        return False

    def begin(self, plan: BootPlan) -> None:
        """Load everything and start the processors that start at power-on. Once."""
        plan.write(self.vm.memory)
        self._plan = plan
        for hart, start in zip(self.harts, plan.starts, strict=False):
            hart.start(start.address, start.opaque)

    def enter(self, hart: Hart) -> None:
        """Put a hart that `Hart.begin` started where it begins. Its own thread."""
        if self.firmware is not None:
            self.firmware.enter(hart)
        elif self._plan is not None:
            hart.vcpu.set_many(self._plan.starts[hart.index].registers)

    def reset_devices(self) -> None:
        """Put every device into its state after reset."""
        for device in self.devices.values():
            device.reset()

    def save(self) -> dict[str, State]:
        """The state of all devices. No vCPU may be running."""
        return {name: device.save() for name, device in self.devices.items()}

    def load(self, saved: Mapping[str, Mapping[str, object]]) -> None:
        """Restore what `save` returned; DeviceError says what does not fit."""
        if saved.keys() != self.devices.keys():
            odd = ", ".join(sorted(saved.keys() ^ self.devices.keys()))
            raise BoardError(f"the saved state is of another board; they differ in: {odd}")
        for name, device in self.devices.items():
            device.load(saved[name])
        for plugged in self.plugged.values():
            plugged.restored()

    def stop(self) -> None:
        """Stop alarms and devices, which may raise interrupts until then. No vCPU may be running.

        The VM is closed after this, and the memory freed (`close`) after that.
        """
        for hart in self.harts:
            hart.release()
        devices, self.plugged = self.plugged, {}
        for device in devices.values():
            device.close()
        self.clock.close()

    def statistics(self) -> dict[str, int]:
        """What the devices on the PCI bus have done: counters by their name and a device's."""
        return {
            f"{name}_{counter}": value
            for name, device in self.plugged.items()
            for counter, value in device.statistics().items()
        }

    def close(self) -> None:
        """Stop all, if that was not done, and free the memory."""
        self.stop()
        for ram in self.memories.values():
            ram.close()
