"""Zba, Zbb and Zbs: address generation, basic bit manipulation, single bits.

RISC-V Unprivileged ISA, chapter "B". Carry-less multiplication (Zbc) and the
cryptographic sets are left out.
"""

from __future__ import annotations

from tandemu.ir import I8, I16, Value
from tandemu.isa.instruction import Semantics
from tandemu.isa.riscv.base import low_word, register_type, set_word
from tandemu.isa.riscv.context import Context
from tandemu.isa.riscv.formats import (
    OP,
    OP_32,
    OP_IMM,
    OP_IMM_32,
    RV32,
    RV64,
    SHIFT_6,
    r_type,
    shift,
    unary,
    word_shift,
)

# Zba


def shift_add(amount: int) -> Semantics:
    def semantics(c: Context) -> None:
        c.rd = c.rs2 + (c.rs1 << amount)

    return semantics


def shift_add_unsigned_word(amount: int) -> Semantics:
    def semantics(c: Context) -> None:
        c.rd = c.rs2 + (low_word(c.rs1).zext(register_type(c)) << amount)

    return semantics


def slli_uw(c: Context) -> None:
    c.rd = low_word(c.rs1).zext(register_type(c)) << (c.imm & (c.xlen - 1))


# Zbb


def andn(c: Context) -> None:
    c.rd = c.rs1 & ~c.rs2


def orn(c: Context) -> None:
    c.rd = c.rs1 | ~c.rs2


def xnor(c: Context) -> None:
    c.rd = ~(c.rs1 ^ c.rs2)


def clz(c: Context) -> None:
    c.rd = c.rs1.count_leading_zeros()


def ctz(c: Context) -> None:
    c.rd = c.rs1.count_trailing_zeros()


def cpop(c: Context) -> None:
    c.rd = c.rs1.population_count()


def clzw(c: Context) -> None:
    set_word(c, low_word(c.rs1).count_leading_zeros())


def ctzw(c: Context) -> None:
    set_word(c, low_word(c.rs1).count_trailing_zeros())


def cpopw(c: Context) -> None:
    set_word(c, low_word(c.rs1).population_count())


def max_(c: Context) -> None:
    a, b = c.rs1, c.rs2
    c.rd = c.ir.select(a.slt(b), b, a)


def maxu(c: Context) -> None:
    a, b = c.rs1, c.rs2
    c.rd = c.ir.select(a.ult(b), b, a)


def min_(c: Context) -> None:
    a, b = c.rs1, c.rs2
    c.rd = c.ir.select(a.slt(b), a, b)


def minu(c: Context) -> None:
    a, b = c.rs1, c.rs2
    c.rd = c.ir.select(a.ult(b), a, b)


def sext_b(c: Context) -> None:
    c.rd = c.rs1.trunc(I8).sext(register_type(c))


def sext_h(c: Context) -> None:
    c.rd = c.rs1.trunc(I16).sext(register_type(c))


def zext_h(c: Context) -> None:
    c.rd = c.rs1.trunc(I16).zext(register_type(c))


def rol(c: Context) -> None:
    c.rd = c.rs1.rotate_left(c.rs2 & (c.xlen - 1))


def ror(c: Context) -> None:
    c.rd = c.rs1.rotate_right(c.rs2 & (c.xlen - 1))


def rori(c: Context) -> None:
    c.rd = c.rs1.rotate_right(c.imm & (c.xlen - 1))


def rolw(c: Context) -> None:
    set_word(c, low_word(c.rs1).rotate_left(low_word(c.rs2) & 31))


def rorw(c: Context) -> None:
    set_word(c, low_word(c.rs1).rotate_right(low_word(c.rs2) & 31))


def roriw(c: Context) -> None:
    set_word(c, low_word(c.rs1).rotate_right(low_word(c.imm) & 31))


