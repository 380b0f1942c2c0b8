"""The parts of ``riscv-virt``: each once, with its place, its wire, its description and its making.

`ENTRIES` is the list. The device tree has what an entry's *nodes* says of a board, the assembled
instance what its *make* adds; the memory map is drawn from the places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from tandemu.accel import Capability, MessageVcpu, Vcpu, Vm
from tandemu.bits import Record
from tandemu.board.device_tree import Cell, Node, Reference, Value, cells64
from tandemu.board.errors import BoardError
from tandemu.board.part import GIB, MIB, Part
from tandemu.device.aplic import REGISTER_BYTES, Aplic
from tandemu.device.cfi_flash import CfiFlash
from tandemu.device.clint import Clint
from tandemu.device.empty_slot import EmptyBus, EmptyVirtioSlot
from tandemu.device.goldfish_rtc import GoldfishRtc
from tandemu.device.imsic import PAGE_BYTES, Imsic
from tandemu.device.pci import ConfigurationWindow, HostBridge, MemoryWindow
from tandemu.device.pci.host_bridge import PINS
from tandemu.device.plic import Plic
from tandemu.device.registers import InterruptLine
from tandemu.device.syscon import Syscon
from tandemu.device.uart16550 import LINE_STATUS_OFFSET, Uart16550

if TYPE_CHECKING:
    from tandemu.board.instance import Instance
    from tandemu.board.riscv_virt import RiscvVirt

MAX_HARTS = 512
INTERRUPT_SOURCES = 95
_LEVEL_HIGH = 4
"""The kind of an interrupt, as an APLIC's binding has it."""
UART_CLOCK_HZ = 3_686_400

MESSAGE_IDENTITIES = 255
"""Of a hart's interrupt file."""

SUPERVISOR_EXTERNAL, MACHINE_EXTERNAL = 9, 11
MACHINE_SOFTWARE, MACHINE_TIMER = 3, 7


ROM = Part("boot ROM", 0x1000, 0xF000)
TEST = Part("test finisher", 0x10_0000, 0x1000)
RTC = Part("real-time clock", 0x10_1000, 0x1000, interrupt=11)
CLINT = Part("CLINT", 0x200_0000, 0x1_0000)
PCIE_PORTS = Part("PCIe ports", 0x300_0000, 0x1_0000)
PLIC = Part("PLIC", 0xC00_0000, 0x60_0000)
APLIC = Part("APLIC", 0xD00_0000, 2 * REGISTER_BYTES)
"""Instead of the PLIC, with the IMSIC."""
UART = Part("UART", 0x1000_0000, 0x100, interrupt=10)
VIRTIO = Part("virtio slot", 0x1000_1000, 0x1000, interrupt=1, count=8)
FLASH = Part("flash bank", 0x2000_0000, 32 * MIB, count=2)
IMSIC = Part("IMSIC", 0x2800_0000, MAX_HARTS * PAGE_BYTES)
"""A page for each hart."""
PCIE_CONFIGURATION = Part("PCIe configuration", 0x3000_0000, 256 * MIB, interrupt=32)
PCIE_MEMORY = Part("PCIe memory", 0x4000_0000, GIB)
PCIE_HIGH_BYTES = 16 * GIB
PCIE_HIGH_32 = Part("PCIe high memory", 12 * GIB, 4 * GIB)
"""Of a board with 32-bit harts, which have 34 physical address bits."""
RAM_BASE = 0x8000_0000


class Making(Record):
    """What a part is made with: the instance it joins, and the inputs of interrupt controllers."""

    board: RiscvVirt
    instance: Instance
    vcpus: Sequence[Vcpu]
    wired: Plic | Aplic
    """Whose inputs the other parts are wired to."""
    imsic: Imsic | None
    """Where messages go, if the board has that."""

    def line(self, number: int) -> InterruptLine:
        """Input *number* of the controller of wires."""
        return self.wired.line(number)


def _always(board: RiscvVirt) -> bool:
    return True


