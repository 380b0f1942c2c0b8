"""Operands that find bugs in floating-point arithmetic, as bit patterns."""

from __future__ import annotations

import random
import struct

from tandemu.ir.softfloat import BINARY32, BINARY64, Format


def pattern(f: Format, value: float) -> int:
    """The bit pattern of the number nearest to *value*."""
    letters = {32: "<fI", 64: "<dQ"}[f.bits]
    result: int = struct.unpack("<" + letters[2], struct.pack(letters[:2], value))[0]
    return result


def _signed(f: Format, patterns: list[int]) -> tuple[int, ...]:
    unique = dict.fromkeys(patterns)
    return tuple(p | sign for p in unique for sign in (0, f.sign))


def _edges(f: Format) -> list[int]:
    one = f.bias << f.fraction_bits
    normal = 1 << f.fraction_bits
    return [
        0,
        1,
        normal - 1,
        normal,
        one - 1,
        one,
        one + 1,
        f.infinity - 1,
        f.infinity,
        f.infinity | 1,  # signalling
        f.nan,
    ]


def few(f: Format) -> tuple[int, ...]:
    """For three operands crossed."""
    repeated = (f.infinity >> 1, (1 << f.fraction_bits), (f.bias << f.fraction_bits) - 1)
    return _signed(f, [p for p in _edges(f) if p not in repeated])


def some(f: Format) -> tuple[int, ...]:
    """For two operands crossed."""
    normal = 1 << f.fraction_bits
    extra = [2, 3, normal + 1, 2 * normal, 2 * normal - 1, f.nan | 5, f.nan - 1]
    powers = [(f.bias + e) << f.fraction_bits for e in (-f.precision, -1, 1, f.precision, f.bias)]
    return _signed(f, _edges(f) + extra + powers + [pattern(f, v) for v in (1.5, 3.0, 0.1)])


def many(f: Format) -> tuple[int, ...]:
    """For one operand: also about the limits of the integers, and halfway between some."""
    around: list[int] = []
    for power in (31, 32, 63, 64):
        middle = pattern(f, 2.0**power)
        around += [middle - 2, middle - 1, middle, middle + 1]
    for value in (0.25, 0.5, 0.75, 1.5, 2.5, 3.5, 1e10, 2**31 - 1, 2**31 - 0.5, 2**31 + 0.5):
        around.append(pattern(f, value))
    for value in (2**31 - 1.5, 2**31 + 1.0, 2**31 - 0.25, 2**31 + 0.25, 2**31 + 0.75):
        around.append(pattern(f, value))
    for value in (2**32 - 1.0, 2**32 - 0.75, 2**32 - 0.5, 2**32 - 0.25, 2**32 - 1.5, 2**52 + 0.5):
        around.append(pattern(f, value))
    half = pattern(f, 0.5)
    source = random.Random(f.bits)
    drawn = [source.getrandbits(f.bits - 1) for _ in range(40)]
    return _signed(f, [*some(f), *around, half - 1, half + 1, *drawn])


INTEGERS = tuple(
    dict.fromkeys(
        value & (1 << 64) - 1
        for power in (0, 1, 8, 23, 24, 25, 31, 32, 33, 52, 53, 54, 55, 62, 63, 64)
        for offset in (-3, -2, -1, 0, 1, 2, 3)
        for value in (2**power + offset, -(2**power) + offset)
    )
)
"""64-bit integers whose conversion may round."""

BOTH = (BINARY32, BINARY64)