def orc_b(c: Context) -> None:
    """Every byte that is not zero becomes all ones."""
    ones = int.from_bytes(b"\x01" * (c.xlen // 8), "little")
    value = c.rs1
    # Adding 0x7f carries into a byte's top bit if one of its lower seven is set.
    nonzero = (((value & ones * 0x7F) + ones * 0x7F) | value) & ones * 0x80
    c.rd = (nonzero >> 7) * 0xFF


def rev8(c: Context) -> None:
    c.rd = c.rs1.byte_swap()


# Zbs


def single_bit(c: Context, number: Value) -> Value:
    """The value in which only bit *number*, taken modulo XLEN, is set."""
    return c.ir.constant(register_type(c), 1) << (number & (c.xlen - 1))


def bclr(c: Context) -> None:
    c.rd = c.rs1 & ~single_bit(c, c.rs2)


def bclri(c: Context) -> None:
    c.rd = c.rs1 & ~single_bit(c, c.imm)


def bext(c: Context) -> None:
    c.rd = (c.rs1 >> (c.rs2 & (c.xlen - 1))) & 1


def bexti(c: Context) -> None:
    c.rd = (c.rs1 >> (c.imm & (c.xlen - 1))) & 1


def binv(c: Context) -> None:
    c.rd = c.rs1 ^ single_bit(c, c.rs2)


def binvi(c: Context) -> None:
    c.rd = c.rs1 ^ single_bit(c, c.imm)


def bset(c: Context) -> None:
    c.rd = c.rs1 | single_bit(c, c.rs2)


def bseti(c: Context) -> None:
    c.rd = c.rs1 | single_bit(c, c.imm)


INSTRUCTIONS = (
    r_type("sh1add", OP, 2, 0x10, shift_add(1), extension="Zba"),
    r_type("sh2add", OP, 4, 0x10, shift_add(2), extension="Zba"),
    r_type("sh3add", OP, 6, 0x10, shift_add(3), extension="Zba"),
    r_type("add.uw", OP_32, 0, 0x04, shift_add_unsigned_word(0), extension="Zba", xlens=RV64),
    r_type("sh1add.uw", OP_32, 2, 0x10, shift_add_unsigned_word(1), extension="Zba", xlens=RV64),
    r_type("sh2add.uw", OP_32, 4, 0x10, shift_add_unsigned_word(2), extension="Zba", xlens=RV64),
    r_type("sh3add.uw", OP_32, 6, 0x10, shift_add_unsigned_word(3), extension="Zba", xlens=RV64),
    word_shift("slli.uw", OP_IMM_32, 1, 0x04, slli_uw, extension="Zba", amount=SHIFT_6),
    r_type("andn", OP, 7, 0x20, andn, extension="Zbb"),
    r_type("orn", OP, 6, 0x20, orn, extension="Zbb"),
    r_type("xnor", OP, 4, 0x20, xnor, extension="Zbb"),
    unary("clz", OP_IMM, 1, 0x600, clz, extension="Zbb"),
    unary("ctz", OP_IMM, 1, 0x601, ctz, extension="Zbb"),
    unary("cpop", OP_IMM, 1, 0x602, cpop, extension="Zbb"),
    unary("clzw", OP_IMM_32, 1, 0x600, clzw, extension="Zbb", xlens=RV64),
    unary("ctzw", OP_IMM_32, 1, 0x601, ctzw, extension="Zbb", xlens=RV64),
    unary("cpopw", OP_IMM_32, 1, 0x602, cpopw, extension="Zbb", xlens=RV64),
    r_type("max", OP, 6, 0x05, max_, extension="Zbb"),
    r_type("maxu", OP, 7, 0x05, maxu, extension="Zbb"),
    r_type("min", OP, 4, 0x05, min_, extension="Zbb"),
    r_type("minu", OP, 5, 0x05, minu, extension="Zbb"),
    unary("sext.b", OP_IMM, 1, 0x604, sext_b, extension="Zbb"),
    unary("sext.h", OP_IMM, 1, 0x605, sext_h, extension="Zbb"),
    unary("zext.h", OP, 4, 0x080, zext_h, extension="Zbb", xlens=RV32),
    unary("zext.h", OP_32, 4, 0x080, zext_h, extension="Zbb", xlens=RV64),
    r_type("rol", OP, 1, 0x30, rol, extension="Zbb"),
    r_type("ror", OP, 5, 0x30, ror, extension="Zbb"),
    *shift("rori", OP_IMM, 5, 0x30, rori, extension="Zbb"),
    r_type("rolw", OP_32, 1, 0x30, rolw, extension="Zbb", xlens=RV64),
    r_type("rorw", OP_32, 5, 0x30, rorw, extension="Zbb", xlens=RV64),
    word_shift("roriw", OP_IMM_32, 5, 0x30, roriw, extension="Zbb"),
    unary("orc.b", OP_IMM, 5, 0x287, orc_b, extension="Zbb"),
    unary("rev8", OP_IMM, 5, 0x698, rev8, extension="Zbb", xlens=RV32),
    unary("rev8", OP_IMM, 5, 0x6B8, rev8, extension="Zbb", xlens=RV64),
    r_type("bclr", OP, 1, 0x24, bclr, extension="Zbs"),
    *shift("bclri", OP_IMM, 1, 0x24, bclri, extension="Zbs"),
    r_type("bext", OP, 5, 0x24, bext, extension="Zbs"),
    *shift("bexti", OP_IMM, 5, 0x24, bexti, extension="Zbs"),
    r_type("binv", OP, 1, 0x34, binv, extension="Zbs"),
    *shift("binvi", OP_IMM, 1, 0x34, binvi, extension="Zbs"),
    r_type("bset", OP, 1, 0x14, bset, extension="Zbs"),
    *shift("bseti", OP_IMM, 1, 0x14, bseti, extension="Zbs"),
)
