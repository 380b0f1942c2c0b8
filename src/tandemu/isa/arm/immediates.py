"""Immediates of A64 that are computed from the word, not merely collected.

Each function takes the word and gives 64 bits; for a constant a constant (`ImmediateFormat`).
"""

from __future__ import annotations

from tandemu.bits import mask
from tandemu.ir import I64, Constant, Value
from tandemu.ir.values import emit
from tandemu.isa.instruction import ImmediateFormat

BRANCH_26 = ImmediateFormat("imm26", True, ((0, 26, 2),))
LINKING_26 = ImmediateFormat("imm26 above", True, ((32, 26, 2),))
BRANCH_19 = ImmediateFormat("imm19", True, ((5, 19, 2),))
BRANCH_14 = ImmediateFormat("imm14", True, ((5, 14, 2),))
PAGES = ImmediateFormat("adrp", True, ((29, 2, 12), (5, 19, 14)))
NEAR = ImmediateFormat("adr", True, ((29, 2, 0), (5, 19, 2)))


def _bits(word: Value, low: int, width: int) -> Value:
    return word.bits(low, width)


def _ones(count: Value) -> Value:
    """As many ones, 1 to 64."""
    return Constant(I64, mask(64)) >> (64 - count)


def _bitmask(width: int) -> ImmediateFormat:
    """DecodeBitMasks (J1.1.3): a run of ones, rotated within an element that is repeated."""

    def compute(word: Value) -> Value:
        s, r, n = _bits(word, 10, 6), _bits(word, 16, 6), _bits(word, 22, 1)
        # The element's size is told by the highest bit of N:NOT(imms).
        told = (n << 6) | (s ^ 0x3F)
        length = 63 - (told | 1).count_leading_zeros()
        size = Constant(I64, 1) << length
        within = size - 1
        run = _ones((s & within) + 1)
        turned = r & within
        # A rotation to the right in an element of that size; of no places it has nothing to move.
        low = run >> turned
        high = (run << ((size - turned) & 63)) & _ones(size)
        element = emit("select", turned == 0, run, (low | high) & _ones(size))
        value = element
        for bits in (2, 4, 8, 16, 32):
            doubled = value | (value << bits)
            value = emit("select", size.ule(bits), doubled, value)
        return value & mask(width)

    return ImmediateFormat(f"bitmask{width}", False, ((16, 6, 0),), compute, True)


RESERVED_WHOLE = (0x3F,)
RESERVED_PARTS = (0x1F, 0x2F, 0x37, 0x3B, 0x3D, 0x3E, 0x3F)
"""Values of imms that no mask has: elements of ones alone, for elements of 64 bits and of fewer."""
BITMASK = {width: _bitmask(width) for width in (32, 64)}


def _moved(width: int, inverted: bool) -> ImmediateFormat:
    def compute(word: Value) -> Value:
        value = _bits(word, 5, 16) << (_bits(word, 21, 2) << 4)
        return (value ^ mask(64) if inverted else value) & mask(width)

    pieces = ((5, 18 if width == 64 else 17, 0),)
    return ImmediateFormat(f"mov{'n' if inverted else 'z'}{width}", False, pieces, compute, True)


MOVED = {(width, no): _moved(width, no) for width in (32, 64) for no in (False, True)}


def _shifted_twelve(word: Value) -> Value:
    return _bits(word, 10, 12) << (_bits(word, 22, 1) * 12)


ARITHMETIC = ImmediateFormat("imm12 lsl", False, ((10, 13, 0),), _shifted_twelve)


def _holds(condition: int, flags: int) -> bool:
    """ConditionHolds (J1.1.3) for flags N:Z:C:V."""
    n, z, c, v = (bool(flags >> bit & 1) for bit in (3, 2, 1, 0))
    base = (z, c, n, v, c and not z, n == v, n == v and not z, True)[condition >> 1]
    return base if condition >> 1 == 7 else base != bool(condition & 1)


CONDITION_SETS = tuple(
    sum(1 << flags for flags in range(16) if _holds(condition, flags)) for condition in range(16)
)
"""For each condition, which values of N:Z:C:V it holds for, one bit each."""


def _condition_set(word: Value) -> Value:
    condition = _bits(word, 12, 4)
    half = condition >> 1
    chosen: Value = Constant(I64, CONDITION_SETS[14])
    for number in range(7):
        chosen = emit("select", half == number, Constant(I64, CONDITION_SETS[2 * number]), chosen)
    turns = ((condition & 1) != 0) & (half != 7)
    return emit("select", turns, chosen ^ 0xFFFF, chosen)


CONDITION = ImmediateFormat("condition", False, ((12, 4, 0),), _condition_set)
"""Of a condition in bits 15 to 12 the set of flags that it holds for (`CONDITION_SETS`)."""
