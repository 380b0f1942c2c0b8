"""A ``riscv-virt`` board put together: its devices, their wires, its memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tandemu.accel import Vcpu, Vm
from tandemu.board.instance import Instance, Lent
from tandemu.board.pci_host import PciWindows
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
from tandemu.device.cfi_flash import CfiFlash
from tandemu.device.clint import Clint
from tandemu.device.empty_slot import EmptyBus, EmptyVirtioSlot
from tandemu.device.goldfish_rtc import GoldfishRtc
from tandemu.device.pci import ConfigurationWindow, HostBridge, MemoryWindow
from tandemu.device.pci.host_bridge import PINS
from tandemu.device.plic import Plic
from tandemu.device.syscon import Syscon
from tandemu.device.uart16550 import Uart16550


def assemble_riscv_virt(board: RiscvVirt, vm: Vm, vcpus: Sequence[Vcpu], lent: Lent) -> Instance:
    """Put *board* together on an engine's *vm* and *vcpus*, one a hart."""
    instance = Instance(board, vm, vcpus, lent)
    instance.add_memory("ram", RAM_BASE, board.memory_bytes)
    instance.add_memory("rom", ROM.base, ROM.size, readonly=True)
    outputs = [
        partial(vcpu.set_interrupt, line)
        for vcpu in vcpus
        for line in (MACHINE_EXTERNAL, SUPERVISOR_EXTERNAL)
    ]
    plic = Plic(outputs, INTERRUPT_SOURCES)
    instance.add("plic", PLIC.base, PLIC.size, plic)
    clint = Clint(
        len(vcpus),
        instance.vm.time,
        instance.vm.set_time,
        lambda hart, ticks: vcpus[hart].set("mtimecmp", ticks),
        lambda hart, level: vcpus[hart].set_interrupt(MACHINE_SOFTWARE, level),
    )
    instance.add("clint", CLINT.base, CLINT.size, clint)
    instance.add("test", TEST.base, TEST.size, Syscon(lent.event))
    alarm = instance.clock.alarm()
    rtc = GoldfishRtc(instance.clock.time_of_day_ns, alarm.set, plic.line(RTC.interrupt))
    alarm.ring = rtc.alarm
    instance.add("rtc", RTC.base, RTC.size, rtc)
    uart = instance.uart = Uart16550(lent.console, plic.line(UART.interrupt), lent.console_ready)
    instance.add("uart", UART.base, UART.size, uart)
    for base in VIRTIO.bases():
        instance.map.add_device(base, VIRTIO.size, EmptyVirtioSlot())
    _add_pci(instance, board.pci, plic)
    for number, base in enumerate(FLASH.bases()):
        _add_flash(instance, f"flash{number}", base, FLASH.size)
    for name, make in lent.devices.items():
        instance.plug(name, make)
    return instance


def _add_pci(instance: Instance, windows: PciWindows, plic: Plic) -> None:
    """The host bridge, with nothing plugged in but itself."""
    first = PCIE_CONFIGURATION.interrupt
    bridge = instance.pci = HostBridge([plic.line(first + pin) for pin in range(PINS)])
    instance.devices["pci"] = bridge.functions[0]
    add_device = instance.map.add_device
    add_device(PCIE_PORTS.base, PCIE_PORTS.size, EmptyBus())
    add_device(PCIE_CONFIGURATION.base, PCIE_CONFIGURATION.size, ConfigurationWindow(bridge))
    for window in (PCIE_MEMORY, windows.high):
        add_device(window.base, window.size, MemoryWindow(bridge, window.base))


def _add_flash(instance: Instance, name: str, base: int, size: int) -> None:
    """A flash bank: a read-only slot while it is in read-array mode, a device besides."""
    region = instance.add_memory(name, base, size, readonly=True)

    def set_direct(direct: bool) -> None:
        if direct:
            instance.vm.set_memory_slot(region)
        else:
            instance.vm.remove_memory_slot(base)

    flash = CfiFlash(region.ram.view, set_direct, replaced=region.ram.replaced)
    instance.add(name, base, size, flash)
