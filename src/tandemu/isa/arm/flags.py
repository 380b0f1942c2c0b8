"""The condition flags, and conditions on them.

Each flag is a register of the file ``flag``, 0 or 1, so that a region drops those that nobody
reads. What compared two numbers notes them on the values of its flags: where the condition sees
those very values, it compares the numbers themselves.

Arm ARM, C1.2.4 "Condition code".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tandemu.ir import I8, I64, Constant, Value
from tandemu.ir.values import emit
from tandemu.isa.arm.immediates import CONDITION_SETS
from tandemu.isa.arm.state import CARRY, EQUAL, NEGATIVE, OVERFLOW
from tandemu.isa.tracing import OperandContext

NAMES = (
    *("eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc"),
    *("hi", "ls", "ge", "lt", "gt", "le", "al", "nv"),
)


class Compared(NamedTuple):
    """Two numbers whose difference the flags are of."""

    a: Value
    b: Value


def set_flags(
    c: OperandContext,
    negative: Value,
    equal: Value,
    carry: Value | int,
    overflow: Value | int,
    compared: Compared | None = None,
) -> None:
    """Write all flags, values of one bit."""
    for number, value in (
        (NEGATIVE, negative),
        (EQUAL, equal),
        (CARRY, carry),
        (OVERFLOW, overflow),
    ):
        wide = Constant(I8, value) if isinstance(value, int) else value.zext(I8)
        if compared is not None and not isinstance(wide, Constant):
            wide.note = compared
        c.set_register("flag", number, wide)


def set_difference(c: OperandContext, a: Value, b: Value) -> Value:
    """a - b and its flags."""
    result = a - b
    overflow = emit("sub_overflows", a, b)
    set_flags(c, result.slt(0), a == b, a.uge(b), overflow, Compared(a, b))
    return result


def set_sum(c: OperandContext, a: Value, b: Value) -> Value:
    """a + b and its flags."""
    result = a + b
    set_flags(c, result.slt(0), result == 0, result.ult(a), emit("add_overflows", a, b))
    return result


def set_logic(c: OperandContext, result: Value) -> Value:
    """The flags of a logical result: no carry, no overflow."""
    set_flags(c, result.slt(0), result == 0, 0, 0)
    return result


def carry_in(c: OperandContext) -> Value:
    """The carry flag, 0 or 1."""
    return c.register("flag", CARRY)


def packed(c: OperandContext) -> Value:
    """N:Z:C:V as four bits."""
    value: Value = Constant(I64, 0)
    for number in range(4):
        value = value | (c.register("flag", number).zext(I64) << (3 - number))
    return value


def unpack(c: OperandContext, value: Value) -> None:
    """Write the flags from four bits N:Z:C:V."""
    for number in range(4):
        c.set_register("flag", number, ((value >> (3 - number)) & 1).trunc(I8))


_COMPARISONS: tuple[Callable[[Value, Value], Value] | None, ...] = (
    lambda a, b: a == b,
    lambda a, b: a.uge(b),
    lambda a, b: (a - b).slt(0),
    None,
    lambda a, b: a.ugt(b),
    lambda a, b: a.sge(b),
    lambda a, b: a.sgt(b),
)
_NEEDED = (
    (EQUAL,),
    (CARRY,),
    (NEGATIVE,),
    (OVERFLOW,),
    (CARRY, EQUAL),
    (NEGATIVE, OVERFLOW),
    (EQUAL, NEGATIVE, OVERFLOW),
)


def holds(c: OperandContext, condition: int) -> Value:
    """Whether a condition known now holds: one comparison."""
    kind, inverted = condition >> 1, bool(condition & 1)
    if kind == 7:
        return Constant(I64, 0) == 0
    flags = [c.register("flag", number) for number in _NEEDED[kind]]
    notes = [flag.note for flag in flags]
    compare = _COMPARISONS[kind]
    if compare is not None and notes[0] is not None and all(one is notes[0] for one in notes):
        result = compare(*notes[0])
        return ~result if inverted else result
    if kind == 4:
        carry, equal = flags
        return equal.uge(carry) if inverted else equal.ult(carry)
    if kind == 5:
        negative, overflow = flags
        return negative != overflow if inverted else negative == overflow
    value = flags[0] if kind < 4 else flags[0] | (flags[1] ^ flags[2])
    wants_zero = inverted if kind < 4 else not inverted
    return value == 0 if wants_zero else value != 0


def holds_for(c: OperandContext, flag_set: Value) -> Value:
    """Whether the condition holds that `immediates.CONDITION` gave *flag_set* for."""
    if isinstance(flag_set, Constant):
        return holds(c, CONDITION_SETS.index(flag_set.value))
    return (flag_set >> packed(c)).bit(0)
