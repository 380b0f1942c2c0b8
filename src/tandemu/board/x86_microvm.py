"""The board ``x86-microvm`` as a value: an x86-64 machine without legacy hardware.

What is on the board, where it stands and which interrupt it has is written here once. ACPI
tables, the memory map of the kernel and the drawing are functions of the value. It starts a
Linux kernel itself: no BIOS. Left out: PCI's I/O space, a real-time clock (kvmclock tells the
time), PS/2.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from tandemu.bits import Record
from tandemu.board import acpi, aml
from tandemu.board.acpi_power import POWER_PORTS, RESET, SLEEP_CONTROL, SLEEP_STATUS
from tandemu.board.errors import BoardError
from tandemu.board.part import GIB, MIB, Part
from tandemu.board.pci_acpi import bridge_definition
from tandemu.board.zero_page import ACPI, RAM, RESERVED, Area
from tandemu.device.pci.host_bridge import PINS

MAX_CPUS = 64
MINIMUM_BYTES = 16 * MIB
HOLE = range(0xD000_0000, 4 * GIB)
"""Where devices stand; RAM that would be there goes on behind it."""

SERIAL = Part("16550A", 0x3F8, 8, interrupt=4)
"""Ports; so are the next two."""
POWER = Part("ACPI power registers", 0x600, POWER_PORTS)
PANIC = Part("panic", 0x505, 1)
POWER_BUTTON = 9
FINISHER = Part("test finisher", 0xFE00_0000, 0x1000)
"""The same register as on ``riscv-virt``: how a guest's first process reports an exit code."""
VIRTIO = Part("virtio slot", 0xD000_0000, 0x1000, interrupt=16, count=4)
PCI_MEMORY = Part("PCIe memory", 0xD100_0000, 0xEF0_0000)
PCI_CONFIGURATION = Part("PCIe configuration", 0xE000_0000, MIB, interrupt=20, count=1)
"""Of one bus. The interrupts are the four inputs of the I/O APIC from there on."""
PCI_BUSES = 1
IO_APIC, LOCAL_APIC = 0xFEC0_0000, 0xFEE0_0000
ACPI_TABLES = range(0xE_0000, 0xF_0000)
LOW_RAM = range(0, 0x9_F000)


