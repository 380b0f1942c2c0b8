"""System instructions that a program may use: barriers, hints, caches, its own registers.

Arm ARM, C4.1.94. A register goes by its number in MRS and MSR: op0, op1, CRn, CRm, op2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tandemu.ir import I64, Constant, Value
from tandemu.isa import effects
from tandemu.isa.arm import state as arm
from tandemu.isa.arm.features import IDENTIFICATION
from tandemu.isa.arm.flags import packed, unpack
from tandemu.isa.arm.float_state import read_float_status, write_float_control, write_float_status
from tandemu.isa.arm.formats import record
from tandemu.isa.instruction import Instruction, Kind, Semantics, Trait
from tandemu.isa.tracing import OperandContext

ZERO_BLOCK = 64
"""Bytes that DC ZVA clears."""
COUNTER_HZ = 10_000_000
CACHE_TYPE = 0x8444C004
"""CTR_EL0: lines of 64 bytes; instruction caches must be told of what is written."""
_RESUMES = frozenset({Trait.RESUMES})


def register_number(op0: int, op1: int, n: int, m: int, op2: int) -> int:
    """The low 15 bits of the number that MRS and MSR have for a register."""
    return (op0 & 1) << 14 | op1 << 11 | n << 7 | m << 3 | op2


NZCV = register_number(3, 3, 4, 2, 0)
FPCR, FPSR = register_number(3, 3, 4, 4, 0), register_number(3, 3, 4, 4, 1)
TPIDR_EL0, TPIDRRO_EL0 = register_number(3, 3, 13, 0, 2), register_number(3, 3, 13, 0, 3)
CTR_EL0, DCZID_EL0 = register_number(3, 3, 0, 0, 1), register_number(3, 3, 0, 0, 7)
CNTFRQ_EL0 = register_number(3, 3, 14, 0, 0)
COUNTERS = tuple(register_number(3, 3, 14, 0, op2) for op2 in (1, 2, 5, 6))
"""CNTPCT, CNTVCT and their self-synchronised forms."""


def _nothing(c: OperandContext) -> None:
    """Nothing that a program sees."""


def _fence(c: OperandContext) -> None:
    c.fence()


def _clear_exclusive(c: Any) -> None:
    c.hart.reservation_address = arm.NO_RESERVATION


def _zero_block(c: OperandContext) -> None:
    c.store_zeros(c.read("rs3") & -ZERO_BLOCK, ZERO_BLOCK)


def _invalidate_instructions(c: Any) -> None:
    c.hart.effects = c.hart.effects | effects.INSTRUCTIONS


def _read_flags(c: OperandContext) -> None:
    c.write("rd", packed(c) << 28)


def _write_flags(c: OperandContext) -> None:
    unpack(c, (c.read("rs3") >> 28) & 15)


def _reading(name: str) -> Semantics:
    def semantics(c: Any) -> None:
        c.write("rd", getattr(c.hart, name))

    return semantics


def _constant(value: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.write("rd", Constant(I64, value))

    return semantics


def _write_thread_pointer(c: Any) -> None:
    c.hart.tpidr_el0 = c.read("rs3")


def _read_counter(c: Any) -> None:
    c.write("rd", c.time())


def _read_status(c: Any) -> None:
    c.write("rd", read_float_status(c.ir, c.hart))


def _write_status(c: Any) -> None:
    write_float_status(c.ir, c.hart, c.read("rs3"))


def _write_control(c: Any) -> None:
    write_float_control(c.ir, c.hart, c.read("rs3"))


def _read_other(c: Any) -> None:
    """Registers that say what the processor has, as Linux lets programs read them."""
    b = c.ir
    number = c.imm
    value: Value = Constant(I64, 0)
    # op0 3, op1 0, CRn 0: unknown ones of these read as zero.
    known = (number & ~0x7F) == register_number(3, 0, 0, 0, 0)
    with b.If(~known, likely=False):
        c.raise_exception(arm.UNKNOWN, c.word)
    for register, contents in IDENTIFICATION.items():
        value = b.select(number == register, Constant(I64, contents), value)
    c.write("rd", value)


def _undefined(c: OperandContext) -> None:
    c.raise_exception(arm.UNKNOWN, c.word)


def _read(name: str, number: int, semantics: Semantics, kind: Kind = Kind.STRAIGHT) -> Instruction:
    return record(
        f"mrs_{name}", f"110101010011 {number:015b} ddddd", semantics, kind=kind,
        specialises="mrs", traits=_RESUMES if kind is Kind.SYSTEM else frozenset(),
    )  # fmt: skip


def _write(name: str, number: int, semantics: Semantics, kind: Kind = Kind.STRAIGHT) -> Instruction:
    return record(
        f"msr_{name}", f"110101010001 {number:015b} ttttt", semantics, kind=kind,
        specialises="msr", traits=_RESUMES if kind is Kind.SYSTEM else frozenset(),
    )  # fmt: skip


def _registers() -> Iterator[Instruction]:
    yield record("mrs", "110101010011 iiiiiiiiiiiiiii ddddd", _read_other, kind=Kind.SYSTEM,
                 traits=_RESUMES)  # fmt: skip
    yield record("msr", "110101010001 iiiiiiiiiiiiiii ttttt", _undefined, kind=Kind.SYSTEM)
    yield _read("nzcv", NZCV, _read_flags)
    yield _write("nzcv", NZCV, _write_flags)
    yield _read("fpcr", FPCR, _reading("fpcr"))
    yield _write("fpcr", FPCR, _write_control, Kind.SYSTEM)
    yield _read("fpsr", FPSR, _read_status, Kind.SYSTEM)
    yield _write("fpsr", FPSR, _write_status, Kind.SYSTEM)
    yield _read("tpidr_el0", TPIDR_EL0, _reading("tpidr_el0"))
    yield _write("tpidr_el0", TPIDR_EL0, _write_thread_pointer)
    yield _read("tpidrro_el0", TPIDRRO_EL0, _reading("tpidrro_el0"))
    yield _read("ctr_el0", CTR_EL0, _constant(CACHE_TYPE))
    yield _read("dczid_el0", DCZID_EL0, _constant(ZERO_BLOCK.bit_length() - 3))
    yield _read("cntfrq_el0", CNTFRQ_EL0, _constant(COUNTER_HZ))
    for number, name in zip(COUNTERS, ("cntpct", "cntvct", "cntpctss", "cntvctss"), strict=True):
        yield _read(f"{name}_el0", number, _read_counter, Kind.SYSTEM)


def _cache(name: str, op1: int, n: int, m: int, op2: int, semantics: Semantics,
           kind: Kind = Kind.STRAIGHT, access: int = 0) -> Instruction:  # fmt: skip
    return record(
        name, f"1101010100 0 01 {op1:03b} {n:04b} {m:04b} {op2:03b} ttttt", semantics,
        kind=kind, access=access, specialises="sys",
        traits=_RESUMES if kind is Kind.SYSTEM else frozenset(),
    )  # fmt: skip


def _barrier(name: str, rest: str, semantics: Semantics) -> Instruction:
    return record(name, f"11010101000000110011 {rest}", semantics, specialises="barrier")


INSTRUCTIONS: tuple[Instruction, ...] = (
    record("sys", "1101010100001 iiiiiiiiiiiiii ttttt", _undefined, kind=Kind.SYSTEM),
    record("barrier", "11010101000000110011 kkkk ooo 11111", _undefined, kind=Kind.SYSTEM),
    record("hint", "11010101000000110010 kkkkkkk 11111", _nothing),
    _barrier("clrex", "kkkk 010 11111", _clear_exclusive),
    _barrier("dsb", "kkkk 100 11111", _fence),
    _barrier("dmb", "kkkk 101 11111", _fence),
    # Loads are in order with what follows, and stores with stores, on the host as well.
    record("dmb_ld", "11010101000000110011 kk01 101 11111", _nothing, specialises="dmb"),
    record("dmb_st", "11010101000000110011 kk10 101 11111", _nothing, specialises="dmb"),
    _barrier("isb", "kkkk 110 11111", _nothing),
    _barrier("sb", "0000 111 11111", _nothing),
    *_registers(),
    _cache("dc_zva", 3, 7, 4, 1, _zero_block, Kind.STORE, ZERO_BLOCK),
    _cache("dc_cvac", 3, 7, 10, 1, _nothing),
    _cache("dc_cvau", 3, 7, 11, 1, _nothing),
    _cache("dc_civac", 3, 7, 14, 1, _nothing),
    _cache("dc_cvap", 3, 7, 12, 1, _nothing),
    _cache("dc_cvadp", 3, 7, 13, 1, _nothing),
    _cache("ic_ivau", 3, 7, 5, 1, _invalidate_instructions, Kind.SYSTEM),
)
