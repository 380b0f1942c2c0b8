"""RV32I and RV64I: the base integer instructions, save fences and system calls.

RISC-V Unprivileged ISA, chapters "RV32I" and "RV64I". An instruction whose name
ends in ``w`` where that is not its access size works on the low word and exists
on RV64 only.
"""

from __future__ import annotations

from tandemu.ir import I32, I, Type, Value
from tandemu.isa.instruction import Instruction, Kind, Semantics
from tandemu.isa.riscv.context import Context
from tandemu.isa.riscv.formats import (
    AUIPC,
    BOTH,
    J_IMMEDIATE,
    JAL,
    JALR,
    LOAD,
    LUI,
    OP,
    OP_32,
    OP_IMM,
    OP_IMM_32,
    PREFETCH_IMMEDIATE,
    RD,
    RS1,
    RV64,
    STORE,
    b_type,
    exact,
    i_type,
    load,
    r_type,
    shift,
    store,
    u_type,
    word_shift,
)


def register_type(c: Context) -> Type:
    """The type of an integer register."""
    return I(c.xlen)


def low_word(value: Value) -> Value:
    """The low 32 bits."""
    return value.trunc(I32)


def set_word(c: Context, value: Value) -> None:
    """Write a 32-bit result, sign-extended, to the destination."""
    c.rd = value.sext(register_type(c))


def set_flag(c: Context, condition: Value) -> None:
    """Write 1 or 0 to the destination."""
    c.rd = condition.zext(register_type(c))


# Constants and jumps


def lui(c: Context) -> None:
    c.rd = c.imm


def auipc(c: Context) -> None:
    c.rd = c.pc + c.imm


def jal(c: Context) -> None:
    c.rd = c.next_pc
    c.jump(c.pc + c.imm)


def jalr(c: Context) -> None:
    target = (c.rs1 + c.imm) & -2  # read before rd is written: both may be one register
    c.rd = c.next_pc
    c.jump(target)


# Branches


def beq(c: Context) -> None:
    c.branch(c.rs1 == c.rs2, c.pc + c.imm)


def bne(c: Context) -> None:
    c.branch(c.rs1 != c.rs2, c.pc + c.imm)


def blt(c: Context) -> None:
    c.branch(c.rs1.slt(c.rs2), c.pc + c.imm)


def bge(c: Context) -> None:
    c.branch(c.rs1.sge(c.rs2), c.pc + c.imm)


def bltu(c: Context) -> None:
    c.branch(c.rs1.ult(c.rs2), c.pc + c.imm)


def bgeu(c: Context) -> None:
    c.branch(c.rs1.uge(c.rs2), c.pc + c.imm)


# Loads and stores


def loading(bits: int, signed: bool) -> Semantics:
    """Semantics of a load of *bits* bits into an integer register."""

    def semantics(c: Context) -> None:
        value = c.load(c.rs1 + c.imm, bits)
        c.rd = value.resize(register_type(c), signed=signed)

    return semantics


def storing(bits: int) -> Semantics:
    """Semantics of a store of the low *bits* bits of an integer register."""

    def semantics(c: Context) -> None:
        c.store(c.rs1 + c.imm, c.rs2.trunc(I(bits)))

    return semantics


# Arithmetic and logic with an immediate


def addi(c: Context) -> None:
    c.rd = c.rs1 + c.imm


def slti(c: Context) -> None:
    set_flag(c, c.rs1.slt(c.imm))


def sltiu(c: Context) -> None:
    set_flag(c, c.rs1.ult(c.imm))


def xori(c: Context) -> None:
    c.rd = c.rs1 ^ c.imm


def ori(c: Context) -> None:
    c.rd = c.rs1 | c.imm


def andi(c: Context) -> None:
    c.rd = c.rs1 & c.imm


# The amount of a shift is known to be in range, but only to the decoder: the masks
# make it plain to a compiler that sees a hole, and cost nothing.


def slli(c: Context) -> None:
    c.rd = c.rs1 << (c.imm & (c.xlen - 1))


def srli(c: Context) -> None:
    c.rd = c.rs1 >> (c.imm & (c.xlen - 1))


def srai(c: Context) -> None:
    c.rd = c.rs1.sar(c.imm & (c.xlen - 1))


def addiw(c: Context) -> None:
    set_word(c, low_word(c.rs1) + low_word(c.imm))


def slliw(c: Context) -> None:
    set_word(c, low_word(c.rs1) << (low_word(c.imm) & 31))


def srliw(c: Context) -> None:
    set_word(c, low_word(c.rs1) >> (low_word(c.imm) & 31))


def sraiw(c: Context) -> None:
    set_word(c, low_word(c.rs1).sar(low_word(c.imm) & 31))


# Arithmetic and logic on two registers


def add(c: Context) -> None:
    c.rd = c.rs1 + c.rs2


def sub(c: Context) -> None:
    c.rd = c.rs1 - c.rs2


def sll(c: Context) -> None:
    c.rd = c.rs1 << (c.rs2 & (c.xlen - 1))


def slt(c: Context) -> None:
    set_flag(c, c.rs1.slt(c.rs2))


def sltu(c: Context) -> None:
    set_flag(c, c.rs1.ult(c.rs2))


def xor(c: Context) -> None:
    c.rd = c.rs1 ^ c.rs2


def srl(c: Context) -> None:
    c.rd = c.rs1 >> (c.rs2 & (c.xlen - 1))