class X86Microvm(Record):
    """*memory_bytes* of RAM, *harts* processors, *virtio* of the slots in use; *pci*: a bus."""

    kind: ClassVar[Literal["x86-microvm"]] = "x86-microvm"
    memory_bytes: int
    harts: int = 1
    virtio: int = 0
    pci: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.harts <= MAX_CPUS:
            raise BoardError(f"{self.harts} processors: must be 1 to {MAX_CPUS}")
        if self.memory_bytes < MINIMUM_BYTES or self.memory_bytes % 4096:
            raise BoardError(
                f"{self.memory_bytes} bytes of memory: this board needs at least"
                f" {MINIMUM_BYTES // MIB} MiB, in whole pages"
            )
        if not 0 <= self.virtio <= VIRTIO.count:
            raise BoardError(f"{self.virtio} virtio devices: must be at most {VIRTIO.count}")

    @property
    def xlen(self) -> int:
        """Width of a register in bits."""
        return 64

    @property
    def isa(self) -> str:
        """The architecture of its processors, as engines call it."""
        return "x86_64"

    @property
    def memory(self) -> tuple[range, ...]:
        """Where RAM stands."""
        low = range(min(self.memory_bytes, HOLE.start))
        if len(low) == self.memory_bytes:
            return (low,)
        return low, range(HOLE.stop, HOLE.stop + self.memory_bytes - len(low))

    @property
    def areas(self) -> tuple[Area, ...]:
        """The memory map as the kernel is told of it."""
        low, *high = self.memory
        # Linux asks that it be told here that configuration space is no RAM.
        configuration = (Area(PCI_CONFIGURATION.base, PCI_CONFIGURATION.size, RESERVED),)
        return (
            Area(LOW_RAM.start, len(LOW_RAM), RAM),
            Area(LOW_RAM.stop, ACPI_TABLES.start - LOW_RAM.stop, RESERVED),
            Area(ACPI_TABLES.start, len(ACPI_TABLES), ACPI),
            Area(ACPI_TABLES.stop, MIB - ACPI_TABLES.stop, RESERVED),
            Area(MIB, low.stop - MIB, RAM),
            *(configuration if self.pci else ()),
            *(Area(one.start, len(one), RAM) for one in high),
        )

    def acpi_tables(self) -> bytes:
        """The tables, for the begin of `ACPI_TABLES`."""
        return acpi.tables(
            ACPI_TABLES.start,
            definitions=self._definitions(),
            registers=acpi.Registers(
                POWER.base + SLEEP_CONTROL, POWER.base + SLEEP_STATUS, POWER.base + RESET
            ),
            processors=acpi.Processors(self.harts, LOCAL_APIC, IO_APIC),
            others=[acpi.mcfg(PCI_CONFIGURATION.base, PCI_BUSES)] if self.pci else [],
        )

    def _definitions(self) -> list[bytes]:
        off = acpi.S5_SLEEP_TYPE
        button = "\\_SB.PWRB"
        return [
            aml.name("\\_S5", aml.package(*(aml.integer(n) for n in (off, off, 0, 0)))),
            aml.scope(
                "\\_SB",
                *(
                    aml.device(
                        f"C{number:03X}",
                        aml.name("_HID", aml.string("ACPI0007")),
                        aml.name("_UID", aml.integer(number)),
                    )
                    for number in range(self.harts)
                ),
                aml.device(
                    "COM1",
                    aml.name("_HID", aml.eisa_id("PNP0501")),
                    aml.name("_UID", aml.integer(0)),
                    aml.name(
                        "_CRS",
                        aml.resources(
                            aml.ports(SERIAL.base, SERIAL.size), aml.interrupt(SERIAL.interrupt)
                        ),
                    ),
                ),
                aml.device("PWRB", aml.name("_HID", aml.eisa_id("PNP0C0C"))),
                aml.device(
                    "GED",
                    aml.name("_HID", aml.string("ACPI0013")),
                    aml.name("_CRS", aml.resources(aml.interrupt(POWER_BUTTON))),
                    aml.method(
                        "_EVT",
                        1,
                        aml.when_equal(
                            aml.ARGUMENT0,
                            aml.integer(POWER_BUTTON),
                            aml.notify(button, 0x80),
                        ),
                        serialized=True,
                    ),
                ),
                aml.device(
                    "PEVT",
                    aml.name("_HID", aml.string("QEMU0001")),
                    aml.name("_CRS", aml.resources(aml.ports(PANIC.base, PANIC.size))),
                ),
                *(self._virtio(number) for number in range(self.virtio)),
                *self._bus(),
            ),
        ]

    def _bus(self) -> list[bytes]:
        if not self.pci:
            return []
        first = PCI_CONFIGURATION.interrupt
        inputs = range(first, first + PINS)
        return [bridge_definition("PCI0", PCI_MEMORY, PCI_BUSES, inputs)]

    def _virtio(self, number: int) -> bytes:
        return aml.device(
            f"VR{number:02X}",
            aml.name("_HID", aml.string("LNRO0005")),
            aml.name("_UID", aml.integer(number)),
            aml.name("_CCA", aml.integer(1)),
            aml.name(
                "_CRS",
                aml.resources(
                    aml.memory(VIRTIO.bases()[number], VIRTIO.size),
                    aml.interrupt(VIRTIO.interrupt + number),
                ),
            ),
        )

    def drawing(self) -> str:
        """The map of addresses and ports as text, one part a line."""
        rows = [(one.start, one.stop, "RAM") for one in self.memory]
        rows.append((IO_APIC, IO_APIC + 0x1000, "I/O APIC"))
        rows.append((FINISHER.base, FINISHER.end, FINISHER.name))
        rows.append((LOCAL_APIC, LOCAL_APIC + 0x1000, "local APIC"))
        if self.pci:
            rows += [(p.base, p.end, p.name) for p in (PCI_CONFIGURATION, PCI_MEMORY)]
        for number, base in enumerate(VIRTIO.bases()[: self.virtio]):
            wire = VIRTIO.interrupt + number
            rows.append((base, base + VIRTIO.size, f"virtio slot  interrupt {wire}"))
        lines = [f"{start:#012x}  {stop - 1:#012x}  {what}" for start, stop, what in sorted(rows)]
        for part in (SERIAL, PANIC, POWER):
            wire_text = f"  interrupt {part.interrupt}" if part.interrupt else ""
            lines.append(f"port {part.base:#06x}  port {part.end - 1:#06x}  {part.name}{wire_text}")
        return "\n".join(lines)
