"""AArch64 Linux: numbers, structure layouts, registers of the calling convention."""

from __future__ import annotations

import struct
from typing import Any

from tandemu.isa.arm.features import HWCAP, HWCAP2, MIDR, NAMES
from tandemu.isa.arm.state import STACK
from tandemu.linux.architecture import Buffer
from tandemu.linux.generic import generic_stat
from tandemu.linux.numbers_generic import GENERIC

_SYSTEM_CALL = 0xD4000001
_FAULT_IN_DATA, _FAULT_IN_CODE = 0x24, 0x20
_IS_32_BITS, _WRITE = 1 << 25, 1 << 6
_TRANSLATION, _PERMISSION = 0x07, 0x0F
"""Fault status codes of a level 3 entry."""


_NUMBERS = {**GENERIC, "renameat": 38}


class Aarch64:
    """Armv8-A in its 64-bit state."""

    name = "aarch64"
    machine = 183
    xlen = 64
    platform = b"aarch64"
    hwcap, hwcap2 = HWCAP, HWCAP2
    numbers = _NUMBERS
    number_register = 8
    first_register = 0
    call_size = 4
    # mov x8, 139; svc 0: unwinders know a frame by these two.
    trampoline = struct.pack("<II", 0xD2801168, _SYSTEM_CALL)
    cpuinfo = (
        f"processor\t: {{number}}\nBogoMIPS\t: 20.00\nFeatures\t: {NAMES} cpuid\n"
        f"CPU implementer\t: {MIDR >> 24:#x}\nCPU architecture: 8\n"
        f"CPU variant\t: {MIDR >> 20 & 15:#x}\nCPU part\t: {MIDR >> 4 & 0xFFF:#x}\n"
        f"CPU revision\t: {MIDR & 15}\n\n"
    )

    def stat(self, host: Buffer) -> bytes:
        """struct stat of asm-generic."""
        return generic_stat(host)

    def open_flags(self, flags: int) -> int:
        """As `native.aarch64.open_flags`."""
        return flags & ~(15 << 14) | (flags >> 14 & 3) << 16 | (flags >> 16 & 3) << 14

    def start(self, state: Any, entry: int, stack: int) -> None:
        """All registers zero but the program counter and the stack pointer."""
        state.x[0:34] = [0] * 34
        state.v[0:64] = [0] * 64
        state.flag[0:4] = [0] * 4
        state.fpcr = state.fpsr = state.float_slow = 0
        state.tpidr_el0 = state.fault_status = state.fault_address = 0
        state.pc = entry
        state.x[STACK] = stack

    def copy_registers(self, source: Any, target: Any) -> None:
        """Give *target* all registers of *source*."""
        target.x[0:34] = source.x[0:34]
        target.v[0:64] = source.v[0:64]
        target.flag[0:4] = source.flag[0:4]
        for name in ("pc", "fpcr", "fpsr", "float_slow", "tpidr_el0"):
            setattr(target, name, getattr(source, name))

    def start_thread(self, state: Any, stack: int, thread_pointer: int | None) -> None:
        """The child of clone: returns 0, maybe on another stack."""
        state.x[0] = 0
        if stack:
            state.x[STACK] = stack
        if thread_pointer is not None:
            state.tpidr_el0 = thread_pointer

    def set_thread_pointer(self, state: Any, value: int) -> None:
        """TPIDR_EL0."""
        state.tpidr_el0 = value

    def stack_pointer(self, state: Any) -> int:
        """SP."""
        value: int = state.x[STACK]
        return value

    def note_fault(self, state: Any, address: int, access: str, mapped: bool) -> None:
        """What a frame tells of the fault: its address and ESR (Arm ARM, D24.2.40)."""
        kind = _FAULT_IN_CODE if access == "execute" else _FAULT_IN_DATA
        status = _PERMISSION if mapped else _TRANSLATION
        state.fault_address = address
        write = _WRITE if access == "write" else 0
        state.fault_status = kind << 26 | _IS_32_BITS | write | status
