"""Kernels for x86-64: ``bzImage`` by the 64-bit boot protocol, ELF ``vmlinux`` by PVH.

Sources: Linux Documentation/arch/x86/boot.rst; Xen docs/misc/pvh.pandoc (the note with the
32-bit entry point). An ELF kernel without that note is entered in 64-bit mode at its own
entry point. Files are untrusted. Left out: multiboot, 16-bit and 32-bit entry of a bzImage.
"""

from __future__ import annotations

import struct
from enum import Enum

from tandemu.bits import Record
from tandemu.board import elf
from tandemu.board.errors import LoadError
from tandemu.board.packed import unpack
from tandemu.board.program import Segment
from tandemu.board.zero_page import (
    BOOT_FLAG,
    KERNEL_64,
    MAGIC,
    SETUP_BEGIN,
    field,
)

MACHINE_X86_64 = 62
LOAD_AT = 0x10_0000
_ENTRY_64 = 0x200
_OLDEST_VERSION = 0x20C
_SECTOR = 512
_NOTE_SEGMENT, _XEN_ENTRY_NOTE = 4, 18
_MOST_NOTE_BYTES = 1 << 16
_COMMAND_LINE_BYTES = 2047

_FOREIGN = (
    (56, b"ARM\x64", "a Linux kernel for AArch64"),
    (56, b"RSC\x05", "a Linux kernel for RISC-V"),
    (0, b"!<arch>\n", "a Debian package or an archive; take the kernel out of it"),
    (0, b"070701", "an initramfs; give it with --initrd"),
)


class Protocol(Enum):
    """How a kernel is entered."""

    LINUX_64 = "the 64-bit boot protocol"
    PVH = "PVH"


class X86Kernel(Record):
    """A kernel: what to load where, how to enter it, and how much memory it takes at first."""

    name: str
    protocol: Protocol
    segments: tuple[Segment, ...]
    entry: int
    end: int
    """The address behind what it uses before it knows its memory map."""
    setup_header: bytes = b""
    initrd_limit: int = 0xFFFF_FFFF
    command_line_bytes: int = _COMMAND_LINE_BYTES


def parse_x86_kernel(data: memoryview, name: str, limit_bytes: int = 1 << 30) -> X86Kernel:
    """Read a kernel, unpacking it first if need be; `LoadError` says what is wrong with it."""
    if not data:
        raise LoadError(f"{name} is empty; give a kernel image")
    data = unpack(data, name, limit_bytes) or data
    if bytes(data[:4]) == elf.MAGIC:
        return _elf(data, name)
    if len(data) > 0x268 and field(data, "boot_flag") == BOOT_FLAG:
        if field(data, "header") == MAGIC:
            return _bzimage(data, name)
        raise LoadError(f"{name} is a boot sector, not a Linux kernel; give a bzImage or vmlinux")
    for offset, magic, what in _FOREIGN:
        if bytes(data[offset : offset + len(magic)]) == magic:
            raise LoadError(f"{name} is {what}: this board needs an x86-64 kernel")
    raise LoadError(
        f"{name} is no kernel this board can boot: must be a bzImage or an ELF vmlinux for"
        f" x86-64; it begins with {bytes(data[:8]).hex(' ')}"
    )


def _bzimage(data: memoryview, name: str) -> X86Kernel:
    version = field(data, "version")
    if version < _OLDEST_VERSION or not field(data, "xloadflags") & KERNEL_64:
        raise LoadError(
            f"{name} is a kernel without a 64-bit entry (boot protocol {version >> 8}."
            f"{version & 0xFF:02}): this board needs an x86-64 kernel of Linux 3.8 or newer"
        )
    offset = ((field(data, "setup_sects") or 4) + 1) * _SECTOR
    if offset + _ENTRY_64 >= len(data):
        raise LoadError(f"{name} is truncated: its code begins at byte {offset} of {len(data)}")
    code = data[offset:]
    preferred = field(data, "pref_address")
    end = max(LOAD_AT + len(code), preferred + field(data, "init_size"))
    header_end = 0x202 + (field(data, "jump") >> 8)
    return X86Kernel(
        name,
        Protocol.LINUX_64,
        (Segment(LOAD_AT, code, len(code)),),
        LOAD_AT + _ENTRY_64,
        end,
        bytes(data[SETUP_BEGIN:header_end]),
        field(data, "initrd_addr_max"),
        field(data, "cmdline_size") or 255,
    )


def _elf(data: memoryview, name: str) -> X86Kernel:
    program = elf.parse(data, name, xlen=64, machine=MACHINE_X86_64)
    entry = _pvh_entry(data)
    protocol = Protocol.LINUX_64 if entry is None else Protocol.PVH
    if program.start < LOAD_AT:
        raise LoadError(
            f"{name} wants to be at {program.start:#x}: this board keeps what is below"
            f" {LOAD_AT:#x} to itself; link it higher"
        )
    entry = program.entry if entry is None else entry
    if not any(one.address <= entry < one.end for one in program.segments):
        raise LoadError(f"{name}: its entry point {entry:#x} is outside of what it loads")
    return X86Kernel(name, protocol, program.segments, entry, program.end)


def _pvh_entry(data: memoryview) -> int | None:
    """The address in the note that says where PVH begins."""
    (headers,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for number in range(min(count, 256)):
        at = headers + number * size
        if at + 56 > len(data):
            break
        kind, _, offset = struct.unpack_from("<IIQ", data, at)
        (length,) = struct.unpack_from("<Q", data, at + 32)
        if kind == _NOTE_SEGMENT:
            found = _note(bytes(data[offset : offset + min(length, _MOST_NOTE_BYTES)]))
            if found is not None:
                return found
    return None


def _note(notes: bytes) -> int | None:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name_at = at + 12
        content_at = name_at + (name_size + 3 & ~3)
        name = notes[name_at : name_at + name_size].rstrip(b"\0")
        content = notes[content_at : content_at + size]
        if name == b"Xen" and kind == _XEN_ENTRY_NOTE and len(content) in (4, 8):
            return int.from_bytes(content, "little")
        at = content_at + (size + 3 & ~3)
    return None
