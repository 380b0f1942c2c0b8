"""Tiny kernels for ``x86-microvm``: a bzImage and a PVH ELF file around a few instructions."""

from __future__ import annotations

import struct

CODE_OFFSET = 0x400
"""Where a bzImage's code begins: behind one sector of setup."""
ELF_BASE = 0x10_0000


def bzimage(code: str, *, init_size: int = 0x1000, version: int = 0x20F, flags: int = 1) -> bytes:
    """A kernel of the 64-bit boot protocol; *code* in hexadecimal is its 64-bit entry."""
    data = bytearray(CODE_OFFSET)
    for offset, form, value in (
        (0x1F1, "<B", 1),  # setup_sects
        (0x1FE, "<H", 0xAA55),
        (0x200, "<H", 0x6AEB),  # jump: the header ends at 0x26c
        (0x202, "<4s", b"HdrS"),
        (0x206, "<H", version),
        (0x211, "<B", 1),
        (0x22C, "<I", 0x7FFF_FFFF),
        (0x236, "<H", flags),
        (0x238, "<I", 255),
        (0x258, "<Q", 0x10_0000),
        (0x260, "<I", init_size),
    ):
        struct.pack_into(form, data, offset, value)
    return bytes(data) + bytes(0x200) + bytes.fromhex(code)


def elf(code: str, *, note: bool = True, machine: int = 62) -> bytes:
    """A 64-bit ELF file; with *note* it is entered by PVH, else in 64-bit mode."""
    body = bytes.fromhex(code)
    notes = struct.pack("<III4sI", 4, 4, 18, b"Xen", ELF_BASE) if note else b""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2, machine, 1, ELF_BASE, 64, 0, 0, 64, 56, 1 + note, 0, 0, 0,
    )  # fmt: skip
    begin = 64 + 56 * (1 + note)
    load = struct.pack(
        "<IIQQQQQQ", 1, 5, begin, ELF_BASE, ELF_BASE, len(body), len(body) + 0x1000, 4
    )
    table = load
    if note:
        table += struct.pack("<IIQQQQQQ", 4, 4, begin + len(body), 0, 0, len(notes), len(notes), 4)
    return header + table + body + notes


def say(text: str) -> str:
    """Code that prints *text*: mov dx, 0x3f8; (mov al, …; out dx, al) …"""
    return "66baf803" + "".join(f"b0{ord(letter):02x}ee" for letter in text)


def port(number: int, value: int) -> str:
    """Code that writes *value* to an I/O port: mov dx, …; mov al, …; out dx, al."""
    return "66ba" + number.to_bytes(2, "little").hex() + f"b0{value:02x}ee"


POWER_OFF = port(0x600, 0x34)
RESET = port(0x602, 0x42)
PANIC = port(0x505, 1)
FOREVER = "ebfe"
EXIT_7 = "bb000000fec70333330700" + FOREVER
"""mov ebx, 0xfe000000; mov dword [ebx], 7 << 16 | 0x3333"""
