"""A: atomic memory operations, load-reserved and store-conditional.

RISC-V Unprivileged ISA, chapter "A". Every operation is sequentially
consistent, which is what both ordering bits together ask for and more than any
other combination does; so the bits only show in the assembly text.
"""

from __future__ import annotations

from tandemu.ir import I
from tandemu.isa.instruction import Instruction, Kind, Semantics
from tandemu.isa.riscv.base import register_type, set_flag, set_word
from tandemu.isa.riscv.context import Context
from tandemu.isa.riscv.formats import (
    AMO,
    AQ,
    BOTH,
    FIELD_RS2,
    FUNCT3,
    RD,
    RL,
    RS1,
    RS2,
    RV64,
)


def load_reserved(bits: int) -> Semantics:
    def semantics(c: Context) -> None:
        set_word(c, c.load_reserved(c.rs1, bits))

    return semantics


def store_conditional(bits: int) -> Semantics:
    def semantics(c: Context) -> None:
        success = c.store_conditional(c.rs1, c.rs2.trunc(I(bits)), bits)
        set_flag(c, ~success)

    return semantics


def combining(kind: str, bits: int) -> Semantics:
    def semantics(c: Context) -> None:
        old = c.atomic(kind, c.rs1, c.rs2.trunc(I(bits)), bits)
        c.rd = old.sext(register_type(c))

    return semantics


def _record(name: str, funct5: int, bits: int, semantics: Semantics) -> Instruction:
    suffix, funct3, xlens = ("w", 2, BOTH) if bits == 32 else ("d", 3, RV64)
    is_load = name == "lr"
    return Instruction(
        name=f"{name}.{suffix}",
        extension="A",
        xlens=xlens,
        mask=0xF8000000 | FUNCT3 | 0x7F | (FIELD_RS2 if is_load else 0),
        match=funct5 << 27 | funct3 << 12 | AMO,
        fields=(RD, RS1, AQ, RL) if is_load else (RD, RS1, RS2, AQ, RL),
        immediate=None,
        syntax="rd,(rs1)" if is_load else "rd,rs2,(rs1)",
        kind=Kind.ATOMIC,
        access=bits // 8,
        semantics=semantics,
    )


_COMBINING = (
    ("amoswap", 0x01, "xchg"),
    ("amoadd", 0x00, "add"),
    ("amoxor", 0x04, "xor"),
    ("amoand", 0x0C, "and"),
    ("amoor", 0x08, "or"),
    ("amomin", 0x10, "min"),
    ("amomax", 0x14, "max"),
    ("amominu", 0x18, "umin"),
    ("amomaxu", 0x1C, "umax"),
)

INSTRUCTIONS = tuple(
    record
    for bits in (32, 64)
    for record in (
        _record("lr", 0x02, bits, load_reserved(bits)),
        _record("sc", 0x03, bits, store_conditional(bits)),
        *(_record(name, funct5, bits, combining(kind, bits)) for name, funct5, kind in _COMBINING),
    )
)
