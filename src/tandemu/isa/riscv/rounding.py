"""Rounding to an integer, to nearest with ties away from zero: on the bits of a number.

Hosts do not have that mode (RMM; RISC-V Unprivileged ISA, chapter "F", rounding modes).
"""

from __future__ import annotations

from tandemu.bits import mask
from tandemu.ir import Builder, Constant, Type, Value
from tandemu.ir.softfloat import FORMATS


def _parts(value: Value) -> tuple[Value, Value]:
    """The magnitude, and the sign bit in place, of a bit pattern."""
    bits = value.type.bits
    return value & mask(bits - 1), value & (1 << (bits - 1))


def rounded_away(b: Builder, t: Type, a: Value) -> tuple[Value, Value]:
    """The integer nearest to pattern *a* of *t*, of two the one away from zero, as a pattern;
    and whether it is another value. NaNs and infinities stay as they are."""
    form = FORMATS[t.bits]
    size, sign = _parts(a)
    digits = form.fraction_bits
    exponent = size >> digits
    # Bits of the fraction that stand for less than one; at least 1 and at most all.
    below = (form.bias + digits) - exponent
    has_fraction = exponent.ult(form.bias + digits) & exponent.uge(form.bias)
    shift = b.select(has_fraction, below, Constant(a.type, 1))
    half = Constant(a.type, 1) << (shift - 1)
    rest = (half << 1) - 1
    large = b.select(has_fraction, (size + half) & ~rest, size)
    is_small = exponent.ult(form.bias)
    one, zero = Constant(a.type, form.bias << digits), Constant(a.type, 0)
    small = b.select(exponent == form.bias - 1, one, zero)
    inexact = b.select(is_small, size != 0, has_fraction & ((size & rest) != 0))
    return b.select(is_small, small, large) | sign, inexact


def is_out_of_range(b: Builder, t: Type, a: Value, bits: int, signed: bool) -> Value:
    """Whether the integer in pattern *a* of *t* is none of *bits* bits."""
    form = FORMATS[t.bits]
    size, sign = _parts(a)
    negative = sign != 0
    end = (form.bias + (bits - 1 if signed else bits)) << form.fraction_bits
    if signed:
        return b.select(negative, size.ugt(end), size.uge(end))
    return b.select(negative, size != 0, size.uge(end))
