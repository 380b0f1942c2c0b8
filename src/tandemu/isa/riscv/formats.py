"""The formats of RISC-V instructions: operands, immediates, record builders.

RISC-V Unprivileged ISA, "Base Instruction Formats" and "Immediate Encoding
Variants". One builder per format, so that an extension's file is a table.
"""

from __future__ import annotations

from typing import Any

from tandemu.isa.decoder import KeyLayout
from tandemu.isa.instruction import Field, ImmediateFormat, Instruction, Kind, Semantics

BOTH = frozenset({32, 64})
RV32 = frozenset({32})
RV64 = frozenset({64})

KEY_LAYOUT = KeyLayout(primary=((2, 5, 10), (12, 3, 7), (25, 7, 0)), secondary=(20, 5))
"""Primary key: opcode, funct3, funct7. Secondary: the place of rs2."""

# Major opcodes ("RISC-V base opcode map"), bits 6 to 0.
LOAD, LOAD_FP, MISC_MEM, OP_IMM, AUIPC, OP_IMM_32 = 0x03, 0x07, 0x0F, 0x13, 0x17, 0x1B
STORE, STORE_FP, AMO, OP, LUI, OP_32 = 0x23, 0x27, 0x2F, 0x33, 0x37, 0x3B
MADD, MSUB, NMSUB, NMADD, OP_FP = 0x43, 0x47, 0x4B, 0x4F, 0x53
BRANCH, JALR, JAL, SYSTEM = 0x63, 0x67, 0x6F, 0x73

RD, RS1, RS2 = Field("rd", 7, 5, "x"), Field("rs1", 15, 5, "x"), Field("rs2", 20, 5, "x")
FD, FS1, FS2 = Field("rd", 7, 5, "f"), Field("rs1", 15, 5, "f"), Field("rs2", 20, 5, "f")
FS3 = Field("rs3", 27, 5, "f")
RM = Field("rm", 12, 3, reserved=(5, 6))
AQ, RL = Field("aq", 26, 1), Field("rl", 25, 1)
CSR, ZIMM = Field("csr", 20, 12), Field("zimm", 15, 5)

I_IMMEDIATE = ImmediateFormat("I", True, ((20, 12, 0),))
S_IMMEDIATE = ImmediateFormat("S", True, ((7, 5, 0), (25, 7, 5)))
B_IMMEDIATE = ImmediateFormat("B", True, ((8, 4, 1), (25, 6, 5), (7, 1, 11), (31, 1, 12)))
U_IMMEDIATE = ImmediateFormat("U", True, ((12, 20, 12),))
J_IMMEDIATE = ImmediateFormat("J", True, ((21, 10, 1), (20, 1, 11), (12, 8, 12), (31, 1, 20)))
SHIFT_5 = ImmediateFormat("shift5", False, ((20, 5, 0),))
SHIFT_6 = ImmediateFormat("shift6", False, ((20, 6, 0),))
PREFETCH_IMMEDIATE = ImmediateFormat("prefetch", True, ((25, 7, 5),))

FUNCT3, FUNCT7, FIELD_RD, FIELD_RS2 = 0x7000, 0xFE000000, 0xF80, 0x1F00000


def r_type(
    name: str,
    opcode: int,
    funct3: int,
    funct7: int,
    semantics: Semantics | None = None,
    *,
    extension: str,
    xlens: frozenset[int] = BOTH,
) -> Instruction:
    """Two registers in, one out."""
    return Instruction(
        name=name,
        extension=extension,
        xlens=xlens,
        mask=FUNCT7 | FUNCT3 | 0x7F,
        match=funct7 << 25 | funct3 << 12 | opcode,
        fields=(RD, RS1, RS2),
        immediate=None,
        syntax="rd,rs1,rs2",
        kind=Kind.STRAIGHT,
        semantics=semantics,
    )


def unary(
    name: str,
    opcode: int,
    funct3: int,
    funct12: int,
    semantics: Semantics | None = None,
    *,
    extension: str,
    xlens: frozenset[int] = BOTH,
) -> Instruction:
    """One register in, one out; the place of rs2 belongs to the opcode."""
    return Instruction(
        name=name,
        extension=extension,
        xlens=xlens,
        mask=FUNCT7 | FIELD_RS2 | FUNCT3 | 0x7F,
        match=funct12 << 20 | funct3 << 12 | opcode,
        fields=(RD, RS1),
        immediate=None,
        syntax="rd,rs1",
        kind=Kind.STRAIGHT,
        semantics=semantics,
    )


def i_type(
    name: str,
    opcode: int,
    funct3: int,
    semantics: Semantics | None = None,
    *,
    extension: str = "I",
    xlens: frozenset[int] = BOTH,
    **more: Any,
) -> Instruction:
    """A register and a 12-bit immediate in, a register out; *more* overrides the record."""
    record: dict[str, Any] = {
        "fields": (RD, RS1),
        "syntax": "rd,rs1,imm",
        "kind": Kind.STRAIGHT,
        **more,
    }
    return Instruction(
        name=name,
        extension=extension,
        xlens=xlens,
        mask=FUNCT3 | 0x7F,
        match=funct3 << 12 | opcode,
        immediate=I_IMMEDIATE,
        semantics=semantics,
        **record,
    )


