"""The first instructions of a hart, in the boot ROM, and what they hand to firmware.

Compatible with QEMU's `virt`: a0 is the hart's number, a1 the device tree, a2
OpenSBI's ``struct fw_dynamic_info`` (docs/firmware/fw_dynamic.md, version 2).
"""

from __future__ import annotations

import struct

FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION = 0x4942534F, 2
SUPERVISOR = 1

_ZERO, _T0, _A0, _A1, _A2 = 0, 5, 10, 11, 12
_MHARTID = 0xF14
_ENTRY_AT, _DEVICE_TREE_AT, _FW_DYNAMIC_AT = 24, 32, 40


def _immediate(opcode: int, funct3: int, rd: int, rs1: int, immediate: int) -> int:
    """An instruction of the I format."""
    return (immediate & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def reset_vector(
    *, xlen: int, entry: int, device_tree: int, next_address: int = 0, boot_hart: int = 0
) -> bytes:
    """The boot ROM's content: jump to *entry*, tell firmware to go on at *next_address*."""
    load = 3 if xlen == 64 else 2
    code = struct.pack(
        "<6I",
        _T0 << 7 | 0x17,  # auipc t0, 0
        _immediate(0x13, 0, _A2, _T0, _FW_DYNAMIC_AT),  # addi a2, t0, ...
        _immediate(0x73, 2, _A0, _ZERO, _MHARTID),  # csrr a0, mhartid
        _immediate(0x03, load, _A1, _T0, _DEVICE_TREE_AT),  # ld a1, ...(t0)
        _immediate(0x03, load, _T0, _T0, _ENTRY_AT),  # ld t0, ...(t0)
        _immediate(0x67, 0, _ZERO, _T0, 0),  # jr t0
    )
    info = (
        FW_DYNAMIC_MAGIC,
        FW_DYNAMIC_VERSION,
        next_address,
        SUPERVISOR,
        0,  # options
        boot_hart,
    )
    words = "<6Q" if xlen == 64 else "<6I"
    return code + struct.pack("<2Q", entry, device_tree) + struct.pack(words, *info)