def sra(c: Context) -> None:
    c.rd = c.rs1.sar(c.rs2 & (c.xlen - 1))


def or_(c: Context) -> None:
    c.rd = c.rs1 | c.rs2


def and_(c: Context) -> None:
    c.rd = c.rs1 & c.rs2


def addw(c: Context) -> None:
    set_word(c, low_word(c.rs1) + low_word(c.rs2))


def subw(c: Context) -> None:
    set_word(c, low_word(c.rs1) - low_word(c.rs2))


def sllw(c: Context) -> None:
    set_word(c, low_word(c.rs1) << (low_word(c.rs2) & 31))


def srlw(c: Context) -> None:
    set_word(c, low_word(c.rs1) >> (low_word(c.rs2) & 31))


def sraw(c: Context) -> None:
    set_word(c, low_word(c.rs1).sar(low_word(c.rs2) & 31))


def prefetch(c: Context) -> None:
    """A hint; there is nothing to do."""


def _prefetch(name: str, selector: int) -> Instruction:
    """Zicbop takes encodings of ORI that write x0."""
    return exact(
        name,
        selector << 20 | 6 << 12 | OP_IMM,
        extension="Zicbop",
        fields=(RS1,),
        immediate=PREFETCH_IMMEDIATE,
        syntax="imm(rs1)",
        kind=Kind.STRAIGHT,
        semantics=prefetch,
        specialises="ori",
    )


_JUMP_AND_LINK = Instruction(
    name="jal",
    extension="I",
    xlens=BOTH,
    mask=0x7F,
    match=JAL,
    fields=(RD,),
    immediate=J_IMMEDIATE,
    syntax="rd,target",
    kind=Kind.JUMP,
    semantics=jal,
)

INSTRUCTIONS = (
    u_type("lui", LUI, lui),
    u_type("auipc", AUIPC, auipc),
    _JUMP_AND_LINK,
    i_type("jalr", JALR, 0, jalr, fields=(RD, RS1), syntax="rd,imm(rs1)", kind=Kind.INDIRECT),
    b_type("beq", 0, beq),
    b_type("bne", 1, bne),
    b_type("blt", 4, blt),
    b_type("bge", 5, bge),
    b_type("bltu", 6, bltu),
    b_type("bgeu", 7, bgeu),
    load("lb", LOAD, 0, 1, loading(8, signed=True)),
    load("lh", LOAD, 1, 2, loading(16, signed=True)),
    load("lw", LOAD, 2, 4, loading(32, signed=True)),
    load("ld", LOAD, 3, 8, loading(64, signed=True), xlens=RV64),
    load("lbu", LOAD, 4, 1, loading(8, signed=False)),
    load("lhu", LOAD, 5, 2, loading(16, signed=False)),
    load("lwu", LOAD, 6, 4, loading(32, signed=False), xlens=RV64),
    store("sb", STORE, 0, 1, storing(8)),
    store("sh", STORE, 1, 2, storing(16)),
    store("sw", STORE, 2, 4, storing(32)),
    store("sd", STORE, 3, 8, storing(64), xlens=RV64),
    i_type("addi", OP_IMM, 0, addi),
    i_type("slti", OP_IMM, 2, slti),
    i_type("sltiu", OP_IMM, 3, sltiu),
    i_type("xori", OP_IMM, 4, xori),
    i_type("ori", OP_IMM, 6, ori),
    i_type("andi", OP_IMM, 7, andi),
    *shift("slli", OP_IMM, 1, 0x00, slli, extension="I"),
    *shift("srli", OP_IMM, 5, 0x00, srli, extension="I"),
    *shift("srai", OP_IMM, 5, 0x20, srai, extension="I"),
    r_type("add", OP, 0, 0x00, add, extension="I"),
    r_type("sub", OP, 0, 0x20, sub, extension="I"),
    r_type("sll", OP, 1, 0x00, sll, extension="I"),
    r_type("slt", OP, 2, 0x00, slt, extension="I"),
    r_type("sltu", OP, 3, 0x00, sltu, extension="I"),
    r_type("xor", OP, 4, 0x00, xor, extension="I"),
    r_type("srl", OP, 5, 0x00, srl, extension="I"),
    r_type("sra", OP, 5, 0x20, sra, extension="I"),
    r_type("or", OP, 6, 0x00, or_, extension="I"),
    r_type("and", OP, 7, 0x00, and_, extension="I"),
    i_type("addiw", OP_IMM_32, 0, addiw, xlens=RV64),
    word_shift("slliw", OP_IMM_32, 1, 0x00, slliw, extension="I"),
    word_shift("srliw", OP_IMM_32, 5, 0x00, srliw, extension="I"),
    word_shift("sraiw", OP_IMM_32, 5, 0x20, sraiw, extension="I"),
    r_type("addw", OP_32, 0, 0x00, addw, extension="I", xlens=RV64),
    r_type("subw", OP_32, 0, 0x20, subw, extension="I", xlens=RV64),
    r_type("sllw", OP_32, 1, 0x00, sllw, extension="I", xlens=RV64),
    r_type("srlw", OP_32, 5, 0x00, srlw, extension="I", xlens=RV64),
    r_type("sraw", OP_32, 5, 0x20, sraw, extension="I", xlens=RV64),
    _prefetch("prefetch.i", 0),
    _prefetch("prefetch.r", 1),
    _prefetch("prefetch.w", 3),
)
