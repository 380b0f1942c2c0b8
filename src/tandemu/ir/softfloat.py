"""IEEE 754 binary32 and binary64 arithmetic in plain Python integers.

IEEE 754-2019, sections 4 (rounding), 5 (operations), 7 (exceptions), with what
it leaves open decided as RISC-V does: tininess is detected after rounding, a NaN
result is the canonical quiet NaN, and infinity times zero plus a quiet NaN is
invalid. A number is its bit pattern, an unsigned integer.

It is the meaning of the floating-point operations of the embedded language, and
the oracle of what they are lowered to. Left out: remainder, decimal formats,
traps other than the sticky flags.

>>> one, three = 0x3F800000, 0x40400000
>>> hex(divide(BINARY32, one, three)), environment.flags == INEXACT
('0x3eaaaaab', True)
>>> environment.flags = 0
"""

from __future__ import annotations

import threading
from math import isqrt
from typing import NamedTuple

from tandemu.bits import mask

# Rounding modes and flags are numbered as in RISC-V's fcsr.
NEAREST_EVEN, TOWARDS_ZERO, DOWN, UP, NEAREST_AWAY = range(5)
INEXACT, UNDERFLOW, OVERFLOW, DIVIDE_BY_ZERO, INVALID = (1 << bit for bit in range(5))


class Environment(threading.local):
    """A floating-point environment: rounding mode and sticky flags.

    Each thread sees its own, as each thread of a host has its own control register.
    """

    def __init__(self) -> None:
        self.rounding = NEAREST_EVEN
        self.flags = 0


environment = Environment()
"""What the operations of the embedded language work in when Python evaluates them."""


class Format(NamedTuple):
    """A binary interchange format."""

    bits: int
    precision: int
    """Digits of a significand, the hidden one included."""

    @property
    def fraction_bits(self) -> int:
        return self.precision - 1

    @property
    def exponent_mask(self) -> int:
        """The largest biased exponent: infinities and NaNs."""
        return mask(self.bits - self.precision)

    @property
    def bias(self) -> int:
        return self.exponent_mask >> 1

    @property
    def minimum(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self.bias

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.bits - 1)

    @property
    def infinity(self) -> int:
        return self.exponent_mask << self.fraction_bits

    @property
    def quiet(self) -> int:
        """The bit that tells a quiet NaN from a signalling one."""
        return 1 << (self.fraction_bits - 1)

    @property
    def nan(self) -> int:
        """The canonical NaN."""
        return self.infinity | self.quiet

    def is_nan(self, a: int) -> bool:
        return a & ~self.sign > self.infinity

    def is_signalling(self, a: int) -> bool:
        return self.is_nan(a) and not a & self.quiet

    def is_infinite(self, a: int) -> bool:
        return a & ~self.sign == self.infinity

    def is_zero(self, a: int) -> bool:
        return not a & ~self.sign

    def is_negative(self, a: int) -> bool:
        """Whether the sign bit is set."""
        return bool(a & self.sign)

    def unpack(self, a: int) -> tuple[int, int]:
        """Return (m, e) of a finite number's magnitude m * 2**e."""
        exponent = a >> self.fraction_bits & self.exponent_mask
        fraction = a & mask(self.fraction_bits)
        if exponent:
            return fraction | 1 << self.fraction_bits, exponent - self.bias - self.fraction_bits
        return fraction, self.minimum - self.fraction_bits


BINARY32, BINARY64 = Format(32, 24), Format(64, 53)
FORMATS = {32: BINARY32, 64: BINARY64}


def _shift(m: int, count: int, negative: bool, rounding: int) -> tuple[int, bool]:
    """Return m / 2**count rounded to an integer, and whether that lost anything."""
    if count <= 0:
        return m << -count, False
    quotient, rest, half = m >> count, m & mask(count), 1 << (count - 1)
    if rounding == NEAREST_EVEN:
        away = rest > half or (rest == half and bool(quotient & 1))
    elif rounding == NEAREST_AWAY:
        away = rest >= half
    else:
        away = bool(rest) and rounding == (DOWN if negative else UP)
    return quotient + away, bool(rest)


