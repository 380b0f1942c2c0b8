"""Text and back, against lines that GNU objdump printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.isa.errors import IsaError
from tandemu.isa.riscv.aliases import ALIASES
from tandemu.isa.riscv.disassembler import Disassembler, assemble, disassemble
from tandemu.isa.riscv.instruction_set import RV32GC, RV64GC

PC = 0x80000000


@pytest.mark.parametrize(
    ("word", "plain", "alias"),
    [
        (0x00000013, "addi zero,zero,0", "nop"),
        (0x00058513, "addi a0,a1,0", "mv a0,a1"),
        (0xFFF00513, "addi a0,zero,-1", "li a0,-1"),
        (0x00000513, "addi a0,zero,0", "li a0,0"),
        (0xFFF5C513, "xori a0,a1,-1", "not a0,a1"),
        (0x40B00533, "sub a0,zero,a1", "neg a0,a1"),
        (0x0005851B, "addiw a0,a1,0", "sext.w a0,a1"),
        (0x0805853B, "add.uw a0,a1,zero", "zext.w a0,a1"),
        (0x00B03533, "sltu a0,zero,a1", "snez a0,a1"),
        (0x0015B513, "sltiu a0,a1,1", "seqz a0,a1"),
        (0x12345537, "lui a0,0x12345", None),
        (0xFFFFF517, "auipc a0,0xfffff", None),
        (0x02D61593, "slli a1,a2,0x2d", None),
        (0x00A50463, "beq a0,a0,0x80000008", None),
        (0xFE050EE3, "beq a0,zero,0x7ffffffc", "beqz a0,0x7ffffffc"),
        (0x00A05463, "bge zero,a0,0x80000008", "blez a0,0x80000008"),
        (0x0000006F, "jal zero,0x80000000", "j 0x80000000"),
        (0x008000EF, "jal ra,0x80000008", "jal 0x80000008"),
        (0x00008067, "jalr zero,0(ra)", "ret"),
        (0x00850067, "jalr zero,8(a0)", "jr 8(a0)"),
        (0x000500E7, "jalr ra,0(a0)", "jalr a0"),
        (0xFF853503, "ld a0,-8(a0)", None),
        (0xFEA53C23, "sd a0,-8(a0)", None),
        (0x1005252F, "lr.w a0,(a0)", None),
        (0x1CB5352F, "sc.d.aq a0,a1,(a0)", None),
        (0x0E56A2AF, "amoswap.w.aqrl t0,t0,(a3)", None),
        (0x0FF0000F, "fence iorw,iorw", "fence"),
        (0x0330000F, "fence rw,rw", None),
        (0x8330000F, "fence.tso", None),
        (0x30059573, "csrrw a0,mstatus,a1", None),
        (0x30002573, "csrrs a0,mstatus,zero", "csrr a0,mstatus"),
        (0x3002D073, "csrrwi zero,mstatus,5", "csrwi mstatus,5"),
        (0x7C059573, "csrrw a0,0x7c0,a1", None),
        (0xC0102573, "csrrs a0,time,zero", "rdtime a0"),
        (0xC0001073, "csrrw zero,cycle,zero", "unimp"),
        (0x12000073, "sfence.vma zero,zero", "sfence.vma"),
        (0x12B50073, "sfence.vma a0,a1", None),
        (0x0045200F, "cbo.zero (a0)", None),
        (0x0EC5D533, "czero.eqz a0,a1,a2", None),
        (0x00A5F553, "fadd.s fa0,fa1,fa0", None),
        (0x00A58553, "fadd.s fa0,fa1,fa0,rne", None),
        (0xD2058553, "fcvt.d.w fa0,a1", None),
        (0xC2059553, "fcvt.w.d a0,fa1,rtz", None),
        (0x22B58553, "fsgnj.d fa0,fa1,fa1", "fmv.d fa0,fa1"),
        (0x68C5F543, "fmadd.s fa0,fa1,fa2,fa3", None),
        (0xFFFFFFFF, ".4byte 0xffffffff", None),
        (0x852E, "c.mv a0,a1", "mv a0,a1"),
        (0xA001, "c.j 0x80000000", "j 0x80000000"),
    ],
)
def test_text(word: int, plain: str, alias: str | None) -> None:
    assert disassemble(word, PC, aliases=False) == plain
    assert disassemble(word, PC) == (alias or plain)


def test_addresses_wrap_at_xlen() -> None:
    assert disassemble(0xFE050EE3, 0, aliases=False) == "beq a0,zero,0xfffffffffffffffc"
    assert disassemble(0xFE050EE3, 0, xlen=32, aliases=False) == "beq a0,zero,0xfffffffc"


def test_assemble() -> None:
    assert assemble("addi", rd="a0", rs1="sp", imm=-16) == 0xFF010513
    assert assemble("jal", rd="ra", imm=8) == 0x008000EF
    assert assemble("lui", rd=10, imm=0x12345000) == 0x12345537
    assert assemble("fadd.s", rd="fa0", rs1="fa1", rs2="fa0") == 0x00A5F553
    assert assemble("fcvt.d.w", rd="fa0", rs1="a1") == 0xD2058553
    assert assemble("amoadd.w", rd=5, rs1="a3", rs2="t0", aq=1, rl=1) == 0x0656A2AF
    assert assemble("csrrw", rd=0, csr=0x305, rs1="t0") == 0x30529073
    assert assemble("csrrw", csr="mtvec", rs1="t0") == 0x30529073
    assert assemble("c.lwsp", rd="a0", imm=8) == 0x4522
    assert assemble("c.jal", xlen=32, imm=0) == 0x2001
    with pytest.raises(IsaError, match=r"no instruction 'c\.jal'"):
        assemble("c.jal", imm=0)
    with pytest.raises(IsaError, match="operand imm is not a register"):
        assemble("addi", imm="a0")
    with pytest.raises(IsaError, match="no CSR 'mtvek' in RV64"):
        assemble("csrrw", csr="mtvek")


def test_csr_names_are_the_callers_choice() -> None:
    assert Disassembler(RV64GC, {0x7C0: "mine"}).text(0x7C002573, 0) == "csrr a0,mine"


@given(word=st.integers(0, 0xFFFFFFFF), pc=st.integers(0, (1 << 64) - 1), aliases=st.booleans())
def test_any_word_has_a_text(word: int, pc: int, aliases: bool) -> None:
    for xlen in (32, 64):
        assert disassemble(word, pc, xlen, aliases)


def test_aliases_are_of_records_and_one_is_always_meant() -> None:
    names = RV64GC.by_name | RV32GC.by_name
    for alias in ALIASES:
        assert set(alias.conditions) <= {*(f.name for f in names[alias.of].fields), "imm"}
        for other in ALIASES:
            if other is alias or other.of != alias.of:
                continue
            both = alias.conditions.keys() & other.conditions.keys()
            if all(alias.conditions[key] == other.conditions[key] for key in both):
                # Both can apply at once: then a third must, or one must have more conditions.
                union = alias.conditions | other.conditions
                assert len(alias.conditions) != len(other.conditions) or any(
                    third.of == alias.of and third.conditions == union for third in ALIASES
                ), (alias, other)
