"""FPCR and FPSR, and the host's floating-point environment that stands for them.

Arm ARM, C5.2.8 and C5.2.9. Sticky flags are collected from the host when somebody looks; the
host's rounding mode is FPCR's.
"""

from __future__ import annotations

from typing import Any

from tandemu.ir import I64, Builder, Constant, Value
from tandemu.ir.values import emit_effect
from tandemu.isa.arm import state as arm
from tandemu.isa.effects import FLOAT

# FPSR: invalid 0, divide by zero 1, overflow 2, underflow 3, inexact 4. The host's flags come as
# inexact 0, underflow 1, overflow 2, divide by zero 3, invalid 4: the other way round.
_COUNT = 5
# FPCR.RMode: nearest, up, down, zero; `float_set_rounding`: nearest, zero, down, up.
_ROUNDING = (0, 3, 2, 1)


def _reversed(flags: Value) -> Value:
    value: Value = Constant(I64, 0)
    for number in range(_COUNT):
        value = value | (((flags >> number) & 1) << (_COUNT - 1 - number))
    return value


def collect(b: Builder, hart: Any) -> None:
    """Bring FPSR up to date with the host's flags, which are cleared."""
    flags = emit_effect("float_flags", builder=b)
    assert flags is not None
    hart.fpsr = hart.fpsr | _reversed(flags)
    emit_effect("float_clear_flags", builder=b)


def set_host_rounding(b: Builder, hart: Any) -> None:
    """Make the host round as FPCR says."""
    mode = (hart.fpcr >> arm.FPCR_ROUNDING_SHIFT) & 3
    chosen: Value = Constant(I64, _ROUNDING[0])
    for number, rounding in enumerate(_ROUNDING):
        chosen = b.select(mode == number, Constant(I64, rounding), chosen)
    emit_effect("float_set_rounding", chosen, builder=b)


def read_float_status(b: Builder, hart: Any) -> Value:
    """FPSR."""
    collect(b, hart)
    value: Value = hart.fpsr
    return value


def write_float_status(b: Builder, hart: Any, value: Value) -> None:
    emit_effect("float_clear_flags", builder=b)
    hart.fpsr = value & arm.FPSR_MASK


def write_float_control(b: Builder, hart: Any, value: Value) -> None:
    hart.fpcr = value & arm.FPCR_MASK
    update_float_slow(b, hart)
    set_host_rounding(b, hart)
    hart.effects = hart.effects | FLOAT


def update_float_slow(b: Builder, hart: Any) -> None:
    """Flushing to zero and default NaNs are not the host's: the interpreter has them."""
    slow = (hart.fpcr & (arm.FPCR_FZ | arm.FPCR_DN | arm.FPCR_FZ16)) != 0
    hart.float_slow = b.select(slow, Constant(I64, 1), Constant(I64, 0))