def _round(f: Format, negative: bool, m: int, e: int, env: Environment) -> int:
    """Return the number nearest to m * 2**e in the rounding direction; raise flags.

    If *m* was cut, its lowest bit stands for what is missing, and it has at least
    two digits more than the format's precision.
    """
    sign = f.sign if negative else 0
    if not m:
        return sign
    leading = e + m.bit_length() - 1
    unit = max(leading, f.minimum) - f.fraction_bits
    result, inexact = _shift(m, unit - e, negative, env.rounding)
    if inexact:
        env.flags |= INEXACT
        if leading < f.minimum:
            # Tiny, unless it would round up to a normal number with all digits kept.
            full, _ = _shift(m, leading - f.fraction_bits - e, negative, env.rounding)
            if leading < f.minimum - 1 or full < 1 << f.precision:
                env.flags |= UNDERFLOW
    # A subnormal's biased exponent is 0 and a carry into the hidden digit makes it 1.
    biased = unit + f.fraction_bits + f.bias - 1
    packed = (biased << f.fraction_bits) + result
    if packed >= f.infinity:
        env.flags |= OVERFLOW | INEXACT
        to_infinity = env.rounding in (NEAREST_EVEN, NEAREST_AWAY, DOWN if negative else UP)
        packed = f.infinity if to_infinity else f.infinity - 1
    return sign | packed


def _nan(f: Format, env: Environment, *operands: int) -> int:
    """The result of an operation with a NaN among its operands."""
    if any(f.is_signalling(a) for a in operands):
        env.flags |= INVALID
    return f.nan


def _invalid(f: Format, env: Environment) -> int:
    env.flags |= INVALID
    return f.nan


def _sum(f: Format, x: tuple[bool, int, int], y: tuple[bool, int, int], env: Environment) -> int:
    """Add two exact finite numbers, each (negative, m, e)."""
    e = min(x[2], y[2])
    total = 0
    for negative, m, own in (x, y):
        total += (-m if negative else m) << (own - e)
    if total:
        return _round(f, total < 0, abs(total), e, env)
    # Zeros of one sign keep it; what cancels out is +0, or -0 when rounding down.
    both = x[0] if x[0] == y[0] else env.rounding == DOWN
    return f.sign if both else 0


def add(f: Format, a: int, b: int, env: Environment = environment) -> int:
    """a + b."""
    if f.is_nan(a) or f.is_nan(b):
        return _nan(f, env, a, b)
    if f.is_infinite(a):
        return _invalid(f, env) if f.is_infinite(b) and a != b else a
    if f.is_infinite(b):
        return b
    return _sum(f, (f.is_negative(a), *f.unpack(a)), (f.is_negative(b), *f.unpack(b)), env)


def subtract(f: Format, a: int, b: int, env: Environment = environment) -> int:
    """a - b."""
    return add(f, a, b if f.is_nan(b) else b ^ f.sign, env)


def multiply(f: Format, a: int, b: int, env: Environment = environment) -> int:
    """a * b."""
    if f.is_nan(a) or f.is_nan(b):
        return _nan(f, env, a, b)
    sign = (a ^ b) & f.sign
    if f.is_infinite(a) or f.is_infinite(b):
        return _invalid(f, env) if f.is_zero(a) or f.is_zero(b) else sign | f.infinity
    (m, e), (n, d) = f.unpack(a), f.unpack(b)
    return _round(f, bool(sign), m * n, e + d, env)


def divide(f: Format, a: int, b: int, env: Environment = environment) -> int:
    """a / b."""
    if f.is_nan(a) or f.is_nan(b):
        return _nan(f, env, a, b)
    sign = (a ^ b) & f.sign
    if f.is_infinite(a):
        return _invalid(f, env) if f.is_infinite(b) else sign | f.infinity
    if f.is_infinite(b):
        return sign
    if f.is_zero(b):
        if f.is_zero(a):
            return _invalid(f, env)
        env.flags |= DIVIDE_BY_ZERO
        return sign | f.infinity
    (m, e), (n, d) = f.unpack(a), f.unpack(b)
    extra = max(0, n.bit_length() - m.bit_length()) + f.precision + 2
    quotient, rest = divmod(m << extra, n)
    return _round(f, bool(sign), quotient | (rest != 0), e - d - extra, env)


