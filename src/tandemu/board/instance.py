"""A ``riscv-virt`` board put together: devices in the map, wires, RAM slots, exits answered.

`build` makes it from the board's value and what the machine lends it: an
engine's VM and vCPUs, a console, a clock. The machine's vCPU threads hand every
exit to `Instance.handle`, which answers accesses to devices and calls of
built-in firmware. Left to the machine: threads, resets (it builds anew), time-outs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Protocol

from tandemu.accel import Exit, FirmwareCall, MmioRead, MmioWrite, Vcpu, Vm
from tandemu.board.clock import Clock
from tandemu.board.errors import BoardError
from tandemu.board.hart import Hart
from tandemu.board.loader import BootPlan
from tandemu.board.riscv_virt import (
    CLINT,
    FLASH,
    INTERRUPT_SOURCES,
    MACHINE_EXTERNAL,
    MACHINE_SOFTWARE,
    PCIE_CONFIGURATION,
    PCIE_MEMORY,
    PCIE_PORTS,
    PLIC,
    RAM_BASE,
    ROM,
    RTC,
    SUPERVISOR_EXTERNAL,
    TEST,
    UART,
    VIRTIO,
    RiscvVirt,
)
from tandemu.device import Peripheral, State, SystemEvent
from tandemu.device.cfi_flash import CfiFlash
from tandemu.device.clint import Clint
from tandemu.device.empty_slot import EmptyBus, EmptyVirtioSlot
from tandemu.device.goldfish_rtc import GoldfishRtc
from tandemu.device.pci import (
    ConfigurationWindow,
    DeviceMaker,
    HostBridge,
    MemoryWindow,
    PciDevice,
    PciResources,
)
from tandemu.device.pci.host_bridge import PINS
from tandemu.device.plic import Plic
from tandemu.device.syscon import Syscon
from tandemu.device.uart16550 import Uart16550
from tandemu.memory import DeviceMap, Ram, RamRegion


class Firmware(Protocol):
    """Built-in firmware: what answers a hart's calls and how a hart enters supervisor mode."""

    def call(self, hart: Hart) -> None:
        """Answer the call for which *hart*'s vCPU has left the guest."""

    def enter(self, hart: Hart) -> None:
        """Put a hart that was started where it was asked to begin."""


class Instance:
    """One board, running. Made by `build`."""

    def __init__(self, board: RiscvVirt, vm: Vm, vcpus: Sequence[Vcpu], clock: Clock) -> None:
        if len(vcpus) != board.harts:
            raise BoardError(f"a board of {board.harts} harts cannot have {len(vcpus)} vCPUs")
        self.board = board
        self.vm = vm
        self.map = DeviceMap()
        self.harts = [Hart(index, vcpu) for index, vcpu in enumerate(vcpus)]
        self.devices: dict[str, Peripheral] = {}
        """Every device that has state, by the name under which it is saved."""
        self.memories: dict[str, Ram] = {}
        """RAM, boot ROM and flash banks."""
        self.clock = clock
        self.uart: Uart16550
        self.plic: Plic
        self.pci: HostBridge
        self.firmware: Firmware | None = None
        self.pci_devices: dict[str, PciDevice] = {}
        """What is plugged into the PCI bus, by name."""

    def plug(self, name: str, make: DeviceMaker) -> None:
        """Plug a device into the first free PCI slot; its state is saved under *name*."""
        device = make(PciResources(self.vm.memory, None))
        self.pci.plug(device.function)
        self.pci_devices[name] = device
        for part, peripheral in device.parts().items():
            self.devices[f"{name}.{part}"] = peripheral

    def handle(self, vcpu: Vcpu, exit: Exit) -> bool:
        """Answer an exit; False if it is none of the board's affairs. The vCPU's own thread."""
        if isinstance(exit, MmioWrite):
            found = self.map.write(exit.address, exit.size, exit.value)
            vcpu.complete(0 if found else None)
            return True
        if isinstance(exit, MmioRead):
            vcpu.complete(self.map.read(exit.address, exit.size))
            return True
        if isinstance(exit, FirmwareCall) and self.firmware is not None:
            self.firmware.call(self.harts[vcpu.index])
            return True
        return False

    def begin(self, plan: BootPlan) -> None:
        """Load everything and start the harts that start at power-on. Once."""
        plan.write(self.vm.memory)
        if plan.supervisor:
            self.harts[0].start(plan.entry, plan.device_tree)
        else:
            for hart in self.harts:
                hart.start(ROM.base, 0)

    def enter(self, hart: Hart) -> None:
        """Put a hart that `Hart.wait` started where it begins. Its own thread."""
        if self.firmware is not None:
            self.firmware.enter(hart)
        else:
            hart.vcpu.set("pc", hart.address)

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

    def close(self) -> None:
        """Stop the alarm and free the memory. No vCPU may be running.

        The alarm may raise an interrupt until then, so the VM is closed after this.
        """
        for hart in self.harts:
            hart.release()
        for device in self.pci_devices.values():
            device.close()
        self.clock.close()
        for ram in self.memories.values():
            ram.close()


