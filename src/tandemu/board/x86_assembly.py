"""An ``x86-microvm`` put together: ports and addresses, wires, memory.

Local APICs, I/O APIC and clocks are the engine's; a device's wire is an input of the I/O APIC.
The first processor begins at the kernel, the others wait in the engine until it starts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from tandemu.accel import Capability, ControllerVm, Vcpu, Vm
from tandemu.board.acpi_power import AcpiPower, PanicPort
from tandemu.board.errors import BoardError
from tandemu.board.instance import Instance, Lent
from tandemu.board.x86_microvm import (
    FINISHER,
    PANIC,
    PCI_CONFIGURATION,
    PCI_MEMORY,
    POWER,
    POWER_BUTTON,
    SERIAL,
    VIRTIO,
    X86Microvm,
)
from tandemu.device.empty_slot import EmptyVirtioSlot
from tandemu.device.pci import ConfigurationWindow, HostBridge, MemoryWindow
from tandemu.device.pci.host_bridge import PINS
from tandemu.device.syscon import Syscon
from tandemu.device.uart16550 import Uart16550
from tandemu.memory import Ram, RamRegion


def _add_bus(instance: Instance, line: Callable[[int], Callable[[bool], None]]) -> None:
    """The host bridge, with nothing plugged in but itself, and the windows of the bus."""
    first = PCI_CONFIGURATION.interrupt
    wires = [line(number) for number in range(first, first + PINS)]
    bridge = instance.pci = HostBridge(wires, instance.doorbells)
    instance.devices["pci"] = bridge.functions[0]
    add_device = instance.map.add_device
    add_device(PCI_CONFIGURATION.base, PCI_CONFIGURATION.size, ConfigurationWindow(bridge))
    window = MemoryWindow(bridge, PCI_MEMORY.base, PCI_MEMORY.size)
    add_device(PCI_MEMORY.base, PCI_MEMORY.size, window)


def assemble_x86_microvm(board: X86Microvm, vm: Vm, vcpus: Sequence[Vcpu], lent: Lent) -> Instance:
    """Put *board* together on an engine's *vm* and *vcpus*."""
    if Capability.INTERRUPT_LINES not in vm.capabilities:
        raise BoardError(
            "the board x86-microvm needs an engine with APICs: use --accel kvm, on an x86-64 host"
        )
    controller = cast(ControllerVm, vm)
    instance = Instance(board, vm, vcpus, lent)
    ram = instance.memories["ram"] = Ram(board.memory_bytes, "guest-ram")
    offset = 0
    for place in board.memory:
        vm.set_memory_slot(RamRegion(place.start, len(place), ram, offset))
        offset += len(place)

    def line(number: int) -> Callable[[bool], None]:
        return partial(controller.set_interrupt_line, number)

    uart = instance.uart = Uart16550(lent.console, line(SERIAL.interrupt), lent.console_ready)
    if Capability.COALESCED_PORTS in vm.capabilities:
        controller.coalesce_port(SERIAL.base, uart.write_burst)
    for name, base, size, device in (
        ("uart", SERIAL.base, SERIAL.size, uart),
        ("power", POWER.base, POWER.size, AcpiPower(lent.event)),
        ("panic", PANIC.base, PANIC.size, PanicPort(lent.event)),
    ):
        instance.add(name, base, size, device, ports=True)
    instance.add("finisher", FINISHER.base, FINISHER.size, Syscon(lent.event))
    for base in VIRTIO.bases()[: board.virtio]:
        instance.map.add_device(base, VIRTIO.size, EmptyVirtioSlot())

    if board.pci:
        _add_bus(instance, line)
        instance.message = controller.signal_message
    for name, make in lent.devices.items():
        instance.plug(name, make)
    if lent.slots:
        raise BoardError(
            f"{next(iter(lent.slots))} in a virtio slot: the board x86-microvm puts none into its"
            " slots; put it onto the PCI bus (if=virtio)"
        )

    def press() -> None:
        controller.set_interrupt_line(POWER_BUTTON, True)
        controller.set_interrupt_line(POWER_BUTTON, False)

    instance.press_power_button = press
    return instance
