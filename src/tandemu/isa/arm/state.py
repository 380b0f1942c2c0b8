"""The state of an AArch64 processor: its fields, and the numbers of its registers.

Arm ARM, B1.2 "Registers in AArch64 Execution state". Plain numbers: a start from a warm cache
needs no more.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import U8, U64, Array, Layout, Scalar, mask

ZERO, STACK, SINK = 31, 32, 33
"""In the array `x`: XZR, always zero; the current SP; what is written to XZR."""
LINK = 30
NEGATIVE, EQUAL, CARRY, OVERFLOW = range(4)
"""Elements of `flag`, each 0 or 1: PSTATE.N, Z, C, V."""
NO_RESERVATION = mask(64)

# Exceptions, in `trap_cause`: the exception class of ESR_ELx (Arm ARM, D24.2.40), and beside it
# what the classes of aborts do not tell.
UNKNOWN, SYSTEM_CALL, BREAK = 0x00, 0x15, 0x3C
FETCH_ABORT, FETCH_MISALIGNED, STACK_MISALIGNED = 0x20, 0x22, 0x26
LOAD_ABORT, STORE_ABORT, LOAD_MISALIGNED, STORE_MISALIGNED = 0x124, 0x125, 0x126, 0x127

# FPCR and FPSR (C5.2.8, C5.2.9).
FPCR_FZ, FPCR_DN, FPCR_AHP, FPCR_FZ16 = 1 << 24, 1 << 25, 1 << 26, 1 << 19
FPCR_ROUNDING_SHIFT = 22
FPCR_MASK = 3 << FPCR_ROUNDING_SHIFT
"""Flushing to zero and default NaNs are missing: their bits read as zero."""
FPSR_SATURATED = 1 << 27
FPSR_MASK = FPSR_SATURATED | 0x9F

_WORDS = (
    "pc",
    # fpsr is what has been collected; flags of the host are still to come while code runs.
    *("fpcr", "fpsr", "float_slow"),
    *("tpidr_el0", "tpidrro_el0"),
    # Of a program's last fault: its address, and its syndrome as ESR_EL1 has it; 0 if none was.
    *("fault_address", "fault_status"),
    *("reservation_address", "reservation_value", "reservation_high"),
    *("effects", "fence_kind", "fence_address"),
    *("walk_physical", "walk_size", "walk_leaf", "walk_permissions"),
)


def fields() -> dict[str, Scalar | Array | Layout]:
    """The fields of a processor's structure. Vector register *n* is words 2n and 2n + 1 of `v`."""
    return {"x": U64[34], "flag": U8[4], "v": U64[64], **{name: U64 for name in _WORDS}}


def reset(view: Any) -> None:
    """Put the live structure *view* into the state after reset, all registers zero."""
    for name in _WORDS:
        setattr(view, name, 0)
    view.x[0:34] = [0] * 34
    view.v[0:64] = [0] * 64
    view.flag[0:4] = [0] * 4
    view.reservation_address = NO_RESERVATION


def condition_flags(view: Any) -> int:
    """N, Z, C and V as bits 31 to 28."""
    return sum(int(view.flag[number]) << 31 - number for number in range(4))


def set_condition_flags(view: Any, value: int) -> None:
    """The other way."""
    view.flag[0:4] = [value >> 31 - number & 1 for number in range(4)]
