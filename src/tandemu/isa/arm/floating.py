"""Scalar floating point: singles and doubles (Arm ARM, C4.1.96.27 and after)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I8, I32, I64, Constant, I, Value, vector_of
from tandemu.ir.values import emit
from tandemu.isa.arm.flags import holds_for, set_flags
from tandemu.isa.arm.float_lanes import (
    AS_FPCR,
    AWAY,
    DOWN,
    TO_NEAREST,
    TO_ZERO,
    UP,
    compared,
    compute,
    converted,
    extremum,
    multiply_add,
    negated,
    to_integer,
    to_integral,
)
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.immediates import CONDITION, FLOAT_CONSTANTS
from tandemu.isa.arm.state import UNKNOWN
from tandemu.isa.instruction import Instruction, Kind, Semantics
from tandemu.isa.tracing import OperandContext

KINDS = ((32, "s", "00"), (64, "d", "01"))
_FLAGS = frozenset({"none"})


def lowest(c: OperandContext, operand: str, bits: int) -> Value:
    """The pattern in the lowest lane of a vector register."""
    return c.read(operand).lane(0, bits)


def write_scalar(c: OperandContext, pattern: Value) -> None:
    """Write rd, with zeros above."""
    c.write("rd", vector_of(pattern.zext(I64), Constant(I64, 0)))


def _two(function: Callable[[Any, Value, Value], Value], bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_scalar(c, function(c, lowest(c, "rs1", bits), lowest(c, "rs2", bits)))

    return semantics


def _one(function: Callable[[Any, Value], Value], bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_scalar(c, function(c, lowest(c, "rs1", bits)))

    return semantics


def _negated_product(c: Any, a: Value, b: Value) -> Value:
    return negated(compute(c, "fmul", a, b))


TWO: tuple[tuple[str, int, Callable[[Any, Value, Value], Value]], ...] = (
    ("fmul", 0, lambda c, a, b: compute(c, "fmul", a, b)),
    ("fdiv", 1, lambda c, a, b: compute(c, "fdiv", a, b)),
    ("fadd", 2, lambda c, a, b: compute(c, "fadd", a, b)),
    ("fsub", 3, lambda c, a, b: compute(c, "fsub", a, b)),
    ("fmax", 4, lambda c, a, b: extremum(c, a, b, True, False)),
    ("fmin", 5, lambda c, a, b: extremum(c, a, b, False, False)),
    ("fmaxnm", 6, lambda c, a, b: extremum(c, a, b, True, True)),
    ("fminnm", 7, lambda c, a, b: extremum(c, a, b, False, True)),
    ("fnmul", 8, _negated_product),
)
ROUNDINGS = (
    ("n", TO_NEAREST, 8, False), ("p", UP, 9, False), ("m", DOWN, 10, False),
    ("z", TO_ZERO, 11, False), ("a", AWAY, 12, False), ("x", AS_FPCR, 14, True),
    ("i", AS_FPCR, 15, False),
)  # fmt: skip


def absolute(c: Any, a: Value) -> Value:
    return a & mask(a.type.bits - 1)


def _arithmetic() -> Iterator[Instruction]:
    for bits, size, kind in KINDS:
        for name, opcode, function in TWO:
            yield record(
                f"{name}.{size}", f"00011110 {kind} 1 uuuuu {opcode:04b} 10 wwwww vvvvv",
                _two(function, bits), floating=True, extension="FP",
            )  # fmt: skip
        moves: tuple[tuple[str, int, Callable[[Any, Value], Value]], ...] = (
            ("fmov", 0, lambda c, a: a), ("fabs", 1, absolute),
            ("fneg", 2, lambda c, a: negated(a)),
        )  # fmt: skip
        for name, opcode, one in moves:
            yield record(
                f"{name}.{size}", f"00011110 {kind} 1 {opcode:06b} 10000 wwwww vvvvv",
                _one(one, bits), extension="FP",
            )  # fmt: skip
        yield record(
            f"fsqrt.{size}", f"00011110 {kind} 1 000011 10000 wwwww vvvvv",
            _one(lambda c, a: compute(c, "fsqrt", a), bits), floating=True, extension="FP",
        )  # fmt: skip
        other, opcode = (64, 5) if bits == 32 else (32, 4)
        yield record(
            f"fcvt.{size}{'d' if other == 64 else 's'}",
            f"00011110 {kind} 1 {opcode:06b} 10000 wwwww vvvvv",
            _one(lambda c, a, n=other: converted(c, a, n), bits),  # type: ignore[misc]
            floating=True, extension="FP",
        )  # fmt: skip
        for letter, rounding, opcode, exact in ROUNDINGS:
            yield record(
                f"frint{letter}.{size}", f"00011110 {kind} 1 {opcode:06b} 10000 wwwww vvvvv",
                _one(lambda c, a, r=rounding, e=exact: to_integral(c, a, r, e), bits),  # type: ignore[misc]
                floating=True, extension="FP",
            )  # fmt: skip
        for name, o1, o0, minus_product, minus_addend in (
            ("fmadd", 0, 0, False, False), ("fmsub", 0, 1, True, False),
            ("fnmadd", 1, 0, True, True), ("fnmsub", 1, 1, False, True),
        ):  # fmt: skip
            yield record(
                f"{name}.{size}", f"00011111 {kind} {o1} uuuuu {o0} zzzzz wwwww vvvvv",
                _fused(bits, minus_product, minus_addend), floating=True, extension="FP",
            )  # fmt: skip


def _fused(bits: int, minus_product: bool, minus_addend: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a, b, addend = (lowest(c, one, bits) for one in ("rs1", "rs2", "rd2"))
        a = negated(a) if minus_product else a
        addend = negated(addend) if minus_addend else addend
        write_scalar(c, multiply_add(c, addend, a, b))

    return semantics


# Comparison and selection ----------------------------------------------------------------------


def _compare(bits: int, signals: bool, with_zero: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        b = Constant(I(bits), 0) if with_zero else lowest(c, "rs2", bits)
        less, equal, unordered = compared(c, lowest(c, "rs1", bits), b, signals)
        set_flags(c, less, equal, ~less, unordered)

    return semantics


def _compare_if(bits: int, signals: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        condition, given = holds_for(c, c.imm), c.field("f")
        flags = [((given >> (3 - at)) & 1).trunc(I8) for at in range(4)]
        found = [c.ir.variable(I8, flag) for flag in flags]
        a, b = lowest(c, "rs1", bits), lowest(c, "rs2", bits)
        with c.ir.If(condition):
            less, equal, unordered = compared(c, a, b, signals)
            for at, flag in enumerate((less, equal, ~less, unordered)):
                found[at].value = flag.zext(I8)
        for at in range(4):
            c.set_register("flag", at, found[at].value)

    return semantics


def _select(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a, b = lowest(c, "rs1", bits), lowest(c, "rs2", bits)
        write_scalar(c, c.ir.select(holds_for(c, c.imm), a, b))

    return semantics


def _undefined(c: OperandContext) -> None:
    c.raise_exception(UNKNOWN, c.word)


def _comparisons() -> Iterator[Instruction]:
    for bits, size, kind in KINDS:
        # Which comparison it is stands where the decoder's tables do not look.
        yield record(
            f"fcmp_any.{size}", f"00011110 {kind} 1 kkkkk 001000 jjjjj ooooo", _undefined,
            kind=Kind.SYSTEM, extension="FP",
        )  # fmt: skip
        yield record(
            f"fccmp_any.{size}", f"00011110 {kind} 1 kkkkk jjjj 01 lllll o pppp", _undefined,
            kind=Kind.SYSTEM, extension="FP",
        )  # fmt: skip
        for name, opcode, signals, zero in (
            ("fcmp", "00", False, False), ("fcmp_zero", "01", False, True),
            ("fcmpe", "10", True, False), ("fcmpe_zero", "11", True, True),
        ):  # fmt: skip
            second = "00000" if zero else "uuuuu"
            yield record(
                f"{name}.{size}", f"00011110 {kind} 1 {second} 001000 wwwww {opcode}000",
                _compare(bits, signals, zero), floating=True, extension="FP",
                specialises=f"fcmp_any.{size}",
            )  # fmt: skip
        for name, op, signals in (("fccmp", 0, False), ("fccmpe", 1, True)):
            yield record(
                f"{name}.{size}", f"00011110 {kind} 1 uuuuu iiii 01 wwwww {op} ffff",
                _compare_if(bits, signals), immediate=CONDITION, floating=True, extension="FP",
                specialises=f"fccmp_any.{size}",
            )  # fmt: skip
        yield record(
            f"fcsel.{size}", f"00011110 {kind} 1 uuuuu iiii 11 wwwww vvvvv",
            _select(bits), immediate=CONDITION, extension="FP",
        )  # fmt: skip
        yield record(
            f"fmov_constant.{size}", f"00011110 {kind} 1 iiiiiiii 100 00000 vvvvv",
            _constant, immediate=FLOAT_CONSTANTS[bits], extension="FP",
        )  # fmt: skip


def _constant(c: OperandContext) -> None:
    c.write("rd", vector_of(c.imm, Constant(I64, 0)))


# Integers --------------------------------------------------------------------------------------


def _to_general(bits: int, width: int, signed: bool, rounding: int, fixed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        scale = 64 - c.field("k") if fixed else None
        value = to_integer(c, lowest(c, "rs1", bits), width, signed, rounding, scale)
        c.write("rd", value.zext(I64))

    return semantics


def from_integer(c: Any, value: Value, bits: int, signed: bool) -> Value:
    """The pattern of a number of *bits* bits for an integer."""
    if not signed and value.type.bits == 32:
        value, signed = value.zext(I64), True
    name = f"{'signed' if signed else 'unsigned'}_to_f{bits}"
    return emit(name, value).bitcast(I(bits))


def _from_general(bits: int, width: int, signed: bool, fixed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = from_integer(c, c.read("rs1").trunc(I(width)), bits, signed)
        if fixed:
            value = scaled(c, value, 64 - c.field("k"))
        write_scalar(c, value)

    return semantics


def scaled(c: Any, pattern: Value, places: Value) -> Value:
    """A converted integer divided by 2 ** *places*, which is exact."""
    bits = pattern.type.bits
    digits = 23 if bits == 32 else 52
    moved = pattern - (places.trunc(pattern.type) << digits)
    return c.ir.select((pattern & mask(bits - 1)) == 0, pattern, moved)  # type: ignore[no-any-return]


def _move_to(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.write("rd", lowest(c, "rs1", bits).zext(I64))

    return semantics


def _move_from(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_scalar(c, c.read("rs1").trunc(I(bits)))

    return semantics


def _top_to(c: OperandContext) -> None:
    c.write("rd", c.read("rs1").lane(1, 64))


def _top_from(c: OperandContext) -> None:
    c.write("rd", c.read("rd").with_lane(1, c.read("rs1")))


def _conversions() -> Iterator[Instruction]:
    for sf, width, general in (("0", 32, "w"), ("1", 64, "x")):
        for bits, size, kind in KINDS:
            head = f"{sf}0011110 {kind} 1"
            for letter, rounding, rmode, low in (
                ("n", TO_NEAREST, 0, 0), ("p", UP, 1, 0), ("m", DOWN, 2, 0), ("z", TO_ZERO, 3, 0),
                ("a", AWAY, 0, 4),
            ):  # fmt: skip
                for signed in (True, False):
                    opcode = low + (0 if signed else 1)
                    yield record(
                        f"fcvt{letter}{'s' if signed else 'u'}.{size}{general}",
                        f"{head} {rmode:02b} {opcode:03b} 000000 wwwww ddddd",
                        _to_general(bits, width, signed, rounding, False), floating=True,
                        extension="FP",
                    )  # fmt: skip
            for signed in (True, False):
                letter = "s" if signed else "u"
                yield record(
                    f"{letter}cvtf.{size}{general}",
                    f"{head} 00 01{0 if signed else 1} 000000 nnnnn vvvvv",
                    _from_general(bits, width, signed, False), floating=True, extension="FP",
                )  # fmt: skip
                scale = "1kkkkk" if width == 32 else "kkkkkk"
                fixed = f"{sf}0011110 {kind} 0"
                if width == 32:
                    continue
                yield record(
                    f"{letter}cvtf_fixed.{size}{general}",
                    f"{fixed} 00 01{0 if signed else 1} {scale} nnnnn vvvvv",
                    _from_general(bits, width, signed, True), floating=True, extension="FP",
                )  # fmt: skip
                yield record(
                    f"fcvtz{letter}_fixed.{size}{general}",
                    f"{fixed} 11 00{0 if signed else 1} {scale} wwwww ddddd",
                    _to_general(bits, width, signed, TO_ZERO, True), floating=True,
                    extension="FP",
                )  # fmt: skip
        size, kind = ("s", "00") if width == 32 else ("d", "01")
        yield record(
            f"fmov_to.{size}", f"{sf}0011110 {kind} 1 00 110 000000 wwwww ddddd",
            _move_to(width), extension="FP",
        )  # fmt: skip
        yield record(
            f"fmov_from.{size}", f"{sf}0011110 {kind} 1 00 111 000000 nnnnn vvvvv",
            _move_from(width), extension="FP",
        )  # fmt: skip
    yield record("fmov_to.top", "10011110 10 1 01 110 000000 wwwww ddddd", _top_to, extension="FP")
    yield record(
        "fmov_from.top", "10011110 10 1 01 111 000000 nnnnn vvvvv", _top_from, extension="FP"
    )
    for bits, size, kind in KINDS:
        # The scalar forms of vector conversions.
        for u, signed in ((0, True), (1, False)):
            letter = "s" if signed else "u"
            yield record(
                f"{letter}cvtf_scalar.{size}", f"01{u}111100{kind[1]} 10000 11101 10 wwwww vvvvv",
                _from_scalar(bits, signed), floating=True, extension="FP",
            )  # fmt: skip
            for name, rounding, high, opcode in (
                ("n", TO_NEAREST, 0, 0b11010), ("m", DOWN, 0, 0b11011), ("p", UP, 1, 0b11010),
                ("z", TO_ZERO, 1, 0b11011), ("a", AWAY, 0, 0b11100),
            ):  # fmt: skip
                yield record(
                    f"fcvt{name}{letter}_scalar.{size}",
                    f"01{u}11110{high}{kind[1]} 10000 {opcode:05b} 10 wwwww vvvvv",
                    _to_scalar(bits, signed, rounding), floating=True, extension="FP",
                )  # fmt: skip


def _from_scalar(bits: int, signed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_scalar(c, from_integer(c, lowest(c, "rs1", bits), bits, signed))

    return semantics


def _to_scalar(bits: int, signed: bool, rounding: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_scalar(c, to_integer(c, lowest(c, "rs1", bits), bits, signed, rounding))

    return semantics


INSTRUCTIONS: tuple[Instruction, ...] = (*_arithmetic(), *_comparisons(), *_conversions())

__all__ = ["I32", "INSTRUCTIONS", "KINDS", "lowest", "write_scalar"]
