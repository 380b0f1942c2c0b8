"""M: integer multiplication and division.

RISC-V Unprivileged ISA, chapter "M". Division never traps: by zero the quotient
is all ones and the remainder the dividend; on signed overflow the quotient is
the dividend and the remainder zero.
"""

from __future__ import annotations

from tandemu.ir import I, Value
from tandemu.isa.riscv.base import low_word, register_type, set_word
from tandemu.isa.riscv.context import Context
from tandemu.isa.riscv.formats import BOTH, OP, OP_32, RV64, r_type


def mul(c: Context) -> None:
    c.rd = c.rs1 * c.rs2


def high_half(c: Context, a: Value, b: Value) -> None:
    """Write the upper half of the product of two double-width values."""
    c.rd = ((a * b) >> c.xlen).trunc(register_type(c))


def mulh(c: Context) -> None:
    double = I(2 * c.xlen)
    high_half(c, c.rs1.sext(double), c.rs2.sext(double))


def mulhsu(c: Context) -> None:
    double = I(2 * c.xlen)
    high_half(c, c.rs1.sext(double), c.rs2.zext(double))


def mulhu(c: Context) -> None:
    double = I(2 * c.xlen)
    high_half(c, c.rs1.zext(double), c.rs2.zext(double))


def signed_divisor(c: Context, a: Value, b: Value) -> Value:
    """*b*, or 1 where a signed division by *b* is undefined.

    Division by 1 is also the right answer on overflow: quotient *a*, remainder 0.
    """
    lowest = 1 << (a.type.bits - 1)
    undefined = (b == 0) | ((a == lowest) & (b == -1))
    return c.ir.select(undefined, 1, b)


def unsigned_divisor(c: Context, b: Value) -> Value:
    """*b*, or 1 where it is zero."""
    return c.ir.select(b == 0, 1, b)


def signed_quotient(c: Context, a: Value, b: Value) -> Value:
    return c.ir.select(b == 0, -1, a.sdiv(signed_divisor(c, a, b)))


def unsigned_quotient(c: Context, a: Value, b: Value) -> Value:
    return c.ir.select(b == 0, -1, a.udiv(unsigned_divisor(c, b)))


def signed_remainder(c: Context, a: Value, b: Value) -> Value:
    return c.ir.select(b == 0, a, a.srem(signed_divisor(c, a, b)))


def unsigned_remainder(c: Context, a: Value, b: Value) -> Value:
    return c.ir.select(b == 0, a, a.urem(unsigned_divisor(c, b)))


def div(c: Context) -> None:
    c.rd = signed_quotient(c, c.rs1, c.rs2)


def divu(c: Context) -> None:
    c.rd = unsigned_quotient(c, c.rs1, c.rs2)


def rem(c: Context) -> None:
    c.rd = signed_remainder(c, c.rs1, c.rs2)


def remu(c: Context) -> None:
    c.rd = unsigned_remainder(c, c.rs1, c.rs2)


def mulw(c: Context) -> None:
    set_word(c, low_word(c.rs1) * low_word(c.rs2))


def divw(c: Context) -> None:
    set_word(c, signed_quotient(c, low_word(c.rs1), low_word(c.rs2)))


def divuw(c: Context) -> None:
    set_word(c, unsigned_quotient(c, low_word(c.rs1), low_word(c.rs2)))


def remw(c: Context) -> None:
    set_word(c, signed_remainder(c, low_word(c.rs1), low_word(c.rs2)))


def remuw(c: Context) -> None:
    set_word(c, unsigned_remainder(c, low_word(c.rs1), low_word(c.rs2)))


INSTRUCTIONS = tuple(
    r_type(name, opcode, funct3, 0x01, semantics, extension="M", xlens=xlens)
    for name, opcode, funct3, semantics, xlens in (
        ("mul", OP, 0, mul, BOTH),
        ("mulh", OP, 1, mulh, BOTH),
        ("mulhsu", OP, 2, mulhsu, BOTH),
        ("mulhu", OP, 3, mulhu, BOTH),
        ("div", OP, 4, div, BOTH),
        ("divu", OP, 5, divu, BOTH),
        ("rem", OP, 6, rem, BOTH),
        ("remu", OP, 7, remu, BOTH),
        ("mulw", OP_32, 0, mulw, RV64),
        ("divw", OP_32, 4, divw, RV64),
        ("divuw", OP_32, 5, divuw, RV64),
        ("remw", OP_32, 6, remw, RV64),
        ("remuw", OP_32, 7, remuw, RV64),
    )
)
