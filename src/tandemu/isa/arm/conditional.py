"""Conditional selection and comparison (Arm ARM, C4.1.95), and flags by themselves (FEAT_FlagM)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tandemu.ir import I8, I32, I, Value
from tandemu.isa.arm.flags import holds_for, set_difference, set_flags, set_sum
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.immediates import CONDITION
from tandemu.isa.arm.integer import SIZES, Combine, result, source
from tandemu.isa.arm.state import UNKNOWN
from tandemu.isa.instruction import Instruction, Kind, Semantics, Trait
from tandemu.isa.tracing import OperandContext


def _select(bits: int, otherwise: Callable[[Value], Value]) -> Semantics:
    def semantics(c: OperandContext) -> None:
        first, second = source(c, "rs1", bits), otherwise(source(c, "rs2", bits))
        result(c, c.ir.select(holds_for(c, c.imm), first, second))

    return semantics


def _compare(combine: Combine, bits: int, number: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a = source(c, "rs1", bits)
        b = c.field("k").trunc(I(bits)) if number else source(c, "rs2", bits)
        condition = holds_for(c, c.imm)
        values = _Flags()
        combine(_Noting(c, values), a, b)  # type: ignore[arg-type]
        given = c.field("f")
        for at in range(4):
            other = ((given >> (3 - at)) & 1).trunc(I8)
            c.set_register("flag", at, c.ir.select(condition, values.found[at], other))

    return semantics


class _Flags:
    """What an operation writes to the flags."""

    def __init__(self) -> None:
        self.found: dict[int, Value] = {}


class _Noting:
    """A context that keeps flags back."""

    def __init__(self, context: OperandContext, flags: _Flags) -> None:
        self._context, self._flags = context, flags

    def set_register(self, file: str, index: int, value: Value) -> None:
        self._flags.found[index] = value


def _conditional() -> Iterator[Instruction]:
    for bits, size, sf in SIZES:
        for name, op, op2, otherwise in (
            ("csel", "0", "00", lambda v: v), ("csinc", "0", "01", lambda v: v + 1),
            ("csinv", "1", "00", lambda v: ~v), ("csneg", "1", "01", lambda v: 0 - v),
        ):  # fmt: skip
            yield record(
                f"{name}.{size}", f"{sf}{op}0 11010100 mmmmm iiii {op2} nnnnn ddddd",
                _select(bits, otherwise), immediate=CONDITION,
            )  # fmt: skip
        for name, op, combine in (("ccmn", "0", set_sum), ("ccmp", "1", set_difference)):
            yield record(
                f"{name}.{size}", f"{sf}{op}1 11010010 mmmmm iiii 00 nnnnn 0 ffff",
                _compare(combine, bits, False), immediate=CONDITION,
            )  # fmt: skip
            yield record(
                f"{name}_imm.{size}", f"{sf}{op}1 11010010 kkkkk iiii 10 nnnnn 0 ffff",
                _compare(combine, bits, True), immediate=CONDITION,
            )  # fmt: skip


# FEAT_FlagM, FEAT_FlagM2 ---------------------------------------------------------------------


def _rotate_to_flags(c: OperandContext) -> None:
    turned = c.read("rs1").rotate_right(c.imm)
    chosen = c.field("f")
    for at in range(4):
        old = c.register("flag", at)
        new = ((turned >> (3 - at)) & 1).trunc(I8)
        wanted = ((chosen >> (3 - at)) & 1) != 0
        c.set_register("flag", at, c.ir.select(wanted, new, old))


def _set_from(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = c.read("rs1").trunc(I32)
        top = value << (32 - bits)
        overflow = ((value >> bits) ^ (value >> (bits - 1))).bit(0)
        carry = c.register("flag", 2)
        set_flags(c, top.slt(0), top == 0, carry.bit(0), overflow)

    return semantics


def _change_flags(c: OperandContext) -> None:
    """CFINV, XAFLAG and AXFLAG, by op2: change the flags as others' comparisons have them."""
    negative, equal, carry, overflow = (c.register("flag", at) for at in range(4))
    inverted = (negative, equal, carry ^ 1, overflow)
    from_others = ((carry | equal) ^ 1, equal & carry, carry | equal, (carry ^ 1) & equal)
    to_others = (negative ^ negative, equal | overflow, carry & (overflow ^ 1), negative ^ negative)
    op2 = c.field("o")
    with c.ir.If(op2.ugt(2), likely=False):
        c.raise_exception(UNKNOWN, c.word)
    for at in range(4):
        value = c.ir.select(op2 == 1, from_others[at], to_others[at])
        c.set_register("flag", at, c.ir.select(op2 == 0, inverted[at], value))


INSTRUCTIONS: tuple[Instruction, ...] = (
    *_conditional(),
    record("rmif", "10111010000 iiiiii 00001 nnnnn 0 ffff", _rotate_to_flags, extension="FlagM"),
    record("setf8", "00111010000 000000 0 0010 nnnnn 01101", _set_from(8), extension="FlagM"),
    record("setf16", "00111010000 000000 1 0010 nnnnn 01101", _set_from(16), extension="FlagM"),
    record(
        "msr_flags",
        "11010101000000000100 0000 ooo 11111",
        _change_flags,
        extension="FlagM2",
        kind=Kind.SYSTEM,
        traits=frozenset({Trait.RESUMES}),
    ),
)
