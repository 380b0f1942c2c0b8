"""RISC-V, 64-bit: the registers of system calls, the frame of signal handlers.

Linux: asm/ucontext.h, asm/sigcontext.h, arch/riscv/kernel/signal.c. Left out of frames: the
vector state.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import U32, U64, Layout
from tandemu.ir import I32, I64, Builder, Value
from tandemu.isa.riscv.state import hart_fields
from tandemu.linux.native.layout import INFORMATION_SIZE

REGISTERS = Layout("Registers", **hart_fields(64))
"""The beginning of an engine's state."""
RESULT, CALL_SIZE = 10, 4
"""The register of a call's first argument and its result; bytes of the instruction."""
STACK_POINTER = 2
_RETURN_ADDRESS, _SECOND, _THIRD = 1, 11, 12

_CONTEXT_HEAD = Layout(
    "ContextHead",
    flags=U64, link=U64, stack=U64, stack_flags=U32, pad=U32, stack_size=U64, mask=U64,
)  # fmt: skip
_MASK_ROOM = 120
_CONTEXT = INFORMATION_SIZE + (_CONTEXT_HEAD.size + _MASK_ROOM + 15 & -16)
_FLOATS = _CONTEXT + 256
_STATUS = _FLOATS + 256
FRAME_SIZE = _CONTEXT + 256 + 528


def build_frame(
    b: Builder,
    state: Any,
    frame: Value,
    information: Value,
    alternate: tuple[Value, Value, Value],
    mask: Value,
) -> None:
    """Make a struct rt_sigframe at host address *frame*; *alternate* is sp, flags and size."""
    b.fill(frame, 0, FRAME_SIZE)
    b.copy(frame, information, INFORMATION_SIZE)
    head = b.struct(_CONTEXT_HEAD, frame.offset(INFORMATION_SIZE))
    head.stack, head.stack_size, head.mask = alternate[0], alternate[2], mask
    head.stack_flags = alternate[1].trunc(I32)
    b.store(frame.offset(_CONTEXT), state.pc)
    b.copy(frame.offset(_CONTEXT + 8), state.x.pointer(1), 31 * 8)
    b.copy(frame.offset(_FLOATS), state.f.pointer(0), 32 * 8)
    b.store(frame.offset(_STATUS), (state.fflags | (state.frm << 5)).trunc(I32))


def enter_handler(
    state: Any, frame: Value, handler: Value, signal: Value, trampoline: Value
) -> None:
    """handler(signal, &siginfo, &ucontext), which returns to *trampoline*."""
    x = state.x
    x[_RETURN_ADDRESS], x[STACK_POINTER] = trampoline, frame
    x[RESULT], x[_SECOND], x[_THIRD] = signal, frame, frame + INFORMATION_SIZE
    state.pc = handler


def read_frame(b: Builder, state: Any, frame: Value) -> tuple[Value, tuple[Value, Value, Value]]:
    """Restore the registers from a frame: its mask and alternate stack."""
    state.pc = b.load(frame.offset(_CONTEXT), I64) & ~1
    b.copy(state.x.pointer(1), frame.offset(_CONTEXT + 8), 31 * 8)
    b.copy(state.f.pointer(0), frame.offset(_FLOATS), 32 * 8)
    status = b.load(frame.offset(_STATUS), I32).zext(I64)
    state.fflags = status & 31
    state.frm = (status >> 5) & 7
    head = b.struct(_CONTEXT_HEAD, frame.offset(INFORMATION_SIZE))
    stack = (head.stack, head.stack_flags.zext(I64), head.stack_size)
    mask: Value = head.mask
    return mask, stack


def open_flags(flags: Value) -> Value:
    """`GuestAbi.open_flags`: the host's are the same."""
    return flags
