"""RISC-V, 64-bit: the registers of system calls, the frame of signal handlers.

Linux: asm/ucontext.h, asm/sigcontext.h, arch/riscv/kernel/signal.c. Left out of frames: the
vector state.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I32, I64, Builder, Value
from tandemu.isa.riscv.state import hart_fields
from tandemu.linux.native.frames import CONTEXT, AlternateStack, begin_frame, read_head
from tandemu.linux.native.layout import INFORMATION_SIZE

REGISTERS = Layout("Registers", **hart_fields(64))
"""The beginning of an engine's state."""
RESULT, CALL_SIZE = 10, 4
"""The register of a call's first argument and its result; bytes of the instruction."""
STACK_POINTER = 2
_RETURN_ADDRESS, _SECOND, _THIRD = 1, 11, 12

_FLOATS = CONTEXT + 256
_STATUS = _FLOATS + 256
FRAME_SIZE = CONTEXT + 256 + 528


def build_frame(
    b: Builder,
    state: Any,
    frame: Value,
    information: Value,
    alternate: AlternateStack,
    mask: Value,
) -> None:
    """`GuestAbi.build_frame`."""
    begin_frame(b, frame, FRAME_SIZE, information, alternate, mask)
    b.store(frame.offset(CONTEXT), state.pc)
    b.copy(frame.offset(CONTEXT + 8), state.x.pointer(1), 31 * 8)
    b.copy(frame.offset(_FLOATS), state.f.pointer(0), 32 * 8)
    b.store(frame.offset(_STATUS), (state.fflags | (state.frm << 5)).trunc(I32))


def enter_handler(
    state: Any, frame: Value, handler: Value, signal: Value, trampoline: Value
) -> None:
    """`GuestAbi.enter_handler`."""
    x = state.x
    x[_RETURN_ADDRESS], x[STACK_POINTER] = trampoline, frame
    x[RESULT], x[_SECOND], x[_THIRD] = signal, frame, frame + INFORMATION_SIZE
    state.pc = handler


def read_frame(b: Builder, state: Any, frame: Value) -> tuple[Value, AlternateStack]:
    """`GuestAbi.read_frame`."""
    state.pc = b.load(frame.offset(CONTEXT), I64) & ~1
    b.copy(state.x.pointer(1), frame.offset(CONTEXT + 8), 31 * 8)
    b.copy(state.f.pointer(0), frame.offset(_FLOATS), 32 * 8)
    status = b.load(frame.offset(_STATUS), I32).zext(I64)
    state.fflags = status & 31
    state.frm = (status >> 5) & 7
    return read_head(b, frame)


def open_flags(flags: Value) -> Value:
    """`GuestAbi.open_flags`: the host's are the same."""
    return flags
