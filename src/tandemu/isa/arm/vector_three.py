"""Advanced SIMD on integers with operands of one kind: three registers, or a vector by itself.

Arm ARM, C4.1.96: "Advanced SIMD three same", "two-register miscellaneous", "across lanes", and
their scalar forms, which are those on the lowest lane alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I8, I16, I32, I64, Constant, I, Value, vector_of
from tandemu.ir.vectors import lanewise
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.vector_lanes import (
    ZERO,
    Lanes,
    accumulating,
    add,
    both,
    choose,
    constant,
    either,
    inverted,
    note_saturation,
    plain,
    read_vector,
    shuffle,
    sub,
    swapped,
    three,
    two,
    write_vector,
)
from tandemu.isa.instruction import Instruction, Semantics
from tandemu.isa.tracing import OperandContext

SUFFIX = ("b", "h", "s", "d")
WHOLE_ONLY = {"q": (0,)}


# Meanings ------------------------------------------------------------------------------------


def halving_add(signed: bool, rounds: bool) -> Lanes:
    shift = "vsar" if signed else "vshr"

    def function(c: Any, lane: int, a: Value, b: Value) -> Value:
        differing = lanewise(shift, lane, lanewise("vxor", lane, a, b), constant(c, lane, 1))
        return sub(lane, either(a, b), differing) if rounds else add(lane, both(a, b), differing)

    return function


def halving_subtract(signed: bool) -> Lanes:
    shift = "vsar" if signed else "vshr"

    def function(c: Any, lane: int, a: Value, b: Value) -> Value:
        # (a - b) >> 1 without the bit that is lost: half of a xor b, less the borrow.
        one = constant(c, lane, 1)
        borrow = lanewise("vand", lane, inverted(c, a), b)
        return sub(lane, lanewise(shift, lane, lanewise("vxor", lane, a, b), one), borrow)

    return function


def saturating(name: str, exact: str) -> Semantics:
    def at(lane: int) -> Semantics:
        def semantics(c: OperandContext) -> None:
            a, b = read_vector(c, "rs1"), read_vector(c, "rs2")
            value = lanewise(name, lane, a, b)
            note_saturation(c, value, lanewise(exact, lane, a, b))
            write_vector(c, value)

        return semantics

    return at  # type: ignore[return-value]


def absolute_difference(signed: bool) -> Lanes:
    high, low = ("vsmax", "vsmin") if signed else ("vumax", "vumin")
    return lambda c, lane, a, b: sub(lane, lanewise(high, lane, a, b), lanewise(low, lane, a, b))


def shifted(signed: bool, rounds: bool) -> Lanes:
    """A shift to the left by the signed lowest byte of each lane; to the right if negative."""

    def function(c: Any, lane: int, a: Value, b: Value) -> Value:
        amount = b
        if lane > 8:
            place = constant(c, lane, lane - 8)
            amount = lanewise("vsar", lane, lanewise("vshl", lane, b, place), place)
        back = sub(lane, ZERO, amount)
        last, width = constant(c, lane, lane - 1), constant(c, lane, lane)
        left = lanewise("vshl", lane, a, both(amount, last))
        left = both(left, lanewise("vugt", lane, width, amount))
        right = lanewise("vsar" if signed else "vshr", lane, a, lanewise("vumin", lane, back, last))
        if not signed:
            right = both(right, lanewise("vugt", lane, width, back))
        if rounds:
            one = constant(c, lane, 1)
            before = lanewise("vumin", lane, sub(lane, back, one), last)
            lost = both(lanewise("vsar" if signed else "vshr", lane, a, before), one)
            lost = both(lost, lanewise("vuge", lane, width, back))
            if signed:
                # By the whole width and more nothing is left, not even the sign.
                right = both(right, lanewise("vugt", lane, width, back))
                lost = both(lost, lanewise("vugt", lane, width, back))
            right = add(lane, right, lost)
        return choose(lanewise("vsgt", lane, ZERO, amount), right, left)

    return function


def test_bits(c: Any, lane: int, a: Value, b: Value) -> Value:
    return inverted(c, lanewise("vequal", lane, both(a, b), ZERO))


def multiply_bits(c: Any, lane: int, a: Value, b: Value) -> Value:
    """PMUL: polynomials over {0, 1}."""
    result: Value = ZERO
    one = constant(c, lane, 1)
    for number in range(lane):
        amount = constant(c, lane, number)
        chosen = sub(lane, ZERO, both(lanewise("vshr", lane, b, amount), one))
        result = lanewise("vxor", lane, result, lanewise("vshl", lane, both(a, chosen), amount))
    return result


def pairs(c: Any, lane: int, a: Value, b: Value) -> tuple[Value, Value]:
    """The even lanes of both, and the odd ones."""
    count = 128 // lane
    even = tuple(range(0, 2 * count, 2))
    return shuffle(c, lane, a, b, even), shuffle(c, lane, a, b, tuple(one + 1 for one in even))


def pairwise(name: str, lane: int) -> Semantics:
    """The lanes of both registers, each two combined; in 64 bits the lower halves of both."""

    def semantics(c: OperandContext) -> None:
        a, b = c.read("rs1"), c.read("rs2")
        whole = c.field("q")
        low = vector_of(a.lane(0, 64), b.lane(0, 64))
        if isinstance(whole, Constant):
            even, odd = pairs(c, lane, a, b) if whole.value else pairs(c, lane, low, ZERO)
        else:
            first = [c.ir.select(whole != 0, a.lane(n, 64), low.lane(n, 64)) for n in (0, 1)]
            even, odd = pairs(c, lane, vector_of(*first), b)
        write_vector(c, lanewise(name, lane, even, odd))

    return semantics


def _logic(number: int) -> Callable[[Any, Value, Value, Value], Value]:
    """By U:size, with rd, rs1 and rs2."""
    return (
        lambda c, d, a, b: both(a, b),
        lambda c, d, a, b: both(a, inverted(c, b)),
        lambda c, d, a, b: either(a, b),
        lambda c, d, a, b: either(a, inverted(c, b)),
        lambda c, d, a, b: lanewise("vxor", 64, a, b),
        lambda c, d, a, b: choose(d, a, b),
        lambda c, d, a, b: choose(b, a, d),
        lambda c, d, a, b: choose(b, d, a),
    )[number]


_LOGIC_NAMES = ("and", "bic", "orr", "orn", "eor", "bsl", "bit", "bif")


def _logical(number: int) -> Semantics:
    function = _logic(number)

    def semantics(c: OperandContext) -> None:
        old = c.read("rd") if number > 4 else ZERO
        write_vector(c, function(c, old, c.read("rs1"), c.read("rs2")))

    return semantics


def _combined(name: str, combine: Callable[[int, Value, Value], Value]) -> Any:
    def function(c: Any, lane: int, d: Value, a: Value, b: Value) -> Value:
        return combine(lane, d, lanewise(name, lane, a, b))

    return function


# Records: three registers --------------------------------------------------------------------

_SMALL, _ALL = (0, 1, 2), (0, 1, 2, 3)


def _three_same() -> Iterator[tuple[str, int, int, tuple[int, ...], Callable[[int], Semantics]]]:
    """Name, U, opcode, sizes, semantics by lane width."""

    def of(function: Lanes) -> Callable[[int], Semantics]:
        return lambda lane: three(function, lane)

    for u, signed in ((0, True), (1, False)):
        s, letter = ("s", "s") if signed else ("u", "u")
        yield f"{letter}hadd", u, 0b00000, _SMALL, of(halving_add(signed, False))
        yield f"{letter}qadd", u, 0b00001, _ALL, saturating(f"v{s}add_sat", "vadd")  # type: ignore[misc]
        yield f"{letter}rhadd", u, 0b00010, _SMALL, of(halving_add(signed, True))
        yield f"{letter}hsub", u, 0b00100, _SMALL, of(halving_subtract(signed))
        yield f"{letter}qsub", u, 0b00101, _ALL, saturating(f"v{s}sub_sat", "vsub")  # type: ignore[misc]
        yield f"cm{'gt' if signed else 'hi'}", u, 0b00110, _ALL, of(plain(f"v{s}gt"))
        yield f"cm{'ge' if signed else 'hs'}", u, 0b00111, _ALL, of(plain(f"v{s}ge"))
        yield f"{letter}shl", u, 0b01000, _ALL, of(shifted(signed, False))
        yield f"{letter}rshl", u, 0b01010, _ALL, of(shifted(signed, True))
        yield f"{letter}max", u, 0b01100, _SMALL, of(plain(f"v{s}max"))
        yield f"{letter}min", u, 0b01101, _SMALL, of(plain(f"v{s}min"))
        yield f"{letter}abd", u, 0b01110, _SMALL, of(absolute_difference(signed))
        difference = absolute_difference(signed)
        yield (
            f"{letter}aba", u, 0b01111, _SMALL,
            lambda lane, f=difference: accumulating(  # type: ignore[misc]
                lambda c, n, d, a, b: add(n, d, f(c, n, a, b)), lane
            ),
        )  # fmt: skip
        yield f"{letter}maxp", u, 0b10100, _SMALL, lambda n, s=s: pairwise(f"v{s}max", n)  # type: ignore[misc]
        yield f"{letter}minp", u, 0b10101, _SMALL, lambda n, s=s: pairwise(f"v{s}min", n)  # type: ignore[misc]
    yield "add", 0, 0b10000, _ALL, of(plain("vadd"))
    yield "sub", 1, 0b10000, _ALL, of(plain("vsub"))
    yield "cmtst", 0, 0b10001, _ALL, of(test_bits)
    yield "cmeq", 1, 0b10001, _ALL, of(plain("vequal"))
    yield "mla", 0, 0b10010, _SMALL, lambda n: accumulating(_combined("vmul", add), n)
    yield "mls", 1, 0b10010, _SMALL, lambda n: accumulating(_combined("vmul", sub), n)
    yield "mul", 0, 0b10011, _SMALL, of(plain("vmul"))
    yield "pmul", 1, 0b10011, (0,), of(multiply_bits)
    yield "addp", 0, 0b10111, _ALL, lambda n: pairwise("vadd", n)


def _three_records() -> Iterator[Instruction]:
    for name, u, opcode, sizes, semantics in _three_same():
        for size in sizes:
            yield record(
                f"{name}_v.{SUFFIX[size]}",
                f"0q{u}01110 {size:02b} 1 uuuuu {opcode:05b} 1 wwwww vvvvv",
                semantics(8 << size), reserved=WHOLE_ONLY if size == 3 else None,
                extension="AdvSIMD",
            )  # fmt: skip
    for number, name in enumerate(_LOGIC_NAMES):
        yield record(
            f"{name}_v", f"0q{number >> 2}01110 {number & 3:02b} 1 uuuuu 00011 1 wwwww vvvvv",
            _logical(number), extension="AdvSIMD",
        )  # fmt: skip


# Scalar forms of lanes of 64 bits --------------------------------------------------------------


def _scalar(function: Lanes, lane: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = function(c, lane, c.read("rs1"), c.read("rs2"))
        c.write("rd", vector_of(value.lane(0, lane).zext(I64), Constant(I64, 0)))

    return semantics


def _scalar_saturating(name: str, exact: str, lane: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        zero = Constant(I64, 0)
        a, b = (vector_of(c.read(one).lane(0, lane).zext(I64), zero) for one in ("rs1", "rs2"))
        value = lanewise(name, lane, a, b)
        note_saturation(c, value, lanewise(exact, lane, a, b))
        c.write("rd", value)

    return semantics


def _scalar_records() -> Iterator[Instruction]:
    for name, u, opcode, function in (
        ("cmgt", 0, 0b00110, plain("vsgt")), ("cmhi", 1, 0b00110, plain("vugt")),
        ("cmge", 0, 0b00111, plain("vsge")), ("cmhs", 1, 0b00111, plain("vuge")),
        ("sshl", 0, 0b01000, shifted(True, False)), ("ushl", 1, 0b01000, shifted(False, False)),
        ("srshl", 0, 0b01010, shifted(True, True)), ("urshl", 1, 0b01010, shifted(False, True)),
        ("add", 0, 0b10000, plain("vadd")), ("sub", 1, 0b10000, plain("vsub")),
        ("cmtst", 0, 0b10001, test_bits), ("cmeq", 1, 0b10001, plain("vequal")),
    ):  # fmt: skip
        yield record(
            f"{name}_scalar", f"01{u}11110 11 1 uuuuu {opcode:05b} 1 wwwww vvvvv",
            _scalar(function, 64), extension="AdvSIMD",
        )  # fmt: skip
    for name, u, opcode, operation, exact in (
        ("sqadd", 0, 0b00001, "vsadd_sat", "vadd"), ("uqadd", 1, 0b00001, "vuadd_sat", "vadd"),
        ("sqsub", 0, 0b00101, "vssub_sat", "vsub"), ("uqsub", 1, 0b00101, "vusub_sat", "vsub"),
    ):  # fmt: skip
        for size in _ALL:
            yield record(
                f"{name}_scalar.{SUFFIX[size]}",
                f"01{u}11110 {size:02b} 1 uuuuu {opcode:05b} 1 wwwww vvvvv",
                _scalar_saturating(operation, exact, 8 << size), extension="AdvSIMD",
            )  # fmt: skip


# A vector by itself ----------------------------------------------------------------------------


def _reversed_lanes(group: int) -> Callable[[Any, int, Value], Value]:
    """The lanes of each *group* bits in the opposite order."""

    def function(c: Any, lane: int, a: Value) -> Value:
        if lane == 8 and group == 64:
            return vector_of(*(a.lane(n, 64).byte_swap() for n in (0, 1)))
        count = group // lane
        places = tuple(at - at % count + count - 1 - at % count for at in range(128 // lane))
        return shuffle(c, lane, a, a, places)

    return function


def _long_pairs(signed: bool, accumulates: bool) -> Callable[[int], Semantics]:
    """Each two lanes added, the sum twice as wide."""

    def at(lane: int) -> Semantics:
        wide = 2 * lane

        def semantics(c: OperandContext) -> None:
            a = c.read("rs1")
            half = constant(c, wide, lane)
            shift = "vsar" if signed else "vshr"
            odd = lanewise(shift, wide, a, half)
            if signed:
                even = lanewise("vsar", wide, lanewise("vshl", wide, a, half), half)
            else:
                even = both(a, constant(c, wide, mask(lane)))
            value = add(wide, even, odd)
            write_vector(c, add(wide, c.read("rd"), value) if accumulates else value)

        return semantics

    return at


def _leading_signs(c: Any, lane: int, a: Value) -> Value:
    sign = lanewise("vsar", lane, a, constant(c, lane, lane - 1))
    count = lanewise("vleading", lane, lanewise("vxor", lane, a, sign))
    return sub(lane, count, constant(c, lane, 1))


def _saturating_unary(negates: bool) -> Callable[[int], Semantics]:
    def at(lane: int) -> Semantics:
        def semantics(c: OperandContext) -> None:
            a = read_vector(c, "rs1")
            negative = lanewise("vssub_sat", lane, ZERO, a)
            exact = sub(lane, ZERO, a)
            if not negates:
                below = lanewise("vsgt", lane, ZERO, a)
                negative = choose(below, negative, a)
                exact = choose(below, exact, a)
            note_saturation(c, negative, exact)
            write_vector(c, negative)

        return semantics

    return at


def _with_zero(name: str, swaps: bool) -> Callable[[Any, int, Value], Value]:
    return lambda c, lane, a: lanewise(name, lane, *((ZERO, a) if swaps else (a, ZERO)))


def _one(name: str) -> Callable[[Any, int, Value], Value]:
    return lambda c, lane, a: lanewise(name, lane, a)


def _two_records() -> Iterator[Instruction]:
    def of(function: Callable[[Any, int, Value], Value]) -> Callable[[int], Semantics]:
        return lambda lane: two(function, lane)

    rows: list[tuple[str, int, int, tuple[int, ...], Callable[[int], Semantics]]] = [
        ("rev64", 0, 0b00000, _SMALL, of(_reversed_lanes(64))),
        ("rev32", 1, 0b00000, (0, 1), of(_reversed_lanes(32))),
        ("rev16", 0, 0b00001, (0,), of(_reversed_lanes(16))),
        ("saddlp", 0, 0b00010, _SMALL, _long_pairs(True, False)),
        ("uaddlp", 1, 0b00010, _SMALL, _long_pairs(False, False)),
        ("sadalp", 0, 0b00110, _SMALL, _long_pairs(True, True)),
        ("uadalp", 1, 0b00110, _SMALL, _long_pairs(False, True)),
        ("cls", 0, 0b00100, _SMALL, of(_leading_signs)),
        ("clz", 1, 0b00100, _SMALL, of(_one("vleading"))),
        ("cnt", 0, 0b00101, (0,), of(_one("vpopulation"))),
        ("sqabs", 0, 0b00111, _ALL, _saturating_unary(False)),
        ("sqneg", 1, 0b00111, _ALL, _saturating_unary(True)),
        ("cmgt_zero", 0, 0b01000, _ALL, of(_with_zero("vsgt", False))),
        ("cmge_zero", 1, 0b01000, _ALL, of(_with_zero("vsge", False))),
        ("cmeq_zero", 0, 0b01001, _ALL, of(_with_zero("vequal", False))),
        ("cmle_zero", 1, 0b01001, _ALL, of(_with_zero("vsge", True))),
        ("cmlt_zero", 0, 0b01010, _ALL, of(_with_zero("vsgt", True))),
        ("abs", 0, 0b01011, _ALL, of(_one("vabs"))),
        ("neg", 1, 0b01011, _ALL, of(lambda c, lane, a: sub(lane, ZERO, a))),
    ]
    for name, u, opcode, sizes, semantics in rows:
        for size in sizes:
            yield record(
                f"{name}_v.{SUFFIX[size]}",
                f"0q{u}01110 {size:02b} 10000 {opcode:05b} 10 wwwww vvvvv",
                semantics(8 << size), reserved=WHOLE_ONLY if size == 3 else None,
                extension="AdvSIMD",
            )  # fmt: skip
    yield record("not_v", "0q101110 00 10000 00101 10 wwwww vvvvv",
                 two(lambda c, lane, a: inverted(c, a), 64), extension="AdvSIMD")  # fmt: skip
    yield record("rbit_v", "0q101110 01 10000 00101 10 wwwww vvvvv",
                 two(_one("vreverse_bits"), 8), extension="AdvSIMD")  # fmt: skip
    scalars: list[tuple[str, int, int, Callable[[Any, int, Value], Value]]] = [
        ("cmgt_zero", 0, 0b01000, _with_zero("vsgt", False)),
        ("cmge_zero", 1, 0b01000, _with_zero("vsge", False)),
        ("cmeq_zero", 0, 0b01001, _with_zero("vequal", False)),
        ("cmle_zero", 1, 0b01001, _with_zero("vsge", True)),
        ("cmlt_zero", 0, 0b01010, _with_zero("vsgt", True)),
        ("abs", 0, 0b01011, _one("vabs")),
        ("neg", 1, 0b01011, lambda c, lane, a: sub(lane, ZERO, a)),
    ]
    for name, u, opcode, function in scalars:
        yield record(
            f"{name}_scalar", f"01{u}11110 11 10000 {opcode:05b} 10 wwwww vvvvv",
            _scalar(lambda c, lane, a, b, f=function: f(c, lane, a), 64),  # type: ignore[misc]
            extension="AdvSIMD",
        )  # fmt: skip
    yield record(
        "addp_scalar", "01011110 11 11000 11011 10 wwwww vvvvv", _pair_sum, extension="AdvSIMD"
    )


def _pair_sum(c: OperandContext) -> None:
    a = c.read("rs1")
    c.write("rd", vector_of(a.lane(0, 64) + a.lane(1, 64), Constant(I64, 0)))


# Across lanes ----------------------------------------------------------------------------------


def _across(name: str, lane: int) -> Semantics:
    """All lanes combined into one: halves, quarters and so on, until one is left."""

    def semantics(c: OperandContext) -> None:
        a, whole = c.read("rs1"), c.field("q")
        low, high = a.lane(0, 64), a.lane(1, 64)
        # Of 64 bits, what the half is combined with changes nothing: zeros, or itself.
        other = c.ir.select(whole != 0, high, Constant(I64, 0) if name == "vadd" else low)
        value = lanewise(name, lane, vector_of(low, low), vector_of(other, other)).lane(0, 64)
        width = 32
        while width >= lane:
            here = vector_of(value, Constant(I64, 0))
            there = vector_of(value >> width, Constant(I64, 0))
            value = lanewise(name, lane, here, there).lane(0, 64)
            width //= 2
        c.write("rd", vector_of(value & mask(lane), Constant(I64, 0)))

    return semantics


def _across_long(signed: bool, lane: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a = read_vector(c, "rs1")
        total: Value = Constant(I64, 0)
        for number in range(128 // lane):
            total = total + a.lane(number, lane).resize(I64, signed=signed)
        c.write("rd", vector_of(total & mask(2 * lane), Constant(I64, 0)))

    return semantics


def _across_records() -> Iterator[Instruction]:
    for name, u, opcode, operation in (
        ("smaxv", 0, 0b01010, "vsmax"), ("umaxv", 1, 0b01010, "vumax"),
        ("sminv", 0, 0b11010, "vsmin"), ("uminv", 1, 0b11010, "vumin"),
        ("addv", 0, 0b11011, "vadd"),
    ):  # fmt: skip
        for size in _SMALL:
            yield record(
                f"{name}.{SUFFIX[size]}",
                f"0q{u}01110 {size:02b} 11000 {opcode:05b} 10 wwwww vvvvv",
                _across(operation, 8 << size), reserved=WHOLE_ONLY if size == 2 else None,
                extension="AdvSIMD",
            )  # fmt: skip
    for name, u, signed in (("saddlv", 0, True), ("uaddlv", 1, False)):
        for size in _SMALL:
            yield record(
                f"{name}.{SUFFIX[size]}", f"0q{u}01110 {size:02b} 11000 00011 10 wwwww vvvvv",
                _across_long(signed, 8 << size), reserved=WHOLE_ONLY if size == 2 else None,
                extension="AdvSIMD",
            )  # fmt: skip


INSTRUCTIONS: tuple[Instruction, ...] = (
    *_three_records(),
    *_scalar_records(),
    *_two_records(),
    *_across_records(),
)

__all__ = ["I8", "I16", "I32", "INSTRUCTIONS", "I", "swapped"]