def build(
    board: RiscvVirt,
    vm: Vm,
    vcpus: Sequence[Vcpu],
    *,
    console: Callable[[bytes], None],
    event: Callable[[SystemEvent, int], None],
    console_ready: Callable[[], None] = lambda: None,
    clock: Callable[[], int] = time.time_ns,
    devices: Mapping[str, DeviceMaker] = MappingProxyType({}),
) -> Instance:
    """Put *board* together on an engine's *vm* and *vcpus*, one a hart.

    *console* takes what the UART transmits, *console_ready* hears that the UART
    has room again; *event* takes power-off and reset; *clock* is the host's time
    in ns since 1970. Callables run on vCPU threads. *devices* are plugged into the PCI bus
    in their order.
    """
    instance = Instance(board, vm, vcpus, Clock(clock))
    _add_memory(instance, "ram", RAM_BASE, board.memory_bytes)
    _add_memory(instance, "rom", ROM.base, ROM.size, readonly=True)
    outputs = [
        partial(vcpu.set_interrupt, line)
        for vcpu in vcpus
        for line in (MACHINE_EXTERNAL, SUPERVISOR_EXTERNAL)
    ]
    plic = instance.plic = Plic(outputs, INTERRUPT_SOURCES)
    _add(instance, "plic", PLIC.base, PLIC.size, plic)
    clint = Clint(
        board.harts,
        vm.time,
        vm.set_time,
        lambda hart, ticks: vcpus[hart].set("mtimecmp", ticks),
        lambda hart, level: vcpus[hart].set_interrupt(MACHINE_SOFTWARE, level),
    )
    _add(instance, "clint", CLINT.base, CLINT.size, clint)
    _add(instance, "test", TEST.base, TEST.size, Syscon(event))
    alarm = instance.clock.alarm()
    rtc = GoldfishRtc(instance.clock.time_of_day_ns, alarm.set, plic.line(RTC.interrupt))
    alarm.ring = rtc.alarm
    _add(instance, "rtc", RTC.base, RTC.size, rtc)
    uart = instance.uart = Uart16550(console, plic.line(UART.interrupt), console_ready)
    _add(instance, "uart", UART.base, UART.size, uart)
    for base in VIRTIO.bases():
        instance.map.add_device(base, VIRTIO.size, EmptyVirtioSlot())
    _add_pci(instance, plic)
    for number, base in enumerate(FLASH.bases()):
        _add_flash(instance, f"flash{number}", base, FLASH.size)
    for name, make in devices.items():
        instance.plug(name, make)
    return instance


def _add_pci(instance: Instance, plic: Plic) -> None:
    """The host bridge, with nothing plugged in but itself."""
    first = PCIE_CONFIGURATION.interrupt
    bridge = instance.pci = HostBridge([plic.line(first + pin) for pin in range(PINS)])
    instance.devices["pci"] = bridge.functions[0]
    windows = instance.board.pci
    add_device = instance.map.add_device
    add_device(PCIE_PORTS.base, PCIE_PORTS.size, EmptyBus())
    add_device(PCIE_CONFIGURATION.base, PCIE_CONFIGURATION.size, ConfigurationWindow(bridge))
    for window in (PCIE_MEMORY, windows.high):
        add_device(window.base, window.size, MemoryWindow(bridge, window.base))


def _add(instance: Instance, name: str, base: int, size: int, device: Peripheral) -> None:
    instance.devices[name] = device
    instance.map.add_device(base, size, device)


def _add_memory(
    instance: Instance, name: str, base: int, size: int, *, readonly: bool = False
) -> RamRegion:
    ram = instance.memories[name] = Ram(size, f"guest-{name}")
    region = RamRegion(base, size, ram, readonly=readonly)
    instance.vm.set_memory_slot(region)
    return region


def _add_flash(instance: Instance, name: str, base: int, size: int) -> None:
    """A flash bank: a read-only slot while it is in read-array mode, a device besides."""
    region = _add_memory(instance, name, base, size, readonly=True)

    def set_direct(direct: bool) -> None:
        if direct:
            instance.vm.set_memory_slot(region)
        else:
            instance.vm.remove_memory_slot(base)

    _add(
        instance,
        name,
        base,
        size,
        CfiFlash(region.ram.view, set_direct, replaced=region.ram.replaced),
    )
