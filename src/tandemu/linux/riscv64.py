"""RV64GC Linux: numbers, structure layouts, registers of the calling convention."""

from __future__ import annotations

import struct
from typing import Any

from tandemu.linux.architecture import Buffer
from tandemu.linux.generic import generic_stat
from tandemu.linux.numbers_generic import GENERIC
from tandemu.linux.riscv64_processor import CPUINFO, HARDWARE_CAPABILITIES

_SP, _TP, _A0 = 2, 4, 10

_NUMBERS = {**GENERIC, "riscv_hwprobe": 258, "riscv_flush_icache": 259}


class Riscv64:
    """RISC-V, 64-bit, with the extensions of the general-purpose set."""

    name = "riscv64"
    machine = 243
    xlen = 64
    platform = b""
    hwcap, hwcap2 = HARDWARE_CAPABILITIES, 0
    numbers = _NUMBERS
    number_register = 17
    first_register = _A0
    call_size = 4
    # li a7, 139; ecall: debuggers and unwinders know a frame by these two.
    trampoline = struct.pack("<II", 0x08B00893, 0x00000073)
    cpuinfo = CPUINFO

    def stat(self, host: Buffer) -> bytes:
        """struct stat of asm-generic."""
        return generic_stat(host)

    def open_flags(self, flags: int) -> int:
        """The host's are the same."""
        return flags

    def start(self, state: Any, entry: int, stack: int) -> None:
        """All registers zero but the program counter and the stack pointer."""
        for number in range(32):
            state.x[number] = 0
            state.f[number] = 0
        state.fflags = 0
        state.frm = 0
        state.pc = entry
        state.x[_SP] = stack

    def copy_registers(self, source: Any, target: Any) -> None:
        """Give *target* all registers of *source*."""
        target.x[0:32] = source.x[0:32]
        target.f[0:32] = source.f[0:32]
        target.pc = source.pc
        target.fflags = source.fflags
        target.frm = source.frm

    def start_thread(self, state: Any, stack: int, thread_pointer: int | None) -> None:
        """The child of clone: returns 0, maybe on another stack."""
        state.x[_A0] = 0
        if stack:
            state.x[_SP] = stack
        if thread_pointer is not None:
            state.x[_TP] = thread_pointer

    def set_thread_pointer(self, state: Any, value: int) -> None:
        """tp."""
        state.x[_TP] = value

    def stack_pointer(self, state: Any) -> int:
        """sp."""
        value: int = state.x[_SP]
        return value

    def note_fault(self, state: Any, address: int, access: str, mapped: bool) -> None:
        """A frame tells nothing of it but its siginfo_t."""
