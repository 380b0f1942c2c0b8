"""C: compressed instructions, as other names for 32-bit ones.

RISC-V Unprivileged ISA, chapter "C", tables "RVC instruction listing". HINT
encodings expand to instructions that write x0 or change nothing; reserved ones
are illegal. The later Zcb, Zcmp and Zcmt are left out.
"""

from __future__ import annotations

from tandemu.isa.instruction import ImmediateFormat
from tandemu.isa.riscv.compression import Compressed, Register, Source
from tandemu.isa.riscv.formats import BOTH, RV32, RV64

# Registers: full fields, and fields of three bits that name x8 to x15.
RD = Register(7, 5)
RS2 = Register(2, 5)
RD_LOW = Register(7, 3, base=8)
RS2_LOW = Register(2, 3, base=8)

ANY_RD, ANY_RS2, ANY_IMMEDIATE = 0xF80, 0x7C, 0x107C
FUNCT3 = 0xE003


def _format(name: str, signed: bool, *pieces: tuple[int, int, int]) -> ImmediateFormat:
    return ImmediateFormat(name, signed, pieces)


CI = _format("CI", True, (2, 5, 0), (12, 1, 5))
CI_UPPER = _format("CI.lui", True, (2, 5, 12), (12, 1, 17))
CI_STACK = _format("CI.addi16sp", True, (6, 1, 4), (2, 1, 5), (5, 1, 6), (3, 2, 7), (12, 1, 9))
CI_SHIFT_5 = _format("CI.shift5", False, (2, 5, 0))
CI_SHIFT_6 = _format("CI.shift6", False, (2, 5, 0), (12, 1, 5))
CI_WORD = _format("CI.lwsp", False, (4, 3, 2), (12, 1, 5), (2, 2, 6))
CI_DOUBLE = _format("CI.ldsp", False, (5, 2, 3), (12, 1, 5), (2, 3, 6))
CSS_WORD = _format("CSS.swsp", False, (9, 4, 2), (7, 2, 6))
CSS_DOUBLE = _format("CSS.sdsp", False, (10, 3, 3), (7, 3, 6))
CIW = _format("CIW", False, (6, 1, 2), (5, 1, 3), (11, 2, 4), (7, 4, 6))
CL_WORD = _format("CL.lw", False, (6, 1, 2), (10, 3, 3), (5, 1, 6))
CL_DOUBLE = _format("CL.ld", False, (10, 3, 3), (5, 2, 6))
CB = _format("CB", True, (3, 2, 1), (10, 2, 3), (2, 1, 5), (5, 2, 6), (12, 1, 8))
CJ = _format(
    "CJ",
    True,
    *((3, 3, 1), (11, 1, 4), (2, 1, 5), (7, 1, 6), (6, 1, 7), (9, 2, 8), (8, 1, 10), (12, 1, 11)),
)


def _memory(
    name: str, match: int, offset: ImmediateFormat, store: bool, xlens: frozenset[int]
) -> Compressed:
    """A load or store whose base is one of x8 to x15."""
    return Compressed(
        name=f"c.{name}",
        mask=FUNCT3,
        match=match,
        expands_to=name,
        operands={"rs2" if store else "rd": RS2_LOW, "rs1": RD_LOW, "imm": offset},
        syntax=f"{'rs2' if store else 'rd'},imm(rs1)",
        xlens=xlens,
    )


def _stack_load(
    name: str, match: int, offset: ImmediateFormat, xlens: frozenset[int], any_register: bool
) -> Compressed:
    """A load relative to the stack pointer; x0 is reserved, f0 is not."""
    return Compressed(
        name=f"c.{name}sp",
        mask=FUNCT3,
        match=match,
        expands_to=name,
        operands={"rd": RD, "rs1": 2, "imm": offset},
        syntax="rd,imm(rs1)",
        xlens=xlens,
        nonzero=() if any_register else (ANY_RD,),
    )


def _stack_store(
    name: str, match: int, offset: ImmediateFormat, xlens: frozenset[int]
) -> Compressed:
    """A store relative to the stack pointer."""
    return Compressed(
        name=f"c.{name}sp",
        mask=FUNCT3,
        match=match,
        expands_to=name,
        operands={"rs2": RS2, "rs1": 2, "imm": offset},
        syntax="rs2,imm(rs1)",
        xlens=xlens,
    )


def _shift(name: str, mask: int, match: int, register: Register) -> tuple[Compressed, Compressed]:
    """A shift by an immediate: on RV32 the sixth bit of the amount must be zero."""

    def record(extra_mask: int, amount: Source, xlens: frozenset[int]) -> Compressed:
        return Compressed(
            name=f"c.{name}",
            mask=mask | extra_mask,
            match=match,
            expands_to=name,
            operands={"rd": register, "rs1": register, "imm": amount},
            syntax="rd,shamt",
            xlens=xlens,
        )

    return record(0x1000, CI_SHIFT_5, RV32), record(0, CI_SHIFT_6, RV64)


def _arithmetic(name: str, match: int, xlens: frozenset[int] = BOTH) -> Compressed:
    """An operation on two of x8 to x15."""
    return Compressed(
        name=f"c.{name}",
        mask=0xFC63,
        match=match,
        expands_to=name,
        operands={"rd": RD_LOW, "rs1": RD_LOW, "rs2": RS2_LOW},
        syntax="rd,rs2",
        xlens=xlens,
    )


