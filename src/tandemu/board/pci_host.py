"""The PCI Express host bridge of a board with a device tree: its node and its windows.

The binding is ``pci-host-ecam-generic`` (Linux, ``host-generic-pci.yaml``; IEEE 1275 PCI bus
binding for the three address cells).
"""

from __future__ import annotations

from collections.abc import Callable

from tandemu.bits import Record
from tandemu.board.device_tree import Cell, Node, Reference, Value, cells64
from tandemu.board.part import Part
from tandemu.device.pci.host_bridge import PINS

_PORTS, _MEMORY_32, _MEMORY_64 = 0x0100_0000, 0x0200_0000, 0x0300_0000
_BUS_BYTES = 1 << 20
_DEVICE_SHIFT = 11


class PciWindows(Record):
    """Where a board shows its PCI bus: *memory* lies below 4 GiB, *high* above it."""

    configuration: Part
    ports: Part
    memory: Part
    high: Part

    def node(
        self,
        controller: str,
        specifier: Callable[[int], list[int]] = lambda number: [number],
        messages: str = "",
    ) -> Node:
        """The node; *configuration*'s interrupts are inputs of the controller of that label.

        *specifier*: the cells by which that names an input. *messages*: the label of who takes
        messages, if anybody does.
        """
        properties: dict[str, Value] = {
            "compatible": "pci-host-ecam-generic",
            "device_type": "pci",
            "#address-cells": 3,
            "#size-cells": 2,
            "#interrupt-cells": 1,
            "linux,pci-domain": 0,
            "bus-range": [0, self.configuration.size // _BUS_BYTES - 1],
            "dma-coherent": True,
            "reg": cells64(self.configuration.base, self.configuration.size),
            "ranges": [
                *(_PORTS, *cells64(0, self.ports.base, self.ports.size)),
                *(_MEMORY_32, *_identity(self.memory)),
                *(_MEMORY_64, *_identity(self.high)),
            ],
            "interrupt-map-mask": [(PINS - 1) << _DEVICE_SHIFT, 0, 0, 7],
            "interrupt-map": self._interrupt_map(controller, specifier),
        }
        if messages:
            properties["msi-parent"] = Reference(messages)
        return Node(f"pci@{self.configuration.base:x}", properties)

    def _interrupt_map(self, controller: str, specifier: Callable[[int], list[int]]) -> list[Cell]:
        """Which input each pin drives: slots that differ by 4 share theirs."""
        cells: list[Cell] = []
        for slot in range(PINS):
            for pin in range(PINS):
                number = self.configuration.interrupt + (slot + pin) % PINS
                cells += [slot << _DEVICE_SHIFT, 0, 0, pin + 1, Reference(controller)]
                cells += specifier(number)
        return cells


def _identity(window: Part) -> list[int]:
    return cells64(window.base, window.base, window.size)
