"""RV64GC Linux: numbers, structure layouts, signal frame (uapi asm/ucontext.h, sigcontext.h).

Left out of signal frames: the vector state.
"""

from __future__ import annotations

import struct
from typing import Any

from tandemu.linux.architecture import Buffer
from tandemu.linux.numbers_generic import GENERIC
from tandemu.linux.riscv64_processor import CPUINFO, HARDWARE_CAPABILITIES

_RA, _SP, _TP, _A0, _A1, _A2 = 1, 2, 4, 10, 11, 12

# x86-64: dev ino nlink mode uid gid pad rdev size blksize blocks times.
_HOST_STAT = struct.Struct("<QQQIIIIQqqqQQQQQQ24x")
_STAT = struct.Struct("<QQIIIIQQqiiqQQQQQQII")

_INFORMATION = 128
_UCONTEXT_HEAD = struct.Struct("<QQQiIQQ")  # flags link sp ss_flags pad ss_size mask
_MASK_ROOM = 120
_MASK_END = _UCONTEXT_HEAD.size + _MASK_ROOM
_CONTEXT = _INFORMATION + (_MASK_END + 15 & -16)
_INTEGERS = struct.Struct("<32Q")
_FLOATS = struct.Struct("<32QI")
_CONTEXT_SIZE = 256 + 528
_MASK64 = (1 << 64) - 1
_NUMBERS = {**GENERIC, "riscv_hwprobe": 258, "riscv_flush_icache": 259}


class Riscv64:
    """RISC-V, 64-bit, with the extensions of the general-purpose set."""

    name = "riscv64"
    machine = 243
    xlen = 64
    platform = b""
    hwcap = HARDWARE_CAPABILITIES
    numbers = _NUMBERS
    number_register = 17
    first_register = _A0
    call_size = 4
    # li a7, 139; ecall: debuggers and unwinders know a frame by these two.
    trampoline = struct.pack("<II", 0x08B00893, 0x00000073)
    cpuinfo = CPUINFO
    frame_size = _CONTEXT + _CONTEXT_SIZE

    def stat(self, host: Buffer) -> bytes:
        """struct stat of asm-generic, from that of x86-64."""
        (
            dev, ino, nlink, mode, uid, gid, _, rdev, size, block_size, blocks,
            atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns,
        ) = _HOST_STAT.unpack_from(host)  # fmt: skip
        return _STAT.pack(
            dev, ino, mode, nlink & 0xFFFFFFFF, uid, gid, rdev, 0, size, block_size, 0, blocks,
            atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns, 0, 0,
        )  # fmt: skip

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

    def build_frame(
        self, state: Any, information: bytes, alternate: tuple[int, int, int], mask: int
    ) -> bytes:
        """struct rt_sigframe."""
        stack, flags, size = alternate
        frame = bytearray(self.frame_size)
        frame[: len(information)] = information
        _UCONTEXT_HEAD.pack_into(frame, _INFORMATION, 0, 0, stack, flags, 0, size, mask)
        _INTEGERS.pack_into(frame, _CONTEXT, state.pc, *state.x[1:32])
        status = state.fflags | state.frm << 5
        _FLOATS.pack_into(frame, _CONTEXT + 256, *state.f[0:32], status)
        return bytes(frame)

    def enter_handler(self, state: Any, frame: int, handler: int, signal: int, back: int) -> None:
        """handler(signal, &siginfo, &ucontext) that returns to *back*."""
        x = state.x
        x[_RA], x[_SP] = back, frame
        x[_A0], x[_A1], x[_A2] = signal, frame, frame + _INFORMATION
        state.pc = handler

    def read_frame(self, state: Any, data: bytes) -> tuple[int, tuple[int, int, int]]:
        """Restore the registers from struct rt_sigframe."""
        _, _, stack, flags, _, size, mask = _UCONTEXT_HEAD.unpack_from(data, _INFORMATION)
        integers = _INTEGERS.unpack_from(data, _CONTEXT)
        floats = _FLOATS.unpack_from(data, _CONTEXT + 256)
        state.pc = integers[0] & ~1 & _MASK64
        state.x[1:32] = list(integers[1:])
        state.f[0:32] = list(floats[:32])
        state.fflags = floats[32] & 31
        state.frm = floats[32] >> 5 & 7
        return mask, (stack, flags, size)