class Entry(Record):
    """A part of the board. *name*: of its state and its node; *make* adds it to an instance.

    *present*: which boards have it.
    """

    name: str
    part: Part
    make: Callable[[Entry, Making], None]
    nodes: Callable[[RiscvVirt], Sequence[Node]] = lambda board: ()
    """Its nodes below ``soc``."""
    present: Callable[[RiscvVirt], bool] = _always


WIRED = "wired"
"""The label of the node of the controller that parts are wired to."""


def interrupt_specifier(board: RiscvVirt, number: int) -> list[int]:
    """How the tree names input *number* of that controller."""
    return [number, _LEVEL_HIGH] if board.messages else [number]


def _node(
    board: RiscvVirt,
    name: str,
    part: Part,
    properties: dict[str, Value],
    number: int = 0,
    label: str = "",
) -> Node:
    """A node below ``soc`` for the part's *number*-th instance."""
    base = part.base + number * part.size
    common: dict[str, Value] = {"reg": cells64(base, part.size)}
    if part.interrupt:
        common["interrupt-parent"] = Reference(WIRED)
        common["interrupts"] = interrupt_specifier(board, part.interrupt + number)
    return Node(f"{name}@{base:x}", {**properties, **common}, label=label)


def _wires(board: RiscvVirt, *lines: int) -> list[Cell]:
    """These interrupt inputs of every hart in turn."""
    return [
        cell
        for hart in range(board.harts)
        for line in lines
        for cell in (Reference(f"hart{hart}"), line)
    ]


# Memory ---------------------------------------------------------------------------------


def _make_rom(entry: Entry, making: Making) -> None:
    making.instance.add_memory(entry.name, entry.part.base, entry.part.size, readonly=True)


def _make_flash(entry: Entry, making: Making) -> None:
    for number, base in enumerate(entry.part.bases()):
        _add_bank(making.instance, f"{entry.name}{number}", base, entry.part.size)


def _add_bank(instance: Instance, name: str, base: int, size: int) -> None:
    """A flash bank: a read-only slot while it is in read-array mode, a device besides."""
    region = instance.add_memory(name, base, size, readonly=True)

    def set_direct(direct: bool) -> None:
        if direct:
            instance.vm.set_memory_slot(region)
        else:
            instance.vm.remove_memory_slot(base)

    flash = CfiFlash(region.ram.view, set_direct, replaced=region.ram.replaced)
    instance.add(name, base, size, flash)


# Interrupt controllers, clock, power -----------------------------------------------------


def make_controllers(
    board: RiscvVirt, vm: Vm, vcpus: Sequence[Vcpu]
) -> tuple[Plic | Aplic, Imsic | None]:
    """The controller of wires, and where messages come in if the board has that."""
    if not board.messages:
        return _make_plic(vcpus), None
    if Capability.PROCESSOR_MESSAGES not in vm.capabilities:
        raise BoardError("a riscv-virt with messages: the engine's processors take none")
    for vcpu in vcpus:
        vcpu.set("messages.present", 1)
    imsic = Imsic([cast(MessageVcpu, vcpu).take_message for vcpu in vcpus])
    return Aplic(imsic.send, INTERRUPT_SOURCES), imsic


def _make_plic(vcpus: Sequence[Vcpu]) -> Plic:
    outputs = [
        partial(vcpu.set_interrupt, line)
        for vcpu in vcpus
        for line in (MACHINE_EXTERNAL, SUPERVISOR_EXTERNAL)
    ]
    return Plic(outputs, INTERRUPT_SOURCES)


def _add_wired(entry: Entry, making: Making) -> None:
    making.instance.add(entry.name, entry.part.base, entry.part.size, making.wired)


def _make_imsic(entry: Entry, making: Making) -> None:
    if making.imsic is not None:
        making.instance.map.add_device(entry.part.base, making.imsic.size, making.imsic)


def _without_messages(board: RiscvVirt) -> bool:
    return not board.messages


def _with_messages(board: RiscvVirt) -> bool:
    return board.messages