def _one(
    name: str,
    match: int,
    expands_to: str,
    operands: dict[str, Source],
    syntax: str,
    *nonzero: int,
    mask: int = FUNCT3,
    xlens: frozenset[int] = BOTH,
    specialises: str | None = None,
) -> Compressed:
    return Compressed(name, mask, match, expands_to, operands, syntax, xlens, nonzero, specialises)


_IN_PLACE: dict[str, Source] = {"rd": RD, "rs1": RD}
_IN_PLACE_LOW: dict[str, Source] = {"rd": RD_LOW, "rs1": RD_LOW}

QUADRANT_0 = (
    _one("c.addi4spn", 0x0000, "addi", {"rd": RS2_LOW, "rs1": 2, "imm": CIW}, "rd,rs1,imm", 0x1FE0),
    _memory("fld", 0x2000, CL_DOUBLE, False, BOTH),
    _memory("lw", 0x4000, CL_WORD, False, BOTH),
    _memory("flw", 0x6000, CL_WORD, False, RV32),
    _memory("ld", 0x6000, CL_DOUBLE, False, RV64),
    _memory("fsd", 0xA000, CL_DOUBLE, True, BOTH),
    _memory("sw", 0xC000, CL_WORD, True, BOTH),
    _memory("fsw", 0xE000, CL_WORD, True, RV32),
    _memory("sd", 0xE000, CL_DOUBLE, True, RV64),
)

QUADRANT_1 = (
    _one("c.nop", 0x0001, "addi", {"rd": 0, "rs1": 0, "imm": CI}, "", mask=FUNCT3 | ANY_RD),
    _one("c.addi", 0x0001, "addi", {**_IN_PLACE, "imm": CI}, "rd,imm", ANY_RD),
    _one("c.jal", 0x2001, "jal", {"rd": 1, "imm": CJ}, "target", xlens=RV32),
    _one("c.addiw", 0x2001, "addiw", {**_IN_PLACE, "imm": CI}, "rd,imm", ANY_RD, xlens=RV64),
    _one("c.li", 0x4001, "addi", {"rd": RD, "rs1": 0, "imm": CI}, "rd,imm"),
    _one("c.lui", 0x6001, "lui", {"rd": RD, "imm": CI_UPPER}, "rd,upper", ANY_IMMEDIATE),
    _one(
        "c.addi16sp",
        0x6101,
        "addi",
        {"rd": 2, "rs1": 2, "imm": CI_STACK},
        "rd,imm",
        ANY_IMMEDIATE,
        mask=FUNCT3 | ANY_RD,
        specialises="c.lui",
    ),
    *_shift("srli", 0xEC03, 0x8001, RD_LOW),
    *_shift("srai", 0xEC03, 0x8401, RD_LOW),
    _one("c.andi", 0x8801, "andi", {**_IN_PLACE_LOW, "imm": CI}, "rd,imm", mask=0xEC03),
    _arithmetic("sub", 0x8C01),
    _arithmetic("xor", 0x8C21),
    _arithmetic("or", 0x8C41),
    _arithmetic("and", 0x8C61),
    _arithmetic("subw", 0x9C01, RV64),
    _arithmetic("addw", 0x9C21, RV64),
    _one("c.j", 0xA001, "jal", {"rd": 0, "imm": CJ}, "target"),
    _one("c.beqz", 0xC001, "beq", {"rs1": RD_LOW, "rs2": 0, "imm": CB}, "rs1,target"),
    _one("c.bnez", 0xE001, "bne", {"rs1": RD_LOW, "rs2": 0, "imm": CB}, "rs1,target"),
)

QUADRANT_2 = (
    *_shift("slli", 0xE003, 0x0002, RD),
    _stack_load("fld", 0x2002, CI_DOUBLE, BOTH, True),
    _stack_load("lw", 0x4002, CI_WORD, BOTH, False),
    _stack_load("flw", 0x6002, CI_WORD, RV32, True),
    _stack_load("ld", 0x6002, CI_DOUBLE, RV64, False),
    _one("c.jr", 0x8002, "jalr", {"rd": 0, "rs1": RD, "imm": 0}, "rs1", ANY_RD, mask=0xF07F),
    _one(
        "c.mv",
        0x8002,
        "add",
        {"rd": RD, "rs1": 0, "rs2": RS2},
        "rd,rs2",
        ANY_RS2,
        mask=0xF003,
    ),
    _one("c.ebreak", 0x9002, "ebreak", {}, "", mask=0xFFFF),
    _one("c.jalr", 0x9002, "jalr", {"rd": 1, "rs1": RD, "imm": 0}, "rs1", ANY_RD, mask=0xF07F),
    _one("c.add", 0x9002, "add", {**_IN_PLACE, "rs2": RS2}, "rd,rs2", ANY_RS2, mask=0xF003),
    _stack_store("fsd", 0xA002, CSS_DOUBLE, BOTH),
    _stack_store("sw", 0xC002, CSS_WORD, BOTH),
    _stack_store("fsw", 0xE002, CSS_WORD, RV32),
    _stack_store("sd", 0xE002, CSS_DOUBLE, RV64),
)

INSTRUCTIONS = QUADRANT_0 + QUADRANT_1 + QUADRANT_2
