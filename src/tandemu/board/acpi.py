"""ACPI tables of a machine without legacy hardware: ACPI 6.5, chapters 4.8.3.7 and 5.2.

RSDP, XSDT, FADT (hardware-reduced: sleep and reset registers instead of the old power
management block), MADT, MCFG and DSDT, made from a description and put one behind the other.
Left out: FACS, S3 and S4, processor power states, NUMA.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tandemu.bits import Record, align_up

OEM, OEM_TABLE, CREATOR = b"TANDEM", b"TANDEMU ", b"TNDM"
S5_SLEEP_TYPE = 5
SLEEP_ENABLE = 0x20
RESET_VALUE = 0x42
_FADT_BYTES, _FADT_REVISION, _MADT_REVISION = 276, 6, 5
_NO_VGA, _NO_CLOCK = 1 << 2, 1 << 5
_FADT_FLAGS = (
    1 << 0  # WBINVD works
    | 1 << 5  # no fixed sleep button
    | 1 << 4  # no fixed power button: it is a device
    | 1 << 10  # the reset register is there
    | 1 << 12  # no screen, no keyboard
    | 1 << 20  # hardware-reduced
)


class Registers(Record):
    """I/O ports of the sleep control, sleep status and reset registers."""

    sleep_control: int
    sleep_status: int
    reset: int


class Processors(Record):
    """Local APIC IDs 0 to *count* - 1, and where the APICs stand."""

    count: int
    local_apic: int
    io_apic: int
    io_apic_id: int = 0


def _checked(table: bytes, at: int) -> bytes:
    """*table* with the byte at *at* such that all bytes add up to 0."""
    total = -sum(table) & 0xFF
    return table[:at] + bytes((table[at] + total & 0xFF,)) + table[at + 1 :]


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: header (5.2.6) and *body*."""
    header = struct.pack(
        "<4sIBB6s8sI4sI",
        signature,
        36 + len(body),
        revision,
        0,
        OEM,
        OEM_TABLE,
        1,
        CREATOR,
        1,
    )
    return _checked(header + body, 9)


def _port(address: int) -> bytes:
    """A register of one byte at an I/O port, as a generic address (5.2.3.2)."""
    return struct.pack("<BBBBQ", 1, 8, 0, 1, address)


def fadt(dsdt: int, registers: Registers) -> bytes:
    """The fixed description (5.2.9)."""
    body = bytearray(_FADT_BYTES - 36)

    def put(offset: int, content: bytes) -> None:
        body[offset - 36 : offset - 36 + len(content)] = content

    put(40, struct.pack("<I", dsdt))
    put(109, struct.pack("<H", _NO_VGA | _NO_CLOCK))
    put(112, struct.pack("<I", _FADT_FLAGS))
    put(116, _port(registers.reset) + bytes((RESET_VALUE,)))
    put(131, bytes((5,)))  # minor version
    put(140, struct.pack("<Q", dsdt))
    put(244, _port(registers.sleep_control))
    put(256, _port(registers.sleep_status))
    put(268, OEM_TABLE)
    return table(b"FACP", _FADT_REVISION, bytes(body))


def madt(processors: Processors) -> bytes:
    """The interrupt controllers (5.2.12)."""
    body = struct.pack("<II", processors.local_apic, 0)
    for number in range(processors.count):
        body += struct.pack("<BBBBI", 0, 8, number, number, 1)
    body += struct.pack("<BBBBII", 1, 12, processors.io_apic_id, 0, processors.io_apic, 0)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)  # LINT1 is the NMI
    return table(b"APIC", _MADT_REVISION, body)


def mcfg(base: int, buses: int) -> bytes:
    """Where configuration space of PCI Express stands (PCI Firmware Specification, 4.1.2)."""
    return table(b"MCFG", 1, bytes(8) + struct.pack("<QHBB4x", base, 0, 0, buses - 1))


def rsdp(xsdt: int) -> bytes:
    """The root pointer (5.2.5.3)."""
    pointer = struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM, 2, 0, 36, xsdt, 0)
    return _checked(_checked(pointer[:20], 8) + pointer[20:], 32)


def tables(
    base: int,
    *,
    definitions: Sequence[bytes],
    registers: Registers,
    processors: Processors,
    others: Sequence[bytes] = (),
) -> bytes:
    """All tables for guest-physical address *base*, the root pointer first.

    *definitions* are the AML terms of the DSDT, *others* further tables.
    """
    area = bytearray(64)

    def add(content: bytes) -> int:
        area.extend(bytes(align_up(len(area), 16) - len(area)))
        place = base + len(area)
        area.extend(content)
        return place

    dsdt = add(table(b"DSDT", 2, b"".join(definitions)))
    pointers = [add(fadt(dsdt, registers)), add(madt(processors)), *map(add, others)]
    xsdt = add(table(b"XSDT", 1, struct.pack(f"<{len(pointers)}Q", *pointers)))
    area[:36] = rsdp(xsdt)
    return bytes(area)
