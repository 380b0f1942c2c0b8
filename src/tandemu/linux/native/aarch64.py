"""AArch64: the registers of system calls, the frame of signal handlers.

Linux: arch/arm64/include/uapi/asm/sigcontext.h and ucontext.h, kernel/signal.c, asm/fcntl.h. Of
the records of a frame there are FPSIMD's and, after a fault, that with its syndrome.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import U32, U64, Layout
from tandemu.ir import I32, I64, Builder, Constant, Value
from tandemu.isa.arm import state as arm
from tandemu.linux.native.frames import CONTEXT, AlternateStack, begin_frame, read_head
from tandemu.linux.native.layout import INFORMATION_SIZE

REGISTERS = Layout("Registers", **arm.fields())
RESULT, CALL_SIZE = 0, 4
STACK_POINTER = arm.STACK
_FRAME_POINTER = 29

_MACHINE = Layout("MachineContext", fault_address=U64, x=U64[31], sp=U64, pc=U64, pstate=U64)
_RECORDS = CONTEXT + (_MACHINE.size + 15 & -16)
_RECORDS_SIZE = 4096
_FLOATS = Layout("FpsimdContext", magic=U32, size=U32, fpsr=U32, fpcr=U32, v=U64[64])
_FPSIMD_MAGIC, _ESR_MAGIC = 0x46508001, 0x45535201
_SYNDROME = _RECORDS + _FLOATS.size
_LINKED = _RECORDS + _RECORDS_SIZE
"""A record of frame pointer and return address, by which unwinders go on."""
FRAME_SIZE = _LINKED + 16


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
    machine = b.struct(_MACHINE, frame.offset(CONTEXT))
    machine.fault_address = state.fault_address
    b.copy(machine.pointer("x"), state.x.pointer(0), 31 * 8)
    machine.sp, machine.pc = state.x[STACK_POINTER], state.pc
    flags: Value = Constant(I64, 0)
    for number in range(4):
        flags = flags | (state.flag[number].zext(I64) << (31 - number))
    machine.pstate = flags
    floats = b.struct(_FLOATS, frame.offset(_RECORDS))
    floats.magic, floats.size = _FPSIMD_MAGIC, _FLOATS.size
    floats.fpsr, floats.fpcr = state.fpsr.trunc(I32), state.fpcr.trunc(I32)
    b.copy(floats.pointer("v"), state.v.pointer(0), 512)
    with b.If(state.fault_status != 0):
        b.store(frame.offset(_SYNDROME), Constant(I64, 16 << 32 | _ESR_MAGIC))
        b.store(frame.offset(_SYNDROME + 8), state.fault_status)
    b.store(frame.offset(_LINKED), state.x[_FRAME_POINTER])
    b.store(frame.offset(_LINKED + 8), state.x[arm.LINK])


def enter_handler(
    state: Any, frame: Value, handler: Value, signal: Value, trampoline: Value
) -> None:
    """`GuestAbi.enter_handler`."""
    x = state.x
    x[0], x[1], x[2] = signal, frame, frame + INFORMATION_SIZE
    x[_FRAME_POINTER], x[arm.LINK], x[STACK_POINTER] = frame + _LINKED, trampoline, frame
    state.pc = handler


def read_frame(b: Builder, state: Any, frame: Value) -> tuple[Value, AlternateStack]:
    """`GuestAbi.read_frame`. Without a record of FPSIMD first, its registers stay as they are."""
    machine = b.struct(_MACHINE, frame.offset(CONTEXT))
    b.copy(state.x.pointer(0), machine.pointer("x"), 31 * 8)
    state.x[STACK_POINTER], state.pc = machine.sp, machine.pc
    for number in range(4):
        state.flag[number] = ((machine.pstate >> (31 - number)) & 1).trunc(state.flag[0].type)
    floats = b.struct(_FLOATS, frame.offset(_RECORDS))
    with b.If((floats.magic == _FPSIMD_MAGIC) & (floats.size == _FLOATS.size)):
        state.fpsr = floats.fpsr.zext(I64) & arm.FPSR_MASK
        state.fpcr = floats.fpcr.zext(I64) & arm.FPCR_MASK
        b.copy(state.v.pointer(0), floats.pointer("v"), 512)
    return read_head(b, frame)


def open_flags(flags: Value) -> Value:
    """O_DIRECTORY and O_NOFOLLOW stand where x86 has O_DIRECT and O_LARGEFILE, and vice versa."""
    low, high = (flags >> 14) & 3, (flags >> 16) & 3
    return (flags & ~(15 << 14)) | (low << 16) | (high << 14)