def _plic_nodes(board: RiscvVirt) -> list[Node]:
    properties: dict[str, Value] = {
        "compatible": ["sifive,plic-1.0.0", "riscv,plic0"],
        "interrupt-controller": True,
        "#interrupt-cells": 1,
        "#address-cells": 0,
        "riscv,ndev": INTERRUPT_SOURCES,
        "interrupts-extended": _wires(board, MACHINE_EXTERNAL, SUPERVISOR_EXTERNAL),
    }
    return [_node(board, "plic", PLIC, properties, label=WIRED)]


def _aplic_nodes(board: RiscvVirt) -> list[Node]:
    """Linux, ``riscv,aplic.yaml``."""
    properties: dict[str, Value] = {
        "compatible": "riscv,aplic",
        "interrupt-controller": True,
        "#interrupt-cells": 2,
        "#address-cells": 0,
        "msi-parent": Reference("imsics"),
        "riscv,num-sources": INTERRUPT_SOURCES,
    }
    return [_node(board, "interrupt-controller", APLIC, properties, label=WIRED)]


def _imsic_nodes(board: RiscvVirt) -> list[Node]:
    """Linux, ``riscv,imsics.yaml``."""
    properties: dict[str, Value] = {
        "compatible": "riscv,imsics",
        "interrupt-controller": True,
        "#interrupt-cells": 0,
        "msi-controller": True,
        "#msi-cells": 0,
        "interrupts-extended": _wires(board, SUPERVISOR_EXTERNAL),
        "riscv,num-ids": MESSAGE_IDENTITIES,
        "reg": cells64(IMSIC.base, board.harts * PAGE_BYTES),
    }
    return [Node(f"interrupt-controller@{IMSIC.base:x}", properties, label="imsics")]


def _make_clint(entry: Entry, making: Making) -> None:
    vm, vcpus = making.instance.vm, making.vcpus
    clint = Clint(
        len(vcpus),
        vm.time,
        vm.set_time,
        lambda hart, ticks: vcpus[hart].set("mtimecmp", ticks),
        lambda hart, level: vcpus[hart].set_interrupt(MACHINE_SOFTWARE, level),
    )
    making.instance.add(entry.name, entry.part.base, entry.part.size, clint)


def _clint_nodes(board: RiscvVirt) -> list[Node]:
    properties: dict[str, Value] = {
        "compatible": ["sifive,clint0", "riscv,clint0"],
        "interrupts-extended": _wires(board, MACHINE_SOFTWARE, MACHINE_TIMER),
    }
    return [_node(board, "clint", CLINT, properties)]


def _make_test(entry: Entry, making: Making) -> None:
    syscon = Syscon(making.instance.lent.event)
    making.instance.add(entry.name, entry.part.base, entry.part.size, syscon)


def _test_nodes(board: RiscvVirt) -> list[Node]:
    compatible = ["sifive,test1", "sifive,test0", "syscon"]
    return [_node(board, "test", TEST, {"compatible": compatible}, label="test")]


def _make_rtc(entry: Entry, making: Making) -> None:
    clock, line = making.instance.clock, making.line(entry.part.interrupt)
    alarm = clock.alarm()
    rtc = GoldfishRtc(clock.time_of_day_ns, alarm.set, line)
    alarm.ring = rtc.alarm
    making.instance.add(entry.name, entry.part.base, entry.part.size, rtc)


def _rtc_nodes(board: RiscvVirt) -> list[Node]:
    return [_node(board, "rtc", RTC, {"compatible": "google,goldfish-rtc"})]


# Console and buses ------------------------------------------------------------------------


def _make_uart(entry: Entry, making: Making) -> None:
    lent, line = making.instance.lent, making.line(entry.part.interrupt)
    uart = making.instance.uart = Uart16550(lent.console, line, lent.console_ready)
    base = entry.part.base
    if (posting := making.instance.posting) is not None:
        uart.show_status(posting.post_writes(base, base + LINE_STATUS_OFFSET, uart.write_burst))
    making.instance.add(entry.name, base, entry.part.size, uart)


