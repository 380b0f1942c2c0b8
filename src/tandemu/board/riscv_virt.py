"""The board ``riscv-virt`` as a value, compatible with the memory map of QEMU's ``virt``.

What is on the board, where it stands, which interrupt it has, how it is described and made is
written once, in `riscv_parts.ENTRIES`. The device tree, the drawing of the map and the assembled
instance are functions of the value and of that list.

Left out: fw_cfg, the platform bus, more than one NUMA node.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from tandemu.bits import Record, align_up
from tandemu.board.device_tree import Node, Reference, Value, cells64, flatten
from tandemu.board.errors import BoardError
from tandemu.board.part import GIB, KIB, MIB, Part
from tandemu.board.pci_host import PciWindows
from tandemu.board.riscv_parts import (
    FLASH,
    MAX_HARTS,
    PCIE_CONFIGURATION,
    PCIE_HIGH_32,
    PCIE_HIGH_BYTES,
    PCIE_MEMORY,
    PCIE_PORTS,
    RAM_BASE,
    UART,
    entries,
)

TIMEBASE_HZ = 10_000_000
CACHE_BLOCK_BYTES = 64


class RiscvVirt(Record):
    """A ``riscv-virt`` board: how much RAM, how many harts and what they can do.

    *extensions* are names as the device tree spells them (``i``, ``m``, …,
    ``zba``, ``sstc``); *mmu* is the widest translation scheme, "" for none.
    *messages*: interrupts are messages to the harts (AIA: an APLIC and interrupt files, for
    supervisor mode alone) instead of wires through a PLIC.
    """

    kind: ClassVar[Literal["riscv-virt"]] = "riscv-virt"
    memory_bytes: int = 512 * MIB
    harts: int = 1
    xlen: int = 64
    extensions: tuple[str, ...] = ("i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei")
    mmu: str = "sv48"
    messages: bool = False

    def __post_init__(self) -> None:
        if self.xlen not in (32, 64):
            raise BoardError(f"riscv-virt with {self.xlen}-bit harts: must be 32 or 64")
        if not 1 <= self.harts <= MAX_HARTS:
            raise BoardError(f"riscv-virt with {self.harts} harts: must be 1 to {MAX_HARTS}")
        # A 32-bit hart has 34 physical bits; what is above 4 GiB is of no use to most kernels.
        most = 2 * GIB if self.xlen == 32 else 1 << 46
        if not MIB <= self.memory_bytes <= most or self.memory_bytes % 4096:
            raise BoardError(
                f"riscv-virt with {self.memory_bytes} bytes of memory: must be a multiple of"
                f" 4096 from 1 MiB to {most // MIB} MiB"
            )

    @property
    def ram_end(self) -> int:
        """Guest-physical address behind the RAM."""
        return RAM_BASE + self.memory_bytes

    @property
    def pci(self) -> PciWindows:
        """Where the PCI bus is seen; the high window stands behind the RAM."""
        if self.xlen == 32:
            high = PCIE_HIGH_32
        else:
            base = align_up(self.ram_end, PCIE_HIGH_BYTES)
            high = Part("PCIe high memory", base, PCIE_HIGH_BYTES)
        return PciWindows(PCIE_CONFIGURATION, PCIE_PORTS, PCIE_MEMORY, high)

    @property
    def isa(self) -> str:
        """The architecture of its harts, as engines call it."""
        return f"riscv{self.xlen}"

    @property
    def _told_extensions(self) -> tuple[str, ...]:
        return (*self.extensions, "ssaia") if self.messages else self.extensions

    @property
    def isa_string(self) -> str:
        """The harts' extensions in the older, one-string form (``riscv,isa``)."""
        single = "".join(name for name in self._told_extensions if len(name) == 1)
        several = "".join(f"_{name}" for name in self._told_extensions if len(name) > 1)
        return f"rv{self.xlen}{single}{several}"

    def device_tree(
        self,
        *,
        bootargs: str = "",
        initrd: tuple[int, int] | None = None,
        random_seed: bytes = b"",
    ) -> Node:
        """The device tree; *initrd* is the range of addresses it occupies."""
        chosen: dict[str, Value] = {"stdout-path": f"/soc/serial@{UART.base:x}"}
        if bootargs:
            chosen["bootargs"] = bootargs
        if initrd is not None:
            chosen["linux,initrd-start"] = cells64(initrd[0])
            chosen["linux,initrd-end"] = cells64(initrd[1])
        if random_seed:
            chosen["rng-seed"] = random_seed
        return Node(
            "",
            {
                "#address-cells": 2,
                "#size-cells": 2,
                "compatible": "riscv-virtio",
                "model": "riscv-virtio,tandemu",
            },
            (
                Node("aliases", {"serial0": f"/soc/serial@{UART.base:x}"}),
                Node("chosen", chosen),
                Node(
                    f"memory@{RAM_BASE:x}",
                    {"device_type": "memory", "reg": cells64(RAM_BASE, self.memory_bytes)},
                ),
                self._cpus(),
                _system_controller("poweroff", "syscon-poweroff", 0x5555),
                _system_controller("reboot", "syscon-reboot", 0x7777),
                Node(
                    f"flash@{FLASH.base:x}",
                    {
                        "compatible": "cfi-flash",
                        "reg": cells64(*(n for base in FLASH.bases() for n in (base, FLASH.size))),
                        "bank-width": 4,
                    },
                ),
                self._soc(),
            ),
        )

    def device_tree_blob(
        self,
        *,
        bootargs: str = "",
        initrd: tuple[int, int] | None = None,
        random_seed: bytes = b"",
    ) -> bytes:
        """The flattened device tree."""
        return flatten(self.device_tree(bootargs=bootargs, initrd=initrd, random_seed=random_seed))

    def _cpus(self) -> Node:
        cpus = [self._cpu(hart) for hart in range(self.harts)]
        cores = [
            Node(f"core{hart}", {"cpu": Reference(f"cpu{hart}")}) for hart in range(self.harts)
        ]
        topology = Node("cpu-map", {}, (Node("cluster0", {}, tuple(cores)),))
        return Node(
            "cpus",
            {"#address-cells": 1, "#size-cells": 0, "timebase-frequency": TIMEBASE_HZ},
            (*cpus, topology),
        )

    def _cpu(self, hart: int) -> Node:
        properties: dict[str, Value] = {
            "device_type": "cpu",
            "reg": hart,
            "status": "okay",
            "compatible": "riscv",
            "riscv,isa": self.isa_string,
            "riscv,isa-base": f"rv{self.xlen}i",
            "riscv,isa-extensions": list(self._told_extensions),
        }
        if self.mmu:
            properties["mmu-type"] = f"riscv,{self.mmu}"
        for extension in ("zicbom", "zicboz"):
            if extension in self.extensions:
                properties[f"riscv,{extension[2:]}-block-size"] = CACHE_BLOCK_BYTES
        controller = Node(
            "interrupt-controller",
            {"#interrupt-cells": 1, "interrupt-controller": True, "compatible": "riscv,cpu-intc"},
            label=f"hart{hart}",
        )
        return Node(f"cpu@{hart:x}", properties, (controller,), label=f"cpu{hart}")

    def _soc(self) -> Node:
        nodes = [node for entry in entries(self) for node in entry.nodes(self)]
        return Node(
            "soc",
            {"#address-cells": 2, "#size-cells": 2, "compatible": "simple-bus", "ranges": True},
            tuple(nodes),
        )

    def drawing(self) -> str:
        """The memory map as text, one part a line."""
        rows = [
            (part.base, part.end, part.count, part.name, part.interrupt)
            for part in (*(entry.part for entry in entries(self)), self.pci.high)
        ]
        rows.append((RAM_BASE, self.ram_end, 1, "RAM", 0))
        lines = []
        for base, end, count, name, interrupt in sorted(rows):
            label = f"{count} x {name}" if count > 1 else name
            wire = ""
            if interrupt:
                last = interrupt + count - 1
                wire = f"  interrupt {interrupt}" + (f" to {last}" if count > 1 else "")
            size = _size((end - base) // count)
            lines.append(f"{base:#012x}  {end - 1:#012x}  {size:>8}  {label}{wire}")
        return "\n".join(lines)


def _size(size_bytes: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"


def _system_controller(name: str, compatible: str, value: int) -> Node:
    return Node(
        name,
        {"compatible": compatible, "regmap": Reference("test"), "offset": 0, "value": value},
    )
