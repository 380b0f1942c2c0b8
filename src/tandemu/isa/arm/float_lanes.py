"""Floating-point numbers one by one: the host's arithmetic with Arm's NaNs (Arm ARM, A1.5).

The host raises the flags. Where its result is a NaN, it is made anew: the first signalling
operand made quiet, else the first quiet one, else the default NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandemu.bits import mask
from tandemu.ir import F32, F64, I1, I32, I64, Constant, I, Type, Value
from tandemu.ir.softfloat import FORMATS
from tandemu.ir.values import emit, emit_effect

INVALID, INEXACT = 1 << 4, 1
"""Flags as `float_raise` has them."""
TO_NEAREST, UP, DOWN, TO_ZERO, AWAY, AS_FPCR = range(6)


def float_type(bits: int) -> Type:
    return F32 if bits == 32 else F64


def _quiet_bit(bits: int) -> int:
    return 1 << FORMATS[bits].fraction_bits - 1


def _infinity(bits: int) -> int:
    return mask(bits - 1) & ~mask(FORMATS[bits].fraction_bits)


def default_nan(bits: int) -> int:
    return _infinity(bits) | _quiet_bit(bits)


def is_nan(pattern: Value) -> Value:
    bits = pattern.type.bits
    return (pattern & mask(bits - 1)).ugt(_infinity(bits))


def is_signalling(pattern: Value) -> Value:
    return is_nan(pattern) & ((pattern & _quiet_bit(pattern.type.bits)) == 0)


def raise_flags(c: Any, flags: int) -> None:
    emit_effect("float_raise", Constant(I64, flags), builder=c.ir)


def chosen_nan(c: Any, operands: Sequence[Value]) -> Value:
    """FPProcessNaNs, or the default NaN if no operand is one."""
    bits = operands[0].type.bits
    value: Value = Constant(I(bits), default_nan(bits))
    for operand in reversed(operands):
        value = c.ir.select(is_nan(operand), operand | _quiet_bit(bits), value)
    for operand in reversed(operands):
        value = c.ir.select(is_signalling(operand), operand | _quiet_bit(bits), value)
    return value


def settled(c: Any, result: Value, operands: Sequence[Value]) -> Value:
    """The pattern of what the host made of the *operands*, patterns."""
    bits = operands[0].type.bits
    found = c.ir.variable(I(bits), result.bitcast(I(bits)))
    with c.ir.If(is_nan(found.value), likely=False):
        found.value = chosen_nan(c, operands)
    return found.value  # type: ignore[no-any-return]


def as_float(pattern: Value) -> Value:
    return pattern.bitcast(float_type(pattern.type.bits))


def compute(c: Any, name: str, *operands: Value) -> Value:
    """Operation *name* on patterns."""
    return settled(c, emit(name, *map(as_float, operands)), operands)


def negated(pattern: Value) -> Value:
    return pattern ^ (1 << pattern.type.bits - 1)


def multiply_add(c: Any, addend: Value, a: Value, b: Value) -> Value:
    """FPMulAdd: infinity times zero is invalid even if the addend is a quiet NaN."""
    bits = a.type.bits
    result = emit("fma", *map(as_float, (a, b, addend)))
    found = c.ir.variable(I(bits), result.bitcast(I(bits)))
    with c.ir.If(is_nan(found.value), likely=False):
        value = chosen_nan(c, (addend, a, b))
        size_a, size_b = a & mask(bits - 1), b & mask(bits - 1)
        no_product = ((size_a == 0) & (size_b == _infinity(bits))) | (
            (size_b == 0) & (size_a == _infinity(bits))
        )
        quiet = is_nan(addend) & ~is_signalling(addend)
        with c.ir.If(no_product & quiet):
            raise_flags(c, INVALID)
        found.value = c.ir.select(no_product & quiet, Constant(I(bits), default_nan(bits)), value)
    return found.value  # type: ignore[no-any-return]


def _order(pattern: Value) -> Value:
    """A signed number that orders patterns as they order numbers, -0 below +0."""
    bits = pattern.type.bits
    return pattern ^ ((pattern.sar(bits - 1)) & mask(bits - 1))


def extremum(c: Any, a: Value, b: Value, greatest: bool, ignores_quiet: bool) -> Value:
    """FPMax, FPMin; *ignores_quiet*: FPMaxNum, FPMinNum, to which a quiet NaN is nothing."""
    first = _order(a).sgt(_order(b)) if greatest else _order(a).slt(_order(b))
    found = c.ir.variable(a.type, c.ir.select(first, a, b))
    either = is_nan(a) | is_nan(b)
    with c.ir.If(either, likely=False):
        signalling = is_signalling(a) | is_signalling(b)
        value = chosen_nan(c, (a, b))
        if ignores_quiet:
            one = c.ir.select(is_nan(a) & ~is_nan(b), b, value)
            one = c.ir.select(is_nan(b) & ~is_nan(a), a, one)
            value = c.ir.select(signalling, value, one)
        found.value = value
        with c.ir.If(signalling):
            raise_flags(c, INVALID)
    return found.value  # type: ignore[no-any-return]


def compared(c: Any, a: Value, b: Value, signals_quiet: bool) -> tuple[Value, Value, Value]:
    """Whether *a* is less than *b*, equal to it, unordered."""
    unordered = is_nan(a) | is_nan(b)
    invalid = unordered if signals_quiet else is_signalling(a) | is_signalling(b)
    with c.ir.If(invalid, likely=False):
        raise_flags(c, INVALID)
    bits = a.type.bits
    zeros = ((a | b) & mask(bits - 1)) == 0
    equal = ((a == b) | zeros) & ~unordered
    less = _order(a).slt(_order(b)) & ~equal & ~unordered
    return less, equal, unordered


def to_double(pattern: Value) -> Value:
    """A number as a double, exactly, without a flag; NaNs stay NaNs."""
    if pattern.type.bits == 64:
        return pattern
    wide = pattern.zext(I64)
    sign, size = (wide >> 31) << 63, wide & 0x7FFFFFFF
    exponent = size >> 23
    normal = (size << 29) + ((1023 - 127) << 52)
    special = (size << 29) | (0x7FF << 52)
    # A denormal: its highest bit becomes the hidden one.
    shift = size.count_leading_zeros() - 11
    denormal = ((size << (shift & 63)) & mask(52)) | ((1075 - 149 - shift) << 52)
    value = emit("select", exponent == 0xFF, special, normal)
    value = emit("select", exponent == 0, denormal, value)
    return emit("select", size == 0, Constant(I64, 0), value) | sign


def to_integer(
    c: Any, pattern: Value, bits: int, signed: bool, rounding: int, scale: Value | None = None
) -> Value:
    """FPToFixed: of *bits* bits, saturating; *scale*: fraction bits of the result."""
    double = to_double(pattern)
    negative, exponent = double.slt(0), (double >> 52) & 0x7FF
    fraction = double & mask(52)
    whole = fraction | (c.ir.select(exponent == 0, Constant(I64, 0), Constant(I64, 1)) << 52)
    # Bits of the number that are below one: negative if it has to be moved up.
    below = 1075 - exponent
    if scale is not None:
        below = below - scale
    below = c.ir.select(below.sgt(55), Constant(I64, 55), below)
    down = c.ir.select(below.sgt(0), below, Constant(I64, 0))
    up = c.ir.select(below.slt(0), 0 - below, Constant(I64, 0))
    high = up.ugt(11)
    integer = (whole >> down) << c.ir.select(high, Constant(I64, 0), up)
    lost = whole & ((Constant(I64, 1) << down) - 1)
    half = (Constant(I64, 1) << down) >> 1
    odd = (integer & 1) != 0
    inexact = lost != 0
    ways = {
        TO_NEAREST: lost.ugt(half) | ((lost == half) & inexact & odd),
        UP: inexact & ~negative,
        DOWN: inexact & negative,
        TO_ZERO: Constant(I1, 0),
        AWAY: inexact & lost.uge(half),
    }
    if rounding == AS_FPCR:
        mode = (c.hart.fpcr >> 22) & 3
        rounds = ways[TO_NEAREST]
        for number, way in ((1, UP), (2, DOWN), (3, TO_ZERO)):
            rounds = c.ir.select(mode == number, ways[way], rounds)
    else:
        rounds = ways[rounding]
    integer = integer + rounds.zext(I64)
    nan = is_nan(pattern)
    if signed:
        limit = c.ir.select(negative, Constant(I64, 1 << bits - 1), Constant(I64, mask(bits - 1)))
        over = integer.ugt(limit)
        saturated = c.ir.select(negative, 0 - limit, limit)
    else:
        over = (negative & (integer != 0)) | integer.ugt(mask(bits))
        saturated = c.ir.select(negative, Constant(I64, 0), Constant(I64, mask(bits)))
    over = over | (high & (whole != 0))
    if not signed:
        saturated = c.ir.select(negative, Constant(I64, 0), saturated)
    value = c.ir.select(negative, 0 - integer, integer)
    value = c.ir.select(over, saturated, value)
    value = c.ir.select(nan, Constant(I64, 0), value)
    with c.ir.If(over | nan, likely=False):
        raise_flags(c, INVALID)
    with c.ir.If(inexact & ~over & ~nan):
        raise_flags(c, INEXACT)
    found: Value = value.trunc(I(bits))
    return found


def to_integral(c: Any, pattern: Value, rounding: int, exact: bool) -> Value:
    """FPRoundInt: a number without a fraction; *exact*: FRINTX, which tells if there was one."""
    bits = pattern.type.bits
    form = FORMATS[bits]
    digits = form.fraction_bits
    size, sign = pattern & mask(bits - 1), pattern & (1 << bits - 1)
    exponent = size >> digits
    one = Constant(pattern.type, form.bias << digits)
    zero = Constant(pattern.type, 0)
    small, large = exponent.ult(form.bias), exponent.uge(form.bias + digits)
    count = c.ir.select(small | large, Constant(pattern.type, 0), (form.bias + digits) - exponent)
    unit = Constant(pattern.type, 1) << count
    lost = size & (unit - 1)
    half = unit >> 1
    floor = size & ~(unit - 1)
    odd = (size & unit) != 0
    negative = sign != 0
    # Below one: nothing, half of one and more, or less.
    half_one = (form.bias - 1) << digits
    some = size != 0
    ways = {
        TO_NEAREST: (lost.ugt(half) | ((lost == half) & (lost != 0) & odd), size.ugt(half_one)),
        UP: ((lost != 0) & ~negative, some & ~negative),
        DOWN: ((lost != 0) & negative, some & negative),
        TO_ZERO: (Constant(I1, 0), Constant(I1, 0)),
        AWAY: ((lost != 0) & lost.uge(half), size.uge(half_one)),
    }
    if rounding == AS_FPCR:
        mode = (c.hart.fpcr >> 22) & 3
        rounds, becomes_one = ways[TO_NEAREST]
        for number, way in ((1, UP), (2, DOWN), (3, TO_ZERO)):
            rounds = c.ir.select(mode == number, ways[way][0], rounds)
            becomes_one = c.ir.select(mode == number, ways[way][1], becomes_one)
    else:
        rounds, becomes_one = ways[rounding]
    # One more in the last place carries into the exponent as it must.
    value = floor + c.ir.select(rounds, unit, zero)
    value = c.ir.select(small, c.ir.select(becomes_one, one, zero), value) | sign
    inexact = c.ir.select(small, some, lost != 0) & ~large
    value = c.ir.select(large, pattern, value)
    found = c.ir.variable(pattern.type, value)
    if exact:
        with c.ir.If(inexact):
            raise_flags(c, INEXACT)
    with c.ir.If(is_nan(pattern), likely=False):
        with c.ir.If(is_signalling(pattern)):
            raise_flags(c, INVALID)
        found.value = pattern | _quiet_bit(bits)
    return found.value  # type: ignore[no-any-return]


def converted(c: Any, pattern: Value, to: int) -> Value:
    """FPConvert between singles and doubles."""
    name = "fwiden" if to == 64 else "fnarrow"
    found = c.ir.variable(I(to), emit(name, as_float(pattern)).bitcast(I(to)))
    with c.ir.If(is_nan(pattern), likely=False):
        if to == 64:
            wide = pattern.zext(I64)
            value = ((wide >> 31) << 63) | ((wide & mask(23)) << 29) | default_nan(64)
        else:
            low = ((pattern >> 29) & mask(23)).trunc(I32)
            value = ((pattern >> 63) << 31).trunc(I32) | low | default_nan(32)
        found.value = value
    return found.value  # type: ignore[no-any-return]
