"""Advanced SIMD: shifts by a constant, narrowing, widening (Arm ARM, C4.1.96).

"Advanced SIMD shift by immediate", "three different", and the narrowing ones among the
"two-register miscellaneous".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I64, Constant, Value, vector_of
from tandemu.ir.values import emit
from tandemu.ir.vectors import lanewise
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.vector_lanes import (
    ZERO,
    add,
    both,
    chosen_half,
    constant,
    either,
    inverted,
    note_saturation,
    sub,
    variable,
    write_half,
    write_vector,
)
from tandemu.isa.instruction import Instruction, Semantics
from tandemu.isa.tracing import OperandContext

SUFFIX = ("b", "h", "s", "d")
Shift = Callable[[Any, int, Value, Value], Value]
"""(context, lane width, vector, amount): the amount is 1 to the width to the right."""


# immh:immb of a lane of n bits is 2n - amount to the right, n + amount to the left; the field k
# holds its bits below the highest one.
def _right_amount(c: OperandContext, lane: int) -> Value:
    return Constant(I64, lane) - c.field("k")


def right(signed: bool, rounds: bool) -> Shift:
    name = "vsar" if signed else "vshr"

    def function(c: Any, lane: int, a: Value, amount: Value) -> Value:
        # By the whole width: one less, and one.
        one = constant(c, lane, 1)
        less = lanewise(name, lane, a, variable(c, lane, amount - 1))
        value = lanewise(name, lane, less, one)
        return add(lane, value, both(less, one)) if rounds else value

    return function


def _shifted(shift: Shift, lane: int, accumulates: bool, scalar: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = shift(c, lane, c.read("rs1"), _right_amount(c, lane))
        if accumulates:
            value = add(lane, c.read("rd"), value)
        _write(c, value, scalar)

    return semantics


def _write(c: OperandContext, value: Value, scalar: bool) -> None:
    if scalar:
        c.write("rd", vector_of(value.lane(0, 64), Constant(I64, 0)))
    else:
        write_vector(c, value)


def _left(lane: int, inserts: bool, scalar: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = variable(c, lane, c.field("k"))
        value = lanewise("vshl", lane, c.read("rs1"), amount)
        if inserts:
            kept = inverted(c, lanewise("vshl", lane, constant(c, lane, mask(lane)), amount))
            value = either(value, both(c.read("rd"), kept))
        _write(c, value, scalar)

    return semantics


def _insert_right(lane: int, scalar: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = _right_amount(c, lane)
        plain = right(False, False)
        moved = plain(c, lane, constant(c, lane, mask(lane)), amount)
        value = plain(c, lane, c.read("rs1"), amount)
        _write(c, either(value, both(c.read("rd"), inverted(c, moved))), scalar)

    return semantics


def _shift_records() -> Iterator[Instruction]:
    for size, suffix in enumerate(SUFFIX):
        lane = 8 << size
        amount = "0" * (3 - size) + "1" + "k" * (3 + size)
        rows: list[tuple[str, int, int, Callable[[bool], Semantics]]] = []
        for u, signed in ((0, True), (1, False)):
            letter = "s" if signed else "u"
            for name, opcode, rounds, accumulates in (
                ("shr", 0b00000, False, False), ("sra", 0b00010, False, True),
                ("rshr", 0b00100, True, False), ("rsra", 0b00110, True, True),
            ):  # fmt: skip
                shift = right(signed, rounds)
                rows.append((
                    f"{letter}{name}", u, opcode,
                    lambda s, f=shift, a=accumulates, n=lane: _shifted(f, n, a, s),  # type: ignore[misc]
                ))  # fmt: skip
        rows += [
            ("sri", 1, 0b01000, lambda s, n=lane: _insert_right(n, s)),  # type: ignore[misc]
            ("shl", 0, 0b01010, lambda s, n=lane: _left(n, False, s)),  # type: ignore[misc]
            ("sli", 1, 0b01010, lambda s, n=lane: _left(n, True, s)),  # type: ignore[misc]
        ]
        for name, u, opcode, semantics in rows:
            yield record(
                f"{name}_v.{suffix}", f"0q{u}011110 {amount} {opcode:05b} 1 wwwww vvvvv",
                semantics(False), reserved={"q": (0,)} if size == 3 else None,
                extension="AdvSIMD",
            )  # fmt: skip
            if size == 3:
                yield record(
                    f"{name}_scalar", f"01{u}111110 {amount} {opcode:05b} 1 wwwww vvvvv",
                    semantics(True), extension="AdvSIMD",
                )  # fmt: skip


# Narrowing -------------------------------------------------------------------------------------


def narrowed(lane: int, a: Value) -> Value:
    """The lower halves of lanes of *lane* bits, zeros above them."""
    return lanewise("vnarrow", lane, a, ZERO)


def _narrow_shift(lane: int, rounds: bool) -> Semantics:
    """*lane*: of the result."""

    def semantics(c: OperandContext) -> None:
        value = right(False, rounds)(c, 2 * lane, c.read("rs1"), _right_amount(c, lane))
        write_half(c, narrowed(2 * lane, value))

    return semantics


def saturated_narrow(c: Any, lane: int, a: Value, source_signed: bool, signed: bool) -> Value:
    """Lanes of *lane* bits of ones twice as wide, at most and at least what they can hold."""
    wide = 2 * lane
    high = mask(lane - 1) if signed else mask(lane)
    low = -(1 << lane - 1) if signed else 0
    if source_signed:
        value = lanewise("vsmin", wide, a, constant(c, wide, high))
        value = lanewise("vsmax", wide, value, constant(c, wide, low & mask(wide)))
    else:
        value = lanewise("vumin", wide, a, constant(c, wide, high))
    note_saturation(c, value, a)
    return narrowed(wide, value)


_SATURATING = (("sq", "n", 0, True, True), ("uq", "n", 1, False, False),
               ("sq", "un", 1, True, False))  # fmt: skip


def _saturating_shift(lane: int, rounds: bool, source_signed: bool, signed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = _right_amount(c, lane)
        value = right(source_signed, rounds)(c, 2 * lane, c.read("rs1"), amount)
        write_half(c, saturated_narrow(c, lane, value, source_signed, signed))

    return semantics


def _narrow(lane: int, kind: tuple[bool, bool] | None) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a = c.read("rs1")
        value = narrowed(2 * lane, a) if kind is None else saturated_narrow(c, lane, a, *kind)
        write_half(c, value)

    return semantics


def _narrow_records() -> Iterator[Instruction]:
    for size, suffix in enumerate(SUFFIX[:3]):
        lane = 8 << size
        amount = "0" * (3 - size) + "1" + "k" * (3 + size)
        for name, opcode, rounds in (("shrn", 0b10000, False), ("rshrn", 0b10001, True)):
            yield record(
                f"{name}.{suffix}", f"0q0011110 {amount} {opcode:05b} 1 wwwww vvvvv",
                _narrow_shift(lane, rounds), extension="AdvSIMD",
            )  # fmt: skip
        for prefix, ending, u, source_signed, signed in _SATURATING:
            base = 0b10000 if ending == "un" else 0b10010
            for rounds in (False, True):
                name = f"{prefix}{'r' if rounds else ''}shr{ending}"
                yield record(
                    f"{name}.{suffix}",
                    f"0q{u}011110 {amount} {base + rounds:05b} 1 wwwww vvvvv",
                    _saturating_shift(lane, rounds, source_signed, signed), extension="AdvSIMD",
                )  # fmt: skip
            opcode = 0b10010 if ending == "un" else 0b10100
            yield record(
                f"{prefix}xt{ending}.{suffix}",
                f"0q{u}01110 {size:02b} 10000 {opcode:05b} 10 wwwww vvvvv",
                _narrow(lane, (source_signed, signed)), extension="AdvSIMD",
            )  # fmt: skip
        yield record(
            f"xtn.{suffix}", f"0q001110 {size:02b} 10000 10010 10 wwwww vvvvv",
            _narrow(lane, None), extension="AdvSIMD",
        )  # fmt: skip


# Widening --------------------------------------------------------------------------------------


def widened(c: OperandContext, operand: str, lane: int, signed: bool) -> Value:
    """The half of an operand that the instruction works on, its lanes twice as wide."""
    return lanewise("vsext" if signed else "vzext", lane, chosen_half(c, c.read(operand)))


def _shift_long(lane: int, signed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = variable(c, 2 * lane, c.field("k"))
        c.write("rd", lanewise("vshl", 2 * lane, widened(c, "rs1", lane, signed), amount))

    return semantics


def _shift_whole(lane: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = constant(c, 2 * lane, lane)
        c.write("rd", lanewise("vshl", 2 * lane, widened(c, "rs1", lane, False), amount))

    return semantics


def _difference(c: Any, wide: int, a: Value, b: Value) -> Value:
    return lanewise("vabs", wide, sub(wide, a, b))


def _product(c: Any, wide: int, a: Value, b: Value) -> Value:
    return lanewise("vmul", wide, a, b)


def _long(function: Any, lane: int, signed: bool, into: Any, first_wide: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a = c.read("rs1") if first_wide else widened(c, "rs1", lane, signed)
        value = function(c, 2 * lane, a, widened(c, "rs2", lane, signed))
        c.write("rd", value if into is None else into(2 * lane, c.read("rd"), value))

    return semantics


def _high_narrow(
    combine: Callable[[int, Value, Value], Value], lane: int, rounds: bool
) -> Semantics:
    def semantics(c: OperandContext) -> None:
        wide = 2 * lane
        value = combine(wide, c.read("rs1"), c.read("rs2"))
        if rounds:
            value = add(wide, value, constant(c, wide, 1 << lane - 1))
        value = lanewise("vshr", wide, value, constant(c, wide, lane))
        write_half(c, narrowed(wide, value))

    return semantics


def _polynomial(c: OperandContext) -> None:
    a, b = widened(c, "rs1", 8, False), widened(c, "rs2", 8, False)
    result: Value = ZERO
    for number in range(8):
        amount = constant(c, 16, number)
        one = constant(c, 16, 1)
        chosen = sub(16, ZERO, both(lanewise("vshr", 16, b, amount), one))
        result = emit("vxor", result, lanewise("vshl", 16, both(a, chosen), amount),
                      attributes=(64,))  # fmt: skip
    c.write("rd", result)


def _long_records() -> Iterator[Instruction]:
    plus = lambda c, n, a, b: add(n, a, b)  # noqa: E731
    minus = lambda c, n, a, b: sub(n, a, b)  # noqa: E731
    for size, suffix in enumerate(SUFFIX[:3]):
        lane = 8 << size
        amount = "0" * (3 - size) + "1" + "k" * (3 + size)
        for u, signed in ((0, True), (1, False)):
            letter = "s" if signed else "u"
            yield record(
                f"{letter}shll.{suffix}", f"0q{u}011110 {amount} 10100 1 wwwww vvvvv",
                _shift_long(lane, signed), extension="AdvSIMD",
            )  # fmt: skip
            for name, opcode, function, into, first_wide in (
                ("addl", 0, plus, None, False), ("addw", 1, plus, None, True),
                ("subl", 2, minus, None, False), ("subw", 3, minus, None, True),
                ("abal", 5, _difference, add, False), ("abdl", 7, _difference, None, False),
                ("mlal", 8, _product, add, False), ("mlsl", 10, _product, sub, False),
                ("mull", 12, _product, None, False),
            ):  # fmt: skip
                yield record(
                    f"{letter}{name}.{suffix}",
                    f"0q{u}01110 {size:02b} 1 uuuuu {opcode:04b} 00 wwwww vvvvv",
                    _long(function, lane, signed, into, first_wide), extension="AdvSIMD",
                )  # fmt: skip
        for name, u, opcode, combine, rounds in (
            ("addhn", 0, 4, add, False), ("raddhn", 1, 4, add, True),
            ("subhn", 0, 6, sub, False), ("rsubhn", 1, 6, sub, True),
        ):  # fmt: skip
            yield record(
                f"{name}.{suffix}", f"0q{u}01110 {size:02b} 1 uuuuu {opcode:04b} 00 wwwww vvvvv",
                _high_narrow(combine, lane, rounds), extension="AdvSIMD",
            )  # fmt: skip
        yield record(
            f"shll.{suffix}", f"0q101110 {size:02b} 10000 10011 10 wwwww vvvvv",
            _shift_whole(lane), extension="AdvSIMD",
        )  # fmt: skip
    yield record(
        "pmull.b", "0q001110 00 1 uuuuu 1110 00 wwwww vvvvv", _polynomial, extension="AdvSIMD"
    )


INSTRUCTIONS: tuple[Instruction, ...] = (
    *_shift_records(),
    *_narrow_records(),
    *_long_records(),
)
