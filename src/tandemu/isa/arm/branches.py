"""Branches and system calls (Arm ARM, C4.1.94)."""

from __future__ import annotations

from collections.abc import Iterator

from tandemu.bits import replace
from tandemu.ir import I32, I64, Constant
from tandemu.isa.arm import state as arm
from tandemu.isa.arm.flags import NAMES, holds
from tandemu.isa.arm.formats import HOT, LINK_FIELD, record
from tandemu.isa.arm.immediates import BRANCH_14, BRANCH_19, BRANCH_26, LINKING_26
from tandemu.isa.instruction import Instruction, Kind, Semantics
from tandemu.isa.tracing import OperandContext


def _go(c: OperandContext) -> None:
    c.jump(c.pc + c.imm)


def _call(c: OperandContext) -> None:
    c.write("rd", c.next_pc)
    c.jump(c.pc + c.imm)


def _if(condition: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.branch(holds(c, condition), c.pc + c.imm)

    return semantics


def _if_zero(bits: int, wanted: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = c.read("rs3") if bits == 64 else c.read("rs3").trunc(I32)
        c.branch(value == 0 if wanted else value != 0, c.pc + c.imm)

    return semantics


def _if_bit(high: bool, wanted: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        bit = (Constant(I64, 1) << c.field("k")) << (32 if high else 0)
        value = c.read("rs3") & bit
        c.branch(value != 0 if wanted else value == 0, c.pc + c.imm)

    return semantics


def _indirect(c: OperandContext) -> None:
    c.jump(c.read("rs1"))


def _indirect_call(c: OperandContext) -> None:
    target = c.read("rs1")
    c.set_register("x", arm.LINK, c.next_pc)
    c.jump(target)


def _system_call(c: OperandContext) -> None:
    c.raise_exception(arm.SYSTEM_CALL, c.imm)


def _break(c: OperandContext) -> None:
    c.raise_exception(arm.BREAK, c.imm)


def _undefined(c: OperandContext) -> None:
    c.raise_exception(arm.UNKNOWN, c.word)


def _branches() -> Iterator[Instruction]:
    yield record("b", "000101 iiiiiiiiiiiiiiiiiiiiiiiiii", _go, kind=Kind.JUMP, immediate=BRANCH_26)
    for number, name in enumerate(NAMES):
        always = number >= 14
        yield record(
            f"b.{name}", f"01010100 iiiiiiiiiiiiiiiiiii 0 {number:04b}",
            _go if always else _if(number), immediate=BRANCH_19,
            kind=Kind.JUMP if always else Kind.BRANCH, traits=HOT, specialises="b.cond",
        )  # fmt: skip
    # Every condition has a record of its own, which this one gathers for the decoder.
    yield record("b.cond", "01010100 kkkkkkkkkkkkkkkkkkk 0 oooo", _undefined, kind=Kind.SYSTEM)
    for bits, size, sf in ((32, "w", 0), (64, "x", 1)):
        for name, op, wanted in (("cbz", 0, True), ("cbnz", 1, False)):
            yield record(
                f"{name}.{size}", f"{sf}011010{op} iiiiiiiiiiiiiiiiiii ttttt",
                _if_zero(bits, wanted), immediate=BRANCH_19, kind=Kind.BRANCH, traits=HOT,
            )  # fmt: skip
        for name, op, wanted in (("tbz", 0, False), ("tbnz", 1, True)):
            yield record(
                f"{name}.{size}", f"{sf}011011{op} kkkkk iiiiiiiiiiiiii ttttt",
                _if_bit(bits == 64, wanted), immediate=BRANCH_14, kind=Kind.BRANCH, traits=HOT,
            )  # fmt: skip
    for name, opc, semantics in (("br", 0, _indirect), ("blr", 1, _indirect_call),
                                 ("ret", 2, _indirect)):  # fmt: skip
        yield record(
            name, f"1101011 {opc:04b} 11111 000000 nnnnn 00000", semantics,
            kind=Kind.INDIRECT, traits=HOT,
        )  # fmt: skip


def _linking() -> Instruction:
    """BL, of which the word holds the register that it writes where others have theirs."""
    plain = record("bl", "100101 kkkkkkkkkkkkkkkkkkkkk 11110", _call, kind=Kind.JUMP)
    return replace(
        plain,
        mask=0xFC00000000000000 | 0xFFFFFFFF & ~LINK_FIELD.instruction_mask,
        match=0x94000000,
        fields=(LINK_FIELD,),
        immediate=LINKING_26,
        syntax="rd,imm",
    )


INSTRUCTIONS: tuple[Instruction, ...] = (
    *_branches(),
    _linking(),
    record("svc", "11010100 000 iiiiiiiiiiiiiiii 00001", _system_call, kind=Kind.SYSTEM),
    record("brk", "11010100 001 iiiiiiiiiiiiiiii 00000", _break, kind=Kind.SYSTEM),
)