def square_root(f: Format, a: int, env: Environment = environment) -> int:
    """The square root of a; that of -0 is -0."""
    if f.is_nan(a):
        return _nan(f, env, a)
    if f.is_zero(a) or a == f.infinity:
        return a
    if f.is_negative(a):
        return _invalid(f, env)
    m, e = f.unpack(a)
    extra = 2 * (f.precision + 2)
    extra += (e - extra) & 1
    m <<= extra
    root = isqrt(m)
    return _round(f, False, root | (root * root != m), (e - extra) // 2, env)


def fused_multiply_add(f: Format, a: int, b: int, c: int, env: Environment = environment) -> int:
    """a * b + c, rounded once."""
    product_sign = (a ^ b) & f.sign
    either_nan = f.is_nan(a) or f.is_nan(b)
    if not either_nan and (f.is_infinite(a) or f.is_infinite(b)):
        if f.is_zero(a) or f.is_zero(b):
            return _invalid(f, env)
        if f.is_nan(c):
            return _nan(f, env, c)
        infinity = product_sign | f.infinity
        return _invalid(f, env) if f.is_infinite(c) and c != infinity else infinity
    if either_nan or f.is_nan(c):
        return _nan(f, env, a, b, c)
    if f.is_infinite(c):
        return c
    (m, e), (n, d) = f.unpack(a), f.unpack(b)
    return _sum(f, (bool(product_sign), m * n, e + d), (f.is_negative(c), *f.unpack(c)), env)


def convert(source: Format, target: Format, a: int, env: Environment = environment) -> int:
    """The number a of one format in another."""
    if source.is_nan(a):
        _nan(source, env, a)
        return target.nan
    negative = source.is_negative(a)
    if source.is_infinite(a):
        return (target.sign if negative else 0) | target.infinity
    return _round(target, negative, *source.unpack(a), env)


def from_integer(f: Format, value: int, env: Environment = environment) -> int:
    """The number nearest to a Python integer."""
    return _round(f, value < 0, abs(value), 0, env)


def to_integer(
    f: Format,
    a: int,
    bits: int,
    signed: bool,
    *,
    rounding: int | None = None,
    env: Environment = environment,
) -> int | None:
    """The integer nearest to a, as a Python integer; None where it does not fit *bits* bits.

    *rounding* None is the environment's. What does not fit, and a NaN, is invalid
    and nothing else: no inexact is raised then.
    """
    if f.is_nan(a) or f.is_infinite(a):
        env.flags |= INVALID
        return None
    negative = f.is_negative(a)
    m, e = f.unpack(a)
    result, inexact = _shift(m, -e, negative, env.rounding if rounding is None else rounding)
    if negative:
        result = -result
    low, high = (-1 << (bits - 1), mask(bits - 1)) if signed else (0, mask(bits))
    if not low <= result <= high:
        env.flags |= INVALID
        return None
    if inexact:
        env.flags |= INEXACT
    return result


def _order(f: Format, a: int) -> int:
    """An integer that orders like the number; both zeros are 0."""
    magnitude = a & ~f.sign
    return -magnitude if f.is_negative(a) else magnitude


def _unordered(f: Format, a: int, b: int, signalling: bool, env: Environment) -> bool:
    if not (f.is_nan(a) or f.is_nan(b)):
        return False
    if signalling or f.is_signalling(a) or f.is_signalling(b):
        env.flags |= INVALID
    return True


def equal(f: Format, a: int, b: int, env: Environment = environment) -> bool:
    """a == b; only a signalling NaN is invalid."""
    return not _unordered(f, a, b, False, env) and _order(f, a) == _order(f, b)


def less(f: Format, a: int, b: int, env: Environment = environment) -> bool:
    """a < b; any NaN is invalid."""
    return not _unordered(f, a, b, True, env) and _order(f, a) < _order(f, b)


def less_or_equal(f: Format, a: int, b: int, env: Environment = environment) -> bool:
    """a <= b; any NaN is invalid."""
    return not _unordered(f, a, b, True, env) and _order(f, a) <= _order(f, b)


def unordered(f: Format, a: int, b: int, env: Environment = environment) -> bool:
    """Whether a or b is a NaN; only a signalling one is invalid."""
    return _unordered(f, a, b, False, env)
