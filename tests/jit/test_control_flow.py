"""Random programs with loops, calls and computed jumps, across pages and at odd halves."""

from __future__ import annotations

import random

import pytest
import unicorn
from unicorn import riscv_const

from tandemu.bits import mask
from tests.jit.random_code import (
    MEMORY,
    MIDDLE,
    STRAIGHT,
    UNICORN,
    WINDOW,
    candidates,
    random_registers,
    straight_line,
)
from tests.jit.small_machine import BASE, PAGE, SIZE, Code, SmallMachine, State, machine

FUEL, LINK, TARGET = 29, 28, 27
BRANCHES = ("beq", "bne", "blt", "bge", "bltu", "bgeu")
START = MIDDLE - WINDOW // 2


def random_program(chance: random.Random, xlen: int, blocks: int, fuel: int = 240) -> Code:
    """Blocks that go anywhere; each takes fuel, and without fuel the program ends."""
    code = Code(xlen=xlen)
    pool = tuple(
        one
        for one in candidates(xlen, STRAIGHT | MEMORY)
        if one.extension in UNICORN and not one.floating
    )
    code.li(FUEL, fuel)
    for number in range(blocks):
        # Now and then at the end of a page, so that instructions lie across it.
        if chance.randrange(6) == 0:
            code("jal", to=f"p{number}", rd=0)
            code.align(PAGE, PAGE - 2 * chance.randrange(1, 24)).label(f"p{number}")
        elif chance.randrange(3) == 0:
            code("c.nop")
        code.label(f"b{number}")
        code("addi", rd=FUEL, rs1=FUEL, imm=-1)
        code("bge", to="more" + str(number), rs1=FUEL, rs2=0)
        code("jal", to="end", rd=0).label("more" + str(number))
        straight_line(chance, chance.randrange(8), pool, code)
        kind = chance.randrange(8)
        near = min(blocks - 1, max(0, number + chance.choice((-2, -1, 0, 1, 2, 3))))
        anywhere = chance.randrange(blocks)
        first, second = chance.randrange(6), chance.randrange(6)
        if kind < 3:
            # Out of reach of a branch: around a jump.
            branch = chance.choice(BRANCHES)
            code(branch, rs1=first, rs2=second, imm=8)
            code("jal", to=f"b{near}", rd=0)
        elif kind == 3:
            code("jal", to=f"b{anywhere}", rd=chance.choice((0, LINK)))
        elif kind == 4:
            # Computed: the address is made by auipc at a place known now.
            code.label(f"c{number}")
            code("auipc", rd=TARGET, imm=0)("addi", rd=TARGET, rs1=TARGET, imm=13)
            code("jalr", rd=chance.choice((0, TARGET, LINK)), rs1=TARGET, imm=0)
        elif kind == 5:
            code("jal", to=f"r{number}", rd=LINK)
            code("jal", to=f"s{number}", rd=0)
            code.label(f"r{number}")
            straight_line(chance, chance.randrange(4), pool, code)
            code("jalr", rd=0, rs1=LINK, imm=0)
            code.label(f"s{number}")
        elif kind == 6:
            code("c.j", to=f"d{number}")("c.nop").label(f"d{number}")
        else:
            code(chance.choice(BRANCHES), rs1=first, rs2=second, imm=chance.choice((4, 6, 8)))
            code("c.nop")("c.nop")
    return code.label("end").finish()


def prepare(m: SmallMachine, code: Code, seed: int) -> None:
    chance = random.Random(seed)
    m.reset().load(code)
    x, f = random_registers(chance, m.xlen)
    for number in range(32):
        m.cpu.f[number] = f[number]
        m.cpu.x[number] = x[number]
    m.write(START, chance.randbytes(WINDOW))


def after(m: SmallMachine) -> State:
    return m.state(WINDOW, data=START)


@pytest.mark.parametrize("xlen", [64, 32])
@pytest.mark.parametrize("seed", range(40))
def test_translated_is_stepped_and_unicorn(xlen: int, seed: int) -> None:
    m = machine(xlen)
    code = random_program(random.Random(seed), xlen, 60)
    prepare(m, code, seed)
    m.finish()
    translated = after(m)
    prepare(m, code, seed)
    m.step_to_end()
    assert translated == after(m)
    prepare(m, code, seed)
    mode = unicorn.UC_MODE_RISCV64 if xlen == 64 else unicorn.UC_MODE_RISCV32
    oracle = unicorn.Uc(unicorn.UC_ARCH_RISCV, mode)
    oracle.mem_map(BASE, SIZE)
    oracle.mem_write(BASE, m.read(BASE, SIZE))
    for number in range(1, 32):
        oracle.reg_write(riscv_const.UC_RISCV_REG_X0 + number, m.cpu.x[number])
    oracle.emu_start(BASE, translated.pc)
    expected = [
        oracle.reg_read(riscv_const.UC_RISCV_REG_X0 + number) & mask(xlen) for number in range(32)
    ]
    assert list(translated.x) == expected
    assert translated.memory == bytes(oracle.mem_read(START, WINDOW))


@pytest.mark.parametrize("seed", range(100, 106))
def test_counts_are_exact_over_many_slices(seed: int) -> None:
    m = machine()
    code = random_program(random.Random(seed), 64, 100, 15_000)
    prepare(m, code, seed)
    m.finish()
    translated = after(m)
    prepare(m, code, seed)
    m.step_to_end(1 << 20)
    assert translated == after(m)


@pytest.mark.parametrize("offset", range(0, 10, 2))
def test_accesses_across_pages(offset: int) -> None:
    """Loads and stores whose bytes lie on two pages, first and again."""
    m = machine()
    border = BASE + 0x8000
    code = Code().li(10, border - offset).li(11, 0x1122334455667788).li(12, 2).label("again")
    for name in ("sd", "sw", "sh", "sb"):
        code(name, rs1=10, rs2=11, imm=0)
        for load in ("ld", "lw", "lwu", "lh", "lhu", "lb", "lbu"):
            code(load, rd=13, rs1=10, imm=0)("add", rd=14, rs1=14, rs2=13)
            code("slli", rd=14, rs1=14, imm=1)
        code("srli", rd=11, rs1=11, imm=3)
    code("flw", rd=1, rs1=10, imm=0)("fsd", rs1=10, rs2=1, imm=1)("fld", rd=2, rs1=10, imm=1)
    code("addi", rd=12, rs1=12, imm=-1)("bne", to="again", rs1=12, rs2=0).finish()
    m.load(code)
    m.finish()
    translated = m.state(64, data=border - 32)
    m.reset().load(code).step_to_end()
    assert translated == m.state(64, data=border - 32)
