"""Arithmetic in Python integers, against the host's own and by hand."""

from __future__ import annotations

import ctypes
import math
import operator
import struct
import threading
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.ir import softfloat as soft
from tandemu.ir.softfloat import BINARY32, BINARY64, FORMATS, Environment, Format
from tests.ir.float_operands import BOTH, INTEGERS, many, pattern, some

NX, UF, OF, DZ, NV = (1 << bit for bit in range(5))
MODES = range(5)


def value(f: Format, bits: int) -> float:
    letter = {32: "f", 64: "d"}[f.bits]
    result: float = struct.unpack("<" + letter, bits.to_bytes(f.bits // 8, "little"))[0]
    return result


def host(f: Format, number: float) -> int:
    """The pattern of a double, rounded once more for singles; NaNs are canonical."""
    if math.isnan(number):
        return f.nan
    if f is BINARY32:
        return int(ctypes.c_uint32.from_buffer(ctypes.c_float(number)).value)
    return pattern(f, number)


BINARY = [(soft.add, operator.add), (soft.subtract, operator.sub), (soft.multiply, operator.mul)]


@pytest.mark.parametrize("f", BOTH, ids=lambda f: f"f{f.bits}")
@pytest.mark.parametrize(("ours", "theirs"), BINARY)
def test_like_the_host_to_nearest(f: Format, ours: object, theirs: object) -> None:
    # A double keeps more than twice a single's digits: rounding twice is harmless.
    for a in some(f):
        for b in some(f):
            expected = host(f, theirs(value(f, a), value(f, b)))  # type: ignore[operator]
            assert ours(f, a, b, Environment()) == expected, (hex(a), hex(b))  # type: ignore[operator]


@pytest.mark.parametrize("f", BOTH, ids=lambda f: f"f{f.bits}")
def test_divide_and_root_like_the_host(f: Format) -> None:
    for a in some(f):
        x = value(f, a)
        if not x < 0:
            assert soft.square_root(f, a, Environment()) == host(f, math.sqrt(x)), hex(a)
        for b in some(f):
            if value(f, b) != 0:
                expected = host(f, x / value(f, b))
                assert soft.divide(f, a, b, Environment()) == expected, (hex(a), hex(b))


def exact(f: Format, bits: int) -> Fraction:
    m, e = f.unpack(bits)
    return Fraction(-m if f.is_negative(bits) else m) * Fraction(2) ** e


PATTERNS = {f.bits: st.integers(0, (1 << f.bits) - 1) | st.sampled_from(many(f)) for f in BOTH}


@given(st.data(), st.sampled_from([32, 64]), st.sampled_from(list(MODES)))
def test_fused_is_the_rounded_exact_value(data: st.DataObject, bits: int, mode: int) -> None:
    """The exact value lies between the result and its neighbour, as the mode says."""
    f = FORMATS[bits]
    a, b, c = (data.draw(PATTERNS[bits]) for _ in range(3))
    if any(f.is_nan(v) or f.is_infinite(v) for v in (a, b, c)):
        return
    env = Environment()
    env.rounding = mode
    result = soft.fused_multiply_add(f, a, b, c, env)
    true = exact(f, a) * exact(f, b) + exact(f, c)
    if f.is_infinite(result) or env.flags & OF:
        assert abs(true) > exact(f, f.infinity - 1)
        return
    got = exact(f, result)
    assert (got == true) == (not env.flags & NX)
    magnitude = result & ~f.sign
    neighbours = [v for v in (magnitude - 1, magnitude + 1) if v >= 0]
    distance = abs(abs(got) - abs(true))
    for neighbour in neighbours:
        other = Fraction(*f.unpack(neighbour)[:1]) * Fraction(2) ** f.unpack(neighbour)[1]
        further = abs(other - abs(true))
        if mode in (soft.NEAREST_EVEN, soft.NEAREST_AWAY):
            assert distance <= further
            if distance == further:
                wanted = neighbour > magnitude if mode == soft.NEAREST_AWAY else magnitude & 1
                assert not wanted
    if mode == soft.DOWN:
        assert got <= true
    elif mode == soft.UP:
        assert got >= true
    elif mode == soft.TOWARDS_ZERO:
        assert abs(got) <= abs(true)
    # No representable number lies strictly between.
    unit = Fraction(2) ** f.unpack(magnitude)[1]
    assert distance < unit or (distance == unit and mode in (0, 4))


ONE, TWO = pattern(BINARY64, 1.0), pattern(BINARY64, 2.0)
NORMAL = 1 << 52
LARGEST = BINARY64.infinity - 1
NAN, SIGNALLING, INFINITY = BINARY64.nan, BINARY64.infinity | 1, BINARY64.infinity
MINUS = BINARY64.sign


@pytest.mark.parametrize(
    ("function", "operands", "mode", "result", "flags"),
    [
        (soft.add, (ONE, 1), 0, ONE, NX),
        (soft.add, (ONE, 1), 3, ONE + 1, NX),
        (soft.add, (ONE, ONE | MINUS), 0, 0, 0),
        (soft.add, (ONE, ONE | MINUS), 2, MINUS, 0),
        (soft.add, (INFINITY, INFINITY | MINUS), 0, NAN, NV),
        (soft.subtract, (INFINITY, INFINITY), 0, NAN, NV),
        (soft.add, (NAN | 7, ONE), 0, NAN, 0),
        (soft.add, (SIGNALLING, ONE), 0, NAN, NV),
        (soft.add, (LARGEST, LARGEST), 0, INFINITY, OF | NX),
        (soft.add, (LARGEST, LARGEST), 1, LARGEST, OF | NX),
        (soft.add, (LARGEST, LARGEST), 2, LARGEST, OF | NX),
        (soft.add, (LARGEST | MINUS, LARGEST | MINUS), 2, INFINITY | MINUS, OF | NX),
        (soft.add, (LARGEST, LARGEST), 4, INFINITY, OF | NX),
        (soft.divide, (ONE, 0), 0, INFINITY, DZ),
        (soft.divide, (ONE, MINUS), 0, INFINITY | MINUS, DZ),
        (soft.divide, (0, 0), 0, NAN, NV),
        (soft.divide, (INFINITY, 0), 0, INFINITY, 0),
        (soft.divide, (1, TWO), 0, 0, UF | NX),
        (soft.divide, (1, TWO), 3, 1, UF | NX),
        (soft.divide, (1, TWO), 4, 1, UF | NX),
        # Exact subnormal results do not underflow; tininess is judged after rounding.
        (soft.divide, (NORMAL, TWO), 0, NORMAL >> 1, 0),
        (soft.multiply, (NORMAL, ONE - 1), 0, NORMAL, UF | NX),
        (soft.multiply, (NORMAL, ONE - 1), 1, NORMAL - 1, UF | NX),
        (soft.multiply, (NORMAL + 1, ONE - 1), 0, NORMAL, NX),
        (soft.multiply, (INFINITY, 0), 0, NAN, NV),
        (soft.square_root, (ONE | MINUS,), 0, NAN, NV),
        (soft.square_root, (MINUS,), 0, MINUS, 0),
        (soft.fused_multiply_add, (INFINITY, 0, NAN), 0, NAN, NV),
        (soft.fused_multiply_add, (INFINITY, ONE, INFINITY | MINUS), 0, NAN, NV),
        (soft.fused_multiply_add, (ONE, ONE, ONE | MINUS), 2, MINUS, 0),
        (soft.fused_multiply_add, (ONE, NAN, SIGNALLING), 0, NAN, NV),
        (soft.equal, (NAN, ONE), 0, 0, 0),
        (soft.equal, (SIGNALLING, ONE), 0, 0, NV),
        (soft.equal, (0, MINUS), 0, 1, 0),
        (soft.less, (NAN, ONE), 0, 0, NV),
        (soft.less, (ONE | MINUS, MINUS), 0, 1, 0),
        (soft.less_or_equal, (0, MINUS), 0, 1, 0),
        (soft.unordered, (NAN, ONE), 0, 1, 0),
    ],
)
def test_by_hand(
    function: object, operands: tuple[int, ...], mode: int, result: int, flags: int
) -> None:
    env = Environment()
    env.rounding = mode
    assert function(BINARY64, *operands, env) == result  # type: ignore[operator]
    assert env.flags == flags


@pytest.mark.parametrize(
    ("number", "bits", "signed", "mode", "result", "flags"),
    [
        (2.5, 32, True, 0, 2, NX),
        (2.5, 32, True, 1, 2, NX),
        (-2.5, 32, True, 2, -3, NX),
        (2.5, 32, True, 3, 3, NX),
        (2.5, 32, True, 4, 3, NX),
        (-0.5, 32, False, 0, 0, NX),
        (-0.5, 32, False, 4, None, NV),
        (-1.0, 64, False, 0, None, NV),
        (-(2.0**31), 32, True, 0, -(2**31), 0),
        (2.0**31 - 0.5, 32, True, 0, None, NV),
        (2.0**31 - 0.5, 32, True, 1, 2**31 - 1, NX),
        (2.0**64, 64, False, 0, None, NV),
        (math.inf, 64, True, 0, None, NV),
        (math.nan, 64, True, 0, None, NV),
    ],
)
def test_to_integer(
    *, number: float, bits: int, signed: bool, mode: int, result: int | None, flags: int
) -> None:
    env = Environment()
    env.rounding = mode
    got = soft.to_integer(BINARY64, pattern(BINARY64, number), bits, signed, env=env)
    assert (got, env.flags) == (result, flags)


def test_from_integer_and_between_formats_like_the_host() -> None:
    for integer in INTEGERS:
        for number in (integer, integer - (1 << 64)):
            expected = pattern(BINARY64, float(number))
            assert soft.from_integer(BINARY64, number, Environment()) == expected
    for a in many(BINARY64):
        expected = host(BINARY32, value(BINARY64, a))
        assert soft.convert(BINARY64, BINARY32, a, Environment()) == expected
    for a in many(BINARY32):
        expected = host(BINARY64, value(BINARY32, a))
        assert soft.convert(BINARY32, BINARY64, a, Environment()) == expected


def test_each_thread_has_its_own_environment() -> None:
    seen: list[tuple[int, int]] = []
    soft.environment.flags = NX
    soft.environment.rounding = soft.UP
    thread = threading.Thread(
        target=lambda: seen.append((soft.environment.flags, soft.environment.rounding))
    )
    try:
        thread.start()
        thread.join()
    finally:
        soft.environment.flags = soft.environment.rounding = 0
    assert seen == [(0, 0)]