def shift(
    name: str,
    opcode: int,
    funct3: int,
    funct7: int,
    semantics: Semantics | None = None,
    *,
    extension: str,
) -> tuple[Instruction, Instruction]:
    """A shift by an immediate: one record for each XLEN, for its amount is as wide as it."""
    records = [
        Instruction(
            name=name,
            extension=extension,
            xlens=xlens,
            mask=0xFFFFFFFF & ~(amount.instruction_mask | 0xF8F80),
            match=funct7 << 25 | funct3 << 12 | opcode,
            fields=(RD, RS1),
            immediate=amount,
            syntax="rd,rs1,shamt",
            kind=Kind.STRAIGHT,
            semantics=semantics,
        )
        for amount, xlens in ((SHIFT_5, RV32), (SHIFT_6, RV64))
    ]
    return records[0], records[1]


def word_shift(
    name: str,
    opcode: int,
    funct3: int,
    funct7: int,
    semantics: Semantics | None = None,
    *,
    extension: str,
    amount: ImmediateFormat = SHIFT_5,
) -> Instruction:
    """A shift of RV64 that starts from the low word."""
    return Instruction(
        name=name,
        extension=extension,
        xlens=RV64,
        mask=0xFFFFFFFF & ~(amount.instruction_mask | 0xF8F80),
        match=funct7 << 25 | funct3 << 12 | opcode,
        fields=(RD, RS1),
        immediate=amount,
        syntax="rd,rs1,shamt",
        kind=Kind.STRAIGHT,
        semantics=semantics,
    )


def load(
    name: str,
    opcode: int,
    funct3: int,
    access: int,
    semantics: Semantics | None = None,
    *,
    extension: str = "I",
    xlens: frozenset[int] = BOTH,
) -> Instruction:
    """A load of *access* bytes, into the file that the opcode says."""
    floating = opcode == LOAD_FP
    return i_type(
        name,
        opcode,
        funct3,
        semantics,
        extension=extension,
        xlens=xlens,
        fields=(FD if floating else RD, RS1),
        syntax="rd,imm(rs1)",
        kind=Kind.LOAD,
        floating=floating,
        access=access,
    )


def store(
    name: str,
    opcode: int,
    funct3: int,
    access: int,
    semantics: Semantics | None = None,
    *,
    extension: str = "I",
    xlens: frozenset[int] = BOTH,
) -> Instruction:
    """A store of *access* bytes, from the file that the opcode says."""
    floating = opcode == STORE_FP
    return Instruction(
        name=name,
        extension=extension,
        xlens=xlens,
        mask=FUNCT3 | 0x7F,
        match=funct3 << 12 | opcode,
        fields=(RS1, FS2 if floating else RS2),
        immediate=S_IMMEDIATE,
        syntax="rs2,imm(rs1)",
        kind=Kind.STORE,
        floating=floating,
        access=access,
        semantics=semantics,
    )


def b_type(name: str, funct3: int, semantics: Semantics | None = None) -> Instruction:
    """A conditional branch."""
    return Instruction(
        name=name,
        extension="I",
        xlens=BOTH,
        mask=FUNCT3 | 0x7F,
        match=funct3 << 12 | BRANCH,
        fields=(RS1, RS2),
        immediate=B_IMMEDIATE,
        syntax="rs1,rs2,target",
        kind=Kind.BRANCH,
        semantics=semantics,
    )


def u_type(name: str, opcode: int, semantics: Semantics | None = None) -> Instruction:
    """A 20-bit upper immediate in, a register out."""
    return Instruction(
        name=name,
        extension="I",
        xlens=BOTH,
        mask=0x7F,
        match=opcode,
        fields=(RD,),
        immediate=U_IMMEDIATE,
        syntax="rd,upper",
        kind=Kind.STRAIGHT,
        semantics=semantics,
    )


def exact(
    name: str,
    word: int,
    *,
    extension: str,
    fields: tuple[Field, ...] = (),
    immediate: ImmediateFormat | None = None,
    syntax: str = "",
    kind: Kind = Kind.SYSTEM,
    access: int = 0,
    semantics: Semantics | None = None,
    specialises: str | None = None,
) -> Instruction:
    """An instruction all of whose bits are fixed, but for its *fields* and *immediate*."""
    free = sum(field.instruction_mask for field in fields)
    if immediate is not None:
        free |= immediate.instruction_mask
    return Instruction(
        name=name,
        extension=extension,
        xlens=BOTH,
        mask=0xFFFFFFFF & ~free,
        match=word,
        fields=fields,
        immediate=immediate,
        syntax=syntax,
        kind=kind,
        access=access,
        semantics=semantics,
        specialises=specialises,
    )
