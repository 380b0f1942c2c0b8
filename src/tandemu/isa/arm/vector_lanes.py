"""What the vector instructions are made of: whole registers as lanes (Arm ARM, C4.1.96).

A vector operation of 64 bits is that of 128 whose upper half is cleared afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I64, Constant, I, V, Value, vector_of
from tandemu.ir.values import emit
from tandemu.ir.vectors import joined, lanewise, splat
from tandemu.isa.arm.state import FPSR_SATURATED
from tandemu.isa.instruction import Semantics
from tandemu.isa.tracing import OperandContext

BITS = 128
VECTOR = V(BITS)
ZERO = Constant(VECTOR, 0)
Lanes = Callable[[Any, int, Value, Value], Value]
"""(context, lane width, operands) -> result."""


def constant(c: Any, lane: int, value: int) -> Value:
    """All lanes *value*. A stencil has no place for constants of vectors: they are made there."""
    pattern = joined([value] * (64 // lane), lane)
    if c.has_constants or pattern in (0, mask(64)):
        return Constant(VECTOR, pattern | pattern << 64)
    return splat(emit("opaque", Constant(I64, pattern)), BITS)


def variable(c: Any, lane: int, value: Value) -> Value:
    """All lanes the low bits of *value*."""
    return splat(value.trunc(I(lane)), BITS)


def write_vector(c: OperandContext, value: Value) -> None:
    """Write rd, its upper half zero if the instruction is one of 64 bits."""
    whole = c.field("q")
    if isinstance(whole, Constant):
        c.write("rd", value if whole.value else low_half(value))
        return
    c.write("rd", value.with_lane(1, value.lane(1, 64) & (0 - whole)))


def low_half(value: Value) -> Value:
    """The lower half, the upper zero."""
    return vector_of(value.lane(0, 64), Constant(I64, 0))


def high_half(value: Value) -> Value:
    """The upper half in place of the lower, zero above."""
    return vector_of(value.lane(1, 64), Constant(I64, 0))


def chosen_half(c: OperandContext, value: Value) -> Value:
    """The half that an instruction with a second form ("…2") works on, as the lower one."""
    whole = c.field("q")
    if isinstance(whole, Constant):
        return high_half(value) if whole.value else value
    low, high = value.lane(0, 64), value.lane(1, 64)
    return vector_of(c.ir.select(whole != 0, high, low), Constant(I64, 0))


def write_half(c: OperandContext, low: Value) -> None:
    """Write rd: *low* into the lower half with zeros above; in the second form the upper half."""
    whole = c.field("q")
    value = low.lane(0, 64)
    first = vector_of(value, Constant(I64, 0))
    if isinstance(whole, Constant):
        c.write("rd", c.read("rd").with_lane(1, value) if whole.value else first)
        return
    old = c.read("rd").lane(0, 64)
    second = whole != 0
    low_word = c.ir.select(second, old, value)
    c.write("rd", vector_of(low_word, c.ir.select(second, value, 0)))


def read_vector(c: OperandContext, operand: str) -> Value:
    """An operand, its upper half zero if the instruction is one of 64 bits."""
    value, whole = c.read(operand), c.field("q")
    if isinstance(whole, Constant):
        return value if whole.value else low_half(value)
    return value.with_lane(1, value.lane(1, 64) & (0 - whole))


def note_saturation(c: Any, saturated: Value, exact: Value) -> None:
    """Set FPSR.QC where a result is not the exact one."""
    differs = emit("vany", emit("vxor", saturated, exact, attributes=(64,)), attributes=(64,))
    with c.ir.If(differs, likely=False):
        c.hart.fpsr = c.hart.fpsr | FPSR_SATURATED


def three(function: Lanes, lane: int) -> Semantics:
    """rd = rs1 and rs2 combined."""

    def semantics(c: OperandContext) -> None:
        write_vector(c, function(c, lane, c.read("rs1"), c.read("rs2")))

    return semantics


def accumulating(
    function: Callable[[Any, int, Value, Value, Value], Value], lane: int
) -> Semantics:
    """rd = rd, rs1 and rs2 combined."""

    def semantics(c: OperandContext) -> None:
        value = function(c, lane, c.read("rd"), c.read("rs1"), c.read("rs2"))
        write_vector(c, value)

    return semantics


def two(function: Callable[[Any, int, Value], Value], lane: int) -> Semantics:
    """rd = something of rs1."""

    def semantics(c: OperandContext) -> None:
        write_vector(c, function(c, lane, c.read("rs1")))

    return semantics


def plain(name: str) -> Lanes:
    """An operation of the embedded language."""
    return lambda c, lane, a, b: lanewise(name, lane, a, b)


def swapped(name: str) -> Lanes:
    return lambda c, lane, a, b: lanewise(name, lane, b, a)


def shuffle(c: Any, lane: int, a: Value, b: Value, places: tuple[int, ...]) -> Value:
    return emit("vshuffle", a, b, attributes=(lane, places))


def add(lane: int, a: Value, b: Value) -> Value:
    return lanewise("vadd", lane, a, b)


def sub(lane: int, a: Value, b: Value) -> Value:
    return lanewise("vsub", lane, a, b)


def both(a: Value, b: Value) -> Value:
    return lanewise("vand", 64, a, b)


def either(a: Value, b: Value) -> Value:
    return lanewise("vor", 64, a, b)


def inverted(c: Any, a: Value) -> Value:
    return lanewise("vxor", 64, a, Constant(VECTOR, mask(BITS)))


def choose(where: Value, a: Value, b: Value) -> Value:
    """The bits of *a* where *where* has ones, of *b* elsewhere."""
    return emit("vselect", where, a, b, attributes=(64,))
