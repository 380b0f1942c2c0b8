"""Data processing with one, two and three sources (Arm ARM, C4.1.95); checksums (FEAT_CRC32)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tandemu.bits import mask
from tandemu.ir import I32, I64, I128, I, Value
from tandemu.isa.arm.formats import HOT, record
from tandemu.isa.arm.integer import SHIFTS, SIZES, result, source
from tandemu.isa.instruction import Instruction, Semantics
from tandemu.isa.tracing import OperandContext


def _unary(function: Callable[[OperandContext, Value], Value], bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        result(c, function(c, source(c, "rs1", bits)))

    return semantics


def reverse_bits(value: Value) -> Value:
    """The bits in the opposite order."""
    for width in (1, 2, 4):
        low = mask(width)
        pattern = sum(low << at for at in range(0, value.type.bits, 2 * width))
        value = ((value >> width) & pattern) | ((value & pattern) << width)
    return value.byte_swap()


def _swap_halves(value: Value) -> Value:
    """The bytes of each 16 bits in the opposite order."""
    pattern = sum(0xFF << at for at in range(0, value.type.bits, 16))
    return ((value >> 8) & pattern) | ((value & pattern) << 8)


def _leading_signs(value: Value) -> Value:
    return (value ^ value.sar(value.type.bits - 1)).count_leading_zeros() - 1


def _divide(bits: int, signed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        b = c.ir
        dividend, divisor = source(c, "rs1", bits), source(c, "rs2", bits)
        by_zero = divisor == 0
        unsafe: Value = by_zero
        if signed:
            unsafe = by_zero | ((divisor == -1) & (dividend == 1 << (bits - 1)))
        safe = b.select(unsafe, 1, divisor)
        quotient = dividend.sdiv(safe) if signed else dividend.udiv(safe)
        # The most negative number by -1 is itself.
        result(c, b.select(by_zero, 0, quotient))

    return semantics


def _variable_shift(shift: Callable[[Value, Value], Value], bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = source(c, "rs2", bits) & (bits - 1)
        result(c, shift(source(c, "rs1", bits), amount))

    return semantics


def _multiply_add(bits: int, negative: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        product = source(c, "rs1", bits) * source(c, "rs2", bits)
        start = source(c, "rd2", bits)
        result(c, start - product if negative else start + product)

    return semantics


def _multiply(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        result(c, source(c, "rs1", bits) * source(c, "rs2", bits))

    return semantics


def _multiply_long(signed: bool, negative: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a, b = (c.read(one).trunc(I32).resize(I64, signed=signed) for one in ("rs1", "rs2"))
        start = c.read("rd2")
        result(c, start - a * b if negative else start + a * b)

    return semantics


def _multiply_high(signed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a, b = (c.read(one).resize(I128, signed=signed) for one in ("rs1", "rs2"))
        result(c, ((a * b) >> 64).trunc(I64))

    return semantics


def crc32(c: OperandContext, value: Value, data: Value, polynomial: int) -> Value:
    """Take the bits of *data* into the reflected checksum *value*, one by one (C6.2.82)."""
    b = c.ir
    state, left = b.variable(I64, value.zext(I64) ^ data.zext(I64)), b.variable(I64, data.type.bits)
    with b.While(lambda: left.value != 0):
        now = state.value
        state.value = (now >> 1) ^ ((0 - (now & 1)) & polynomial)
        left.value = left.value - 1
    return state.value.trunc(I32)


def _checksum(bits: int, polynomial: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value, data = c.read("rs1").trunc(I32), c.read("rs2").trunc(I(bits))
        result(c, crc32(c, value, data, polynomial))

    return semantics


def _sources() -> Iterator[Instruction]:
    for bits, size, sf in SIZES:
        unary: list[tuple[str, int, Callable[[OperandContext, Value], Value]]] = [
            ("rbit", 0, lambda c, v: reverse_bits(v)),
            ("rev16", 1, lambda c, v: _swap_halves(v)),
            ("clz", 4, lambda c, v: v.count_leading_zeros()),
            ("cls", 5, lambda c, v: _leading_signs(v)),
            ("rev", 3 if bits == 64 else 2, lambda c, v: v.byte_swap()),
        ]
        if bits == 64:
            unary.append(("rev32", 2, lambda c, v: v.byte_swap().rotate_left(32)))
        for name, op, function in unary:
            yield record(
                f"{name}.{size}", f"{sf}10 11010110 00000 {op:06b} nnnnn ddddd",
                _unary(function, bits),
            )  # fmt: skip
        for name, op, signed in (("udiv", 2, False), ("sdiv", 3, True)):
            yield record(
                f"{name}.{size}", f"{sf}00 11010110 mmmmm {op:06b} nnnnn ddddd",
                _divide(bits, signed),
            )  # fmt: skip
        for op, (name, shift) in enumerate(SHIFTS, 8):
            yield record(
                f"{name}v.{size}", f"{sf}00 11010110 mmmmm {op:06b} nnnnn ddddd",
                _variable_shift(shift, bits),
            )  # fmt: skip
        for name, o0, negative in (("madd", "0", False), ("msub", "1", True)):
            yield record(
                f"{name}.{size}", f"{sf}00 11011 000 mmmmm {o0} aaaaa nnnnn ddddd",
                _multiply_add(bits, negative),
            )  # fmt: skip
        yield record(
            f"mul.{size}", f"{sf}00 11011 000 mmmmm 0 11111 nnnnn ddddd",
            _multiply(bits), traits=HOT, specialises=f"madd.{size}",
        )  # fmt: skip
    for name, op31, o0 in (
        ("smaddl", "001", "0"), ("smsubl", "001", "1"),
        ("umaddl", "101", "0"), ("umsubl", "101", "1"),
    ):  # fmt: skip
        yield record(
            name, f"100 11011 {op31} mmmmm {o0} aaaaa nnnnn ddddd",
            _multiply_long(name[0] == "s", o0 == "1"),
        )  # fmt: skip
    yield record("smulh", "100 11011 010 mmmmm 0 11111 nnnnn ddddd", _multiply_high(True))
    yield record("umulh", "100 11011 110 mmmmm 0 11111 nnnnn ddddd", _multiply_high(False))
    for castagnoli, polynomial in ((0, 0xEDB88320), (1, 0x82F63B78)):
        for number, (letter, bits) in enumerate((("b", 8), ("h", 16), ("w", 32), ("x", 64))):
            yield record(
                f"crc32{'c' if castagnoli else ''}{letter}",
                f"{int(bits == 64)}00 11010110 mmmmm 010{castagnoli}{number:02b} nnnnn ddddd",
                _checksum(bits, polynomial), extension="CRC32",
            )  # fmt: skip


INSTRUCTIONS: tuple[Instruction, ...] = tuple(_sources())
