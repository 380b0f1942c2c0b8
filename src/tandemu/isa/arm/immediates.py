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


def float_pattern(eight: Value, bits: int) -> Value:
    """VFPExpandImm (J1.1.3): eight bits as a floating-point number."""
    exponent_bits, fraction_bits = {16: (5, 10), 32: (8, 23), 64: (11, 52)}[bits]
    sign, b, low = eight >> 7, (eight >> 6) & 1, eight & 0x3F
    repeated = (0 - b) & mask(exponent_bits - 3)
    exponent = ((b ^ 1) << (exponent_bits - 1)) | (repeated << 2) | (low >> 4)
    return (sign << (bits - 1)) | (exponent << fraction_bits) | ((low & 15) << (fraction_bits - 4))


def _repeated(value: Value, bits: int) -> Value:
    return value * (mask(64) // mask(bits))


def _vector_pattern(word: Value) -> Value:
    """AdvSIMDExpandImm (J1.1.3), the inversion of MVNI with it."""
    eight = (_bits(word, 16, 3) << 5) | _bits(word, 5, 5)
    cmode, op = _bits(word, 12, 4), _bits(word, 29, 1)
    words = _repeated(eight << ((cmode >> 1) << 3), 32)
    halves = _repeated(eight << (((cmode >> 1) & 1) << 3), 16)
    place = ((cmode & 1) + 1) << 3
    ones = _repeated((eight << place) | ((Constant(I64, 1) << place) - 1), 32)
    bytes_ = _repeated(eight, 8)
    mixed: Value = Constant(I64, 0)
    for number in range(8):
        mixed = mixed | ((0 - ((eight >> number) & 1)) & (0xFF << 8 * number))
    singles, double = _repeated(float_pattern(eight, 32), 32), float_pattern(eight, 64)
    value = emit("select", cmode.ult(8), words, halves)
    value = emit("select", cmode.uge(12), ones, value)
    # ORR and BIC (odd ones below 12) take the pattern as it is, and so do these:
    inverts = (op != 0) & cmode.ult(14) & (((cmode & 1) == 0) | cmode.uge(12))
    value = value ^ emit("select", inverts, Constant(I64, mask(64)), Constant(I64, 0))
    value = emit("select", cmode == 14, emit("select", op != 0, mixed, bytes_), value)
    return emit("select", cmode == 15, emit("select", op != 0, double, singles), value)


VECTOR_PATTERN = ImmediateFormat(
    "vector pattern", False, ((5, 5, 0), (16, 3, 5)), _vector_pattern, wide=True
)


def _float_constant(bits: int) -> ImmediateFormat:
    def compute(word: Value) -> Value:
        return float_pattern(_bits(word, 13, 8), bits)

    return ImmediateFormat(f"float{bits}", False, ((13, 8, 0),), compute, wide=True)


FLOAT_CONSTANTS = {bits: _float_constant(bits) for bits in (32, 64)}
