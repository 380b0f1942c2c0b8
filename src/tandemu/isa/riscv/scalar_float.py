"""Builders of the records that F and D share; they differ in format and suffix.

RISC-V Unprivileged ISA, chapters "F" and "D". Records only: the semantics are
attached by the instruction set.
"""

from __future__ import annotations

from tandemu.isa.instruction import Field, Instruction, Kind
from tandemu.isa.riscv.formats import (
    BOTH,
    FD,
    FIELD_RS2,
    FS1,
    FS2,
    FS3,
    FUNCT3,
    FUNCT7,
    MADD,
    MSUB,
    NMADD,
    NMSUB,
    OP_FP,
    RD,
    RM,
    RS1,
    RV64,
)


def _record(
    name: str,
    extension: str,
    mask: int,
    match: int,
    fields: tuple[Field, ...],
    *,
    xlens: frozenset[int] = BOTH,
    shows_rounding: bool = True,
) -> Instruction:
    shown = [field.name for field in fields if shows_rounding or field is not RM]
    return Instruction(
        name=name,
        extension=extension,
        xlens=xlens,
        mask=mask,
        match=match,
        fields=fields,
        immediate=None,
        syntax=",".join(shown),
        kind=Kind.STRAIGHT,
        floating=True,
    )


def rounded(name: str, funct7: int, extension: str) -> Instruction:
    """Two floating operands and a rounding mode in, one out."""
    fields = (FD, FS1, FS2, RM)
    return _record(name, extension, FUNCT7 | 0x7F, funct7 << 25 | OP_FP, fields)


def conversion(
    name: str,
    funct7: int,
    selector: int,
    fields: tuple[Field, Field],
    extension: str,
    *,
    xlens: frozenset[int] = BOTH,
    exact: bool = False,
) -> Instruction:
    """One operand and a rounding mode in, one out; the place of rs2 says which.

    The rounding mode of an *exact* one makes no difference and is not shown.
    """
    return _record(
        name,
        extension,
        FUNCT7 | FIELD_RS2 | 0x7F,
        funct7 << 25 | selector << 20 | OP_FP,
        (*fields, RM),
        xlens=xlens,
        shows_rounding=not exact,
    )


def exact_pair(
    name: str, funct7: int, funct3: int, extension: str, result: Field = FD
) -> Instruction:
    """Two floating operands in, one out, without rounding."""
    match = funct7 << 25 | funct3 << 12 | OP_FP
    return _record(name, extension, FUNCT7 | FUNCT3 | 0x7F, match, (result, FS1, FS2))


def exact_single(
    name: str,
    funct7: int,
    funct3: int,
    fields: tuple[Field, Field],
    extension: str,
    *,
    xlens: frozenset[int] = BOTH,
) -> Instruction:
    """One operand in, one out, without rounding."""
    mask = FUNCT7 | FIELD_RS2 | FUNCT3 | 0x7F
    return _record(name, extension, mask, funct7 << 25 | funct3 << 12 | OP_FP, fields, xlens=xlens)


def arithmetic(suffix: str, fmt: int, extension: str) -> tuple[Instruction, ...]:
    """All that every format has, save loads, stores and conversions between formats.

    *fmt* is the two-bit format field: 0 single, 1 double.
    """
    fused = tuple(
        _record(
            f"{name}.{suffix}",
            extension,
            0x0600007F,
            fmt << 25 | opcode,
            (FD, FS1, FS2, FS3, RM),
        )
        for name, opcode in (("fmadd", MADD), ("fmsub", MSUB), ("fnmsub", NMSUB), ("fnmadd", NMADD))
    )
    integers = (("w", 0, BOTH), ("wu", 1, BOTH), ("l", 2, RV64), ("lu", 3, RV64))
    to_integer = tuple(
        conversion(f"fcvt.{name}.{suffix}", 0x60 | fmt, selector, (RD, FS1), extension, xlens=xlens)
        for name, selector, xlens in integers
    )
    from_integer = tuple(
        conversion(
            f"fcvt.{suffix}.{name}",
            0x68 | fmt,
            selector,
            (FD, RS1),
            extension,
            xlens=xlens,
            exact=suffix == "d" and name in ("w", "wu"),
        )
        for name, selector, xlens in integers
    )
    return (
        *fused,
        rounded(f"fadd.{suffix}", 0x00 | fmt, extension),
        rounded(f"fsub.{suffix}", 0x04 | fmt, extension),
        rounded(f"fmul.{suffix}", 0x08 | fmt, extension),
        rounded(f"fdiv.{suffix}", 0x0C | fmt, extension),
        conversion(f"fsqrt.{suffix}", 0x2C | fmt, 0, (FD, FS1), extension),
        exact_pair(f"fsgnj.{suffix}", 0x10 | fmt, 0, extension),
        exact_pair(f"fsgnjn.{suffix}", 0x10 | fmt, 1, extension),
        exact_pair(f"fsgnjx.{suffix}", 0x10 | fmt, 2, extension),
        exact_pair(f"fmin.{suffix}", 0x14 | fmt, 0, extension),
        exact_pair(f"fmax.{suffix}", 0x14 | fmt, 1, extension),
        exact_pair(f"fle.{suffix}", 0x50 | fmt, 0, extension, RD),
        exact_pair(f"flt.{suffix}", 0x50 | fmt, 1, extension, RD),
        exact_pair(f"feq.{suffix}", 0x50 | fmt, 2, extension, RD),
        exact_single(f"fclass.{suffix}", 0x70 | fmt, 1, (RD, FS1), extension),
        *to_integer,
        *from_integer,
    )
