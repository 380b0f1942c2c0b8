"""The PCI Express host bridge of a board with ACPI tables.

PCI Firmware Specification 3.3, chapter 4 (the device PNP0A08); ACPI 6.5, section 6.2.13 (_PRT).
"""

from __future__ import annotations

from collections.abc import Sequence

from tandemu.board import aml
from tandemu.board.part import Part
from tandemu.device.pci.host_bridge import PINS, SLOTS


def bridge_definition(name: str, memory: Part, buses: int, inputs: Sequence[int]) -> bytes:
    """The device *name* in AML; pin *p* of slot *s* drives input (*p* + *s*) mod 4 of *inputs*.

    *memory* is the window for BARs.
    """
    routes = [
        aml.package(
            aml.integer(slot << 16 | 0xFFFF),
            aml.integer(pin),
            aml.integer(0),
            aml.integer(inputs[(slot + pin) % PINS]),
        )
        for slot in range(SLOTS)
        for pin in range(PINS)
    ]
    windows = aml.bus_numbers(0, buses - 1), aml.memory_window(memory.base, memory.size)
    return aml.device(
        name,
        aml.name("_HID", aml.eisa_id("PNP0A08")),
        aml.name("_CID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_SEG", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name("_CCA", aml.integer(1)),
        aml.name("_CRS", aml.resources(*windows)),
        aml.name("_PRT", aml.package(*routes)),
    )