def _uart_nodes(board: RiscvVirt) -> list[Node]:
    properties: dict[str, Value] = {"compatible": "ns16550a", "clock-frequency": UART_CLOCK_HZ}
    return [_node(board, "serial", UART, properties)]


def _make_virtio(entry: Entry, making: Making) -> None:
    slots = list(making.instance.lent.slots.items())
    if len(slots) > entry.part.count:
        raise BoardError(
            f"{len(slots)} devices for virtio slots: this board has {entry.part.count}; put "
            "some onto the PCI bus (if=virtio)"
        )
    for number, base in enumerate(entry.part.bases()):
        if number < len(slots):
            line = making.line(entry.part.interrupt + number)
            making.instance.plug_into_slot(*slots[number], base, entry.part.size, line)
        else:
            making.instance.map.add_device(base, entry.part.size, EmptyVirtioSlot())


def _virtio_nodes(board: RiscvVirt) -> list[Node]:
    properties: dict[str, Value] = {"compatible": "virtio,mmio"}
    return [_node(board, "virtio_mmio", VIRTIO, properties, slot) for slot in range(VIRTIO.count)]


def _make_bridge(entry: Entry, making: Making) -> None:
    """The host bridge, with nothing plugged in but itself, and all windows of the bus."""
    instance, first = making.instance, entry.part.interrupt
    wires = [making.line(first + pin) for pin in range(PINS)]
    bridge = instance.pci = HostBridge(wires, instance.doorbells)
    instance.devices[entry.name] = bridge.functions[0]
    add_device = instance.map.add_device
    imsic = making.imsic
    if imsic is not None:
        memory = instance.vm.memory

        def message(address: int, data: int) -> None:
            """A message is a write: to the files, or to memory like any other."""
            if 0 <= address - IMSIC.base < imsic.size:
                imsic.write(address - IMSIC.base, 4, data)
            else:
                memory.write(address, data.to_bytes(4, "little"))

        instance.message = message
    add_device(PCIE_PORTS.base, PCIE_PORTS.size, EmptyBus())
    add_device(entry.part.base, entry.part.size, ConfigurationWindow(bridge))
    for window in (PCIE_MEMORY, making.board.pci.high):
        add_device(window.base, window.size, MemoryWindow(bridge, window.base, window.size))


def _bridge_nodes(board: RiscvVirt) -> list[Node]:
    specifier = partial(interrupt_specifier, board)
    return [board.pci.node(WIRED, specifier, "imsics" if board.messages else "")]


def _with_the_bridge(entry: Entry, making: Making) -> None:
    pass  # a window of the host bridge, which adds it


ENTRIES = (
    Entry("rom", ROM, _make_rom),
    Entry("test", TEST, _make_test, _test_nodes),
    Entry("rtc", RTC, _make_rtc, _rtc_nodes),
    Entry("clint", CLINT, _make_clint, _clint_nodes),
    Entry("ports", PCIE_PORTS, _with_the_bridge),
    Entry("plic", PLIC, _add_wired, _plic_nodes, _without_messages),
    Entry("aplic", APLIC, _add_wired, _aplic_nodes, _with_messages),
    Entry("imsic", IMSIC, _make_imsic, _imsic_nodes, _with_messages),
    Entry("uart", UART, _make_uart, _uart_nodes),
    Entry("virtio", VIRTIO, _make_virtio, _virtio_nodes),
    Entry("flash", FLASH, _make_flash),
    Entry("pci", PCIE_CONFIGURATION, _make_bridge, _bridge_nodes),
    Entry("memory", PCIE_MEMORY, _with_the_bridge),
)
"""In the order in which they are described and made; the flash banks' node stands at the root."""


def entries(board: RiscvVirt) -> tuple[Entry, ...]:
    """The parts that *board* has."""
    return tuple(entry for entry in ENTRIES if entry.present(board))
