"""Compressed instructions: all 65,536 values."""

from __future__ import annotations

import re
import struct

import capstone
import pytest

from tandemu.isa.errors import IsaError
from tandemu.isa.riscv.disassembler import Disassembler
from tandemu.isa.riscv.instruction_set import RV32GC, RV32IMAC, RV64GC, InstructionSet

SETS = pytest.mark.parametrize(
    "instructions", [RV64GC, RV32GC, RV32IMAC], ids=["RV64GC", "RV32GC", "RV32IMAC"]
)


@SETS
def test_table_is_what_the_records_say(instructions: InstructionSet) -> None:
    table = instructions.compressed
    for half in range(1 << 16):
        number = table.form[half]
        decoded = instructions.decode(half) if half & 3 != 3 else None
        assert table.expansion[half] == (decoded.word if decoded else 0), hex(half)
        found = [one for one in table.records if one.matches(half)] if half % 7 == 0 else None
        if not number:
            assert table.expansion[half] == 0 and not found
            continue
        record = table.records[number - 1]
        target = instructions.by_name[record.expands_to]
        word = record.expand(half, target)
        assert table.expansion[half] == word and target.matches(word), hex(half)
        if found is not None:
            special = {one.specialises for one in found}
            assert [one for one in found if one.name not in special] == [record]
        operands = target.operands(word)
        assert record.encode({name: operands[name] for name in record.operands}) == half


@pytest.mark.parametrize(
    ("half", "wide", "narrow"),
    [
        (0x0000, None, None),
        (0x0001, "nop", "nop"),
        (0x0005, "li zero,1", "li zero,1"),  # hint
        (0x0010, None, None),  # addi4spn by zero
        (0x2001, None, "jal 0x1000"),  # addiw to x0 is reserved on RV64
        (0x2085, "addiw ra,ra,1", "jal 0x1060"),
        (0x4002, None, None),  # lwsp to x0
        (0x6002, None, "flw ft0,0(sp)"),  # ldsp to x0 / flwsp
        (0x6101, None, None),  # addi16sp by zero
        (0x6001, None, None),  # lui with immediate zero
        (0x6081, None, None),
        (0x717D, "addi sp,sp,-16", "addi sp,sp,-16"),
        (0x1502, "slli a0,a0,0x20", None),
        (0x8002, None, None),  # jr x0
        (0x8082, "ret", "ret"),
        (0x9002, "ebreak", "ebreak"),
        (0x9082, "jalr ra", "jalr ra"),
        (0x9C01, "subw s0,s0,s0", None),
        (0x9C41, None, None),
    ],
)
def test_corners(half: int, wide: str | None, narrow: str | None) -> None:
    for instructions, text in ((RV64GC, wide), (RV32GC, narrow)):
        shown = Disassembler(instructions).text(half, 0x1000)
        assert shown == (text or f".2byte {half:#x}")


def test_floating_point_goes_with_its_extension() -> None:
    assert RV32GC.decode(0x6002) is not None
    assert RV32IMAC.decode(0x6002) is None
    assert RV32IMAC.decode(0x2000) is None


def test_encode_refuses_reserved_operands() -> None:
    assert RV64GC.encode("c.addi", {"rd": 10, "imm": -1}) == 0x157D
    with pytest.raises(IsaError, match=r"c\.lwsp: operands .* may not be zero"):
        RV64GC.encode("c.lwsp", {"imm": 4})
    with pytest.raises(IsaError, match="only registers 8 to 15"):
        RV64GC.encode("c.and", {"rd": 1})
    with pytest.raises(IsaError, match="operand rs1 is always 2"):
        RV64GC.encode("c.lwsp", {"rd": 1, "rs1": 3})


def _numbers_as_such(text: str, xlen: int) -> str:
    """Return *text* with numbers, however written, as unsigned ones in decimal."""
    return re.sub(
        r"(?<![a-z0-9.])-?(0x[0-9a-f]+|\d+)",
        lambda found: str(int(found[0], 0) % (1 << xlen)),
        text.replace(", ", ","),
    )


@pytest.mark.parametrize("instructions", [RV64GC, RV32GC], ids=["RV64GC", "RV32GC"])
def test_capstone_reads_the_same(instructions: InstructionSet) -> None:
    xlen = instructions.xlen
    mode = capstone.CS_MODE_RISCV64 if xlen == 64 else capstone.CS_MODE_RISCV32
    oracle = capstone.Cs(capstone.CS_ARCH_RISCV, mode | capstone.CS_MODE_RISCVC)
    disassembler = Disassembler(instructions)
    for half in range(1 << 16):
        if half & 3 == 3:
            continue
        answer = next(oracle.disasm_lite(struct.pack("<H", half), 0), None)
        mine = disassembler.text(half, 0, aliases=False)
        illegal = mine.startswith(".")
        if answer is None:
            # Capstone does not know hints, which write x0 or shift by zero.
            assert illegal or re.match(r"c\.(nop|(li|lui|slli|mv|add) zero,)", mine), hex(half)
        elif illegal:
            # Nor that these are reserved: lui of zero, and on RV32 shifts by 32 and more.
            reserved = {"c.unimp", "c.lui"} | (
                {"c.slli", "c.srli", "c.srai"} if xlen == 32 else set()
            )
            assert answer[2] in reserved, hex(half)
        else:
            theirs = f"{answer[2]} {answer[3]}".strip()
            assert _numbers_as_such(mine, xlen) == _numbers_as_such(theirs, xlen)
