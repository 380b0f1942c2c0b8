"""Advanced SIMD on floating-point lanes: those of scalar instructions, lane by lane.

Arm ARM, C4.1.96. Half precision is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I64, Constant, I, Value, vector_of
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
from tandemu.isa.arm.floating import KINDS, absolute, from_integer, lowest, write_scalar
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.vector_lanes import ZERO, chosen_half, write_half
from tandemu.isa.arm.vector_moves import take_lane
from tandemu.isa.instruction import Instruction, Semantics
from tandemu.isa.tracing import OperandContext

Function = Callable[..., Value]
"""(context, a lane of each operand) -> a lane."""


def each_lane(c: Any, bits: int, function: Function, *vectors: Value) -> Value:
    """A vector of what *function* makes of the lanes, those above 64 bits only if they count:
    they may raise flags."""
    count, half = 128 // bits, 64 // bits
    found = [c.ir.variable(I(bits), 0) for _ in range(count)]

    def fill(numbers: range) -> None:
        for number in numbers:
            found[number].value = function(c, *(one.lane(number, bits) for one in vectors))

    fill(range(half))
    with c.ir.If(c.field("q") != 0):
        fill(range(half, count))
    result: Value = ZERO
    for number in range(count):
        result = result.with_lane(number, found[number].value)
    return result


def truth(bits: int, condition: Value) -> Value:
    return 0 - condition.zext(I(bits))


def _equal(c: Any, a: Value, b: Value) -> Value:
    return truth(a.type.bits, compared(c, a, b, False)[1])


def _greater(c: Any, a: Value, b: Value) -> Value:
    return truth(a.type.bits, compared(c, b, a, True)[0])


def _at_least(c: Any, a: Value, b: Value) -> Value:
    less, equal, _ = compared(c, b, a, True)
    return truth(a.type.bits, less | equal)


def _of_sizes(function: Function) -> Function:
    return lambda c, a, b: function(c, absolute(c, a), absolute(c, b))


def _difference(c: Any, a: Value, b: Value) -> Value:
    return absolute(c, compute(c, "fsub", a, b))


def _named(name: str) -> Function:
    return lambda c, *operands: compute(c, name, *operands)


_THREE: tuple[tuple[str, int, int, int, Function], ...] = (
    ("fmaxnm", 0, 0, 0b11000, lambda c, a, b: extremum(c, a, b, True, True)),
    ("fminnm", 0, 1, 0b11000, lambda c, a, b: extremum(c, a, b, False, True)),
    ("fadd", 0, 0, 0b11010, _named("fadd")),
    ("fsub", 0, 1, 0b11010, _named("fsub")),
    ("fmul", 1, 0, 0b11011, _named("fmul")),
    ("fdiv", 1, 0, 0b11111, _named("fdiv")),
    ("fabd", 1, 1, 0b11010, _difference),
    ("fmax", 0, 0, 0b11110, lambda c, a, b: extremum(c, a, b, True, False)),
    ("fmin", 0, 1, 0b11110, lambda c, a, b: extremum(c, a, b, False, False)),
    ("fcmeq", 0, 0, 0b11100, _equal),
    ("fcmge", 1, 0, 0b11100, _at_least),
    ("fcmgt", 1, 1, 0b11100, _greater),
    ("facge", 1, 0, 0b11101, _of_sizes(_at_least)),
    ("facgt", 1, 1, 0b11101, _of_sizes(_greater)),
)


def _three(function: Function, bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.write("rd", each_lane(c, bits, function, c.read("rs1"), c.read("rs2")))

    return semantics


def _scalar(function: Function, bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_scalar(c, function(c, lowest(c, "rs1", bits), lowest(c, "rs2", bits)))

    return semantics


def _accumulate(c: Any, d: Value, a: Value, b: Value) -> Value:
    return multiply_add(c, d, a, b)


def _deduct(c: Any, d: Value, a: Value, b: Value) -> Value:
    return multiply_add(c, d, negated(a), b)


def _fused(function: Function, bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = each_lane(c, bits, function, c.read("rd"), c.read("rs1"), c.read("rs2"))
        c.write("rd", value)

    return semantics


def _pairwise(function: Function, bits: int) -> Semantics:
    """The lanes of both registers, each two combined."""

    def semantics(c: Any) -> None:
        a, b = c.read("rs1"), c.read("rs2")
        whole = c.field("q") != 0
        # Of 64 bits, the lower halves of both are one register.
        first = vector_of(a.lane(0, 64), c.ir.select(whole, a.lane(1, 64), b.lane(0, 64)))
        half = 64 // bits
        even: Value = ZERO
        odd: Value = ZERO
        for number in range(128 // bits):
            source, at = (first, number) if number < half else (b, number - half)
            even = even.with_lane(number, source.lane(2 * at, bits))
            odd = odd.with_lane(number, source.lane(2 * at + 1, bits))
        c.write("rd", each_lane(c, bits, function, even, odd))

    return semantics


def _pair(function: Function, bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a = c.read("rs1")
        write_scalar(c, function(c, a.lane(0, bits), a.lane(1, bits)))

    return semantics


_PAIRS: tuple[tuple[str, int, int, Function], ...] = (
    ("fmaxnmp", 0, 0b11000, lambda c, a, b: extremum(c, a, b, True, True)),
    ("fminnmp", 1, 0b11000, lambda c, a, b: extremum(c, a, b, False, True)),
    ("faddp", 0, 0b11010, _named("fadd")),
    ("fmaxp", 0, 0b11110, lambda c, a, b: extremum(c, a, b, True, False)),
    ("fminp", 1, 0b11110, lambda c, a, b: extremum(c, a, b, False, False)),
)


def _three_records() -> Iterator[Instruction]:
    for sz, (bits, size, _) in enumerate(KINDS):
        whole = {"q": (0,)} if bits == 64 else None
        for name, u, a, opcode, function in _THREE:
            yield record(
                f"{name}_v.{size}", f"0q{u}01110 {a}{sz} 1 uuuuu {opcode:05b} 1 wwwww vvvvv",
                _three(function, bits), reserved=whole, floating=True, extension="AdvSIMD FP",
            )  # fmt: skip
            if name.startswith(("fcm", "fac")) or name == "fabd":
                yield record(
                    f"{name}_scalar.{size}",
                    f"01{u}11110 {a}{sz} 1 uuuuu {opcode:05b} 1 wwwww vvvvv",
                    _scalar(function, bits), floating=True, extension="AdvSIMD FP",
                )  # fmt: skip
        for name, a, function in (("fmla", 0, _accumulate), ("fmls", 1, _deduct)):
            yield record(
                f"{name}_v.{size}", f"0q001110 {a}{sz} 1 uuuuu 11001 1 wwwww vvvvv",
                _fused(function, bits), reserved=whole, floating=True, extension="AdvSIMD FP",
            )  # fmt: skip
        for name, a, opcode, function in _PAIRS:
            yield record(
                f"{name}_v.{size}", f"0q101110 {a}{sz} 1 uuuuu {opcode:05b} 1 wwwww vvvvv",
                _pairwise(function, bits), reserved=whole, floating=True, extension="AdvSIMD FP",
            )  # fmt: skip
        for name, a, opcode, function in (
            ("fmaxnmp", 0, 0b01100, _PAIRS[0][3]), ("fminnmp", 1, 0b01100, _PAIRS[1][3]),
            ("faddp", 0, 0b01101, _PAIRS[2][3]), ("fmaxp", 0, 0b01111, _PAIRS[3][3]),
            ("fminp", 1, 0b01111, _PAIRS[4][3]),
        ):  # fmt: skip
            yield record(
                f"{name}_scalar.{size}", f"01111110 {a}{sz} 11000 {opcode:05b} 10 wwwww vvvvv",
                _pair(function, bits), floating=True, extension="AdvSIMD FP",
            )  # fmt: skip


# One register ----------------------------------------------------------------------------------


def _rounded(rounding: int, exact: bool) -> Function:
    return lambda c, a: to_integral(c, a, rounding, exact)


def _integer(signed: bool, rounding: int) -> Function:
    return lambda c, a: to_integer(c, a, a.type.bits, signed, rounding)


def _with_zero(function: Function, swaps: bool) -> Function:
    def compare(c: Any, a: Value) -> Value:
        zero = Constant(a.type, 0)
        return function(c, zero, a) if swaps else function(c, a, zero)

    return compare


_TWO: tuple[tuple[str, int, int, int, Function], ...] = (
    ("fcmgt_zero", 0, 1, 0b01100, _with_zero(_greater, False)),
    ("fcmge_zero", 1, 1, 0b01100, _with_zero(_at_least, False)),
    ("fcmeq_zero", 0, 1, 0b01101, _with_zero(_equal, False)),
    ("fcmle_zero", 1, 1, 0b01101, _with_zero(_at_least, True)),
    ("fcmlt_zero", 0, 1, 0b01110, _with_zero(_greater, True)),
    ("fabs", 0, 1, 0b01111, absolute),
    ("fneg", 1, 1, 0b01111, lambda c, a: negated(a)),
    ("fsqrt", 1, 1, 0b11111, _named("fsqrt")),
    ("frintn", 0, 0, 0b11000, _rounded(TO_NEAREST, False)),
    ("frintm", 0, 0, 0b11001, _rounded(DOWN, False)),
    ("frintp", 0, 1, 0b11000, _rounded(UP, False)),
    ("frintz", 0, 1, 0b11001, _rounded(TO_ZERO, False)),
    ("frinta", 1, 0, 0b11000, _rounded(AWAY, False)),
    ("frintx", 1, 0, 0b11001, _rounded(AS_FPCR, True)),
    ("frinti", 1, 1, 0b11001, _rounded(AS_FPCR, False)),
    *(
        (f"fcvt{letter}{'u' if u else 's'}", u, a, opcode, _integer(not u, rounding))
        for u in (0, 1)
        for letter, a, opcode, rounding in (
            ("n", 0, 0b11010, TO_NEAREST), ("m", 0, 0b11011, DOWN), ("a", 0, 0b11100, AWAY),
            ("p", 1, 0b11010, UP), ("z", 1, 0b11011, TO_ZERO),
        )
    ),
    ("scvtf", 0, 0, 0b11101, lambda c, a: from_integer(c, a, a.type.bits, True)),
    ("ucvtf", 1, 0, 0b11101, lambda c, a: from_integer(c, a, a.type.bits, False)),
)  # fmt: skip


def _two(function: Function, bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.write("rd", each_lane(c, bits, function, c.read("rs1")))

    return semantics


def _widen(c: OperandContext) -> None:
    half = chosen_half(c, c.read("rs1"))
    c.write("rd", vector_of(*(converted(c, half.lane(n, 32), 64) for n in (0, 1))))


def _narrow(c: OperandContext) -> None:
    a = c.read("rs1")
    low, high = (converted(c, a.lane(n, 64), 32).zext(I64) for n in (0, 1))
    write_half(c, vector_of(low | (high << 32), Constant(I64, 0)))


def _two_records() -> Iterator[Instruction]:
    for sz, (bits, size, _) in enumerate(KINDS):
        for name, u, a, opcode, function in _TWO:
            yield record(
                f"{name}_v.{size}", f"0q{u}01110 {a}{sz} 10000 {opcode:05b} 10 wwwww vvvvv",
                _two(function, bits), reserved={"q": (0,)} if bits == 64 else None,
                floating=True, extension="AdvSIMD FP",
            )  # fmt: skip
    yield record("fcvtl.d", "0q001110 01 10000 10111 10 wwwww vvvvv", _widen, floating=True,
                 extension="AdvSIMD FP")  # fmt: skip
    yield record("fcvtn.s", "0q001110 01 10000 10110 10 wwwww vvvvv", _narrow, floating=True,
                 extension="AdvSIMD FP")  # fmt: skip


# By one lane of the second register ------------------------------------------------------------


def _by_lane(function: Function, bits: int, accumulates: bool, scalar: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        number = c.field("h") if bits == 64 else (c.field("h") << 1) | c.field("l")
        second = take_lane(c.read("rs2"), number, bits)
        # All lanes of the first with that one.
        each: Function = lambda c, *lanes: function(c, *lanes, second)  # noqa: E731
        given = [c.read("rd")] if accumulates else []
        vectors = [*given, c.read("rs1")]
        if scalar:
            write_scalar(c, each(c, *(one.lane(0, bits) for one in vectors)))
        else:
            c.write("rd", each_lane(c, bits, each, *vectors))

    return semantics


def _by_lane_records() -> Iterator[Instruction]:
    for sz, (bits, size, _) in enumerate(KINDS):
        low = "l" if bits == 32 else "0"
        for name, opcode, function, accumulates in (
            ("fmla", 0b0001, _accumulate, True), ("fmls", 0b0101, _deduct, True),
            ("fmul", 0b1001, _named("fmul"), False),
        ):  # fmt: skip
            yield record(
                f"{name}_lane.{size}", f"0q001111 1{sz}{low} uuuuu {opcode:04b} h 0 wwwww vvvvv",
                _by_lane(function, bits, accumulates, False), floating=True,
                reserved={"q": (0,)} if bits == 64 else None, extension="AdvSIMD FP",
            )  # fmt: skip
            yield record(
                f"{name}_lane_scalar.{size}",
                f"01011111 1{sz}{low} uuuuu {opcode:04b} h 0 wwwww vvvvv",
                _by_lane(function, bits, accumulates, True), floating=True,
                extension="AdvSIMD FP",
            )  # fmt: skip
    for name, u, opcode, function, accumulates in (
        ("mla", 1, 0b0000, lambda c, d, a, b: d + a * b, True),
        ("mls", 1, 0b0100, lambda c, d, a, b: d - a * b, True),
        ("mul", 0, 0b1000, lambda c, a, b: a * b, False),
    ):  # fmt: skip
        yield record(
            f"{name}_lane.s", f"0q{u}01111 10l uuuuu {opcode:04b} h 0 wwwww vvvvv",
            _by_lane(function, 32, accumulates, False), extension="AdvSIMD FP",
        )  # fmt: skip


INSTRUCTIONS: tuple[Instruction, ...] = (
    *_three_records(),
    *_two_records(),
    *_by_lane_records(),
)

__all__ = ["INSTRUCTIONS", "mask"]
