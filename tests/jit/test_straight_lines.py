"""Random straight-line code: translated, stepped, evaluated in Python, and by unicorn."""

from __future__ import annotations

import ctypes
import random
import re

import pytest
import unicorn
from unicorn import riscv_const

from tandemu.bits import mask
from tandemu.isa.instruction import Instruction, Kind
from tandemu.jit.shared.layout import SYMBOLS
from tandemu.native import StencilTable
from tandemu.native.stencils import STENCIL
from tests.jit.random_code import (
    ADDRESS,
    MEMORY,
    MIDDLE,
    STRAIGHT,
    UNICORN,
    WINDOW,
    candidates,
    random_registers,
    straight_line,
)
from tests.jit.small_machine import BASE, SIZE, Code, SmallMachine, State, machine, program

WINDOW_START = MIDDLE - WINDOW // 2


def prepare(m: SmallMachine, code: Code, seed: int) -> None:
    """The same beginning for every way to run *code*."""
    chance = random.Random(seed)
    m.reset().load(code)
    x, f = random_registers(chance, m.xlen)
    for number in range(1, 32):
        m.cpu.x[number] = x[number]
        m.cpu.f[number] = f[number]
    m.cpu.f[0] = f[0]
    m.cpu.frm = seed % 4
    m.write(WINDOW_START, chance.randbytes(WINDOW))


def after(m: SmallMachine) -> State:
    return m.state(WINDOW, data=WINDOW_START)


def line(xlen: int, seed: int, count: int, pool: tuple[Instruction, ...]) -> Code:
    return straight_line(random.Random(seed), count, pool, Code(xlen=xlen)).finish()


@pytest.mark.parametrize("xlen", [64, 32])
@pytest.mark.parametrize("seed", range(60))
def test_translated_is_stepped(xlen: int, seed: int) -> None:
    """Long lines of everything, then the same with memory accesses more often."""
    m = machine(xlen)
    pool = candidates(xlen, STRAIGHT)
    if seed % 2:
        pool += candidates(xlen, MEMORY) * 2
    code = line(xlen, seed, 400, pool)
    prepare(m, code, seed)
    m.finish()
    translated = after(m)
    prepare(m, code, seed)
    m.step_to_end()
    assert translated == after(m)


@pytest.mark.parametrize("xlen", [64, 32])
@pytest.mark.parametrize("seed", range(8))
def test_stepped_is_evaluated(xlen: int, seed: int) -> None:
    """The same against the plain meaning of every operation in Python."""
    m = machine(xlen)
    pool = candidates(xlen, STRAIGHT | MEMORY)
    code = line(xlen, seed, 200, pool)
    prepare(m, code, seed)
    m.finish()
    translated = after(m)
    prepare(m, code, seed)
    m.evaluate_to_end()
    assert translated == after(m)


class Unicorn:
    """An independent oracle for the integer instructions (and atomics)."""

    def __init__(self, xlen: int) -> None:
        mode = unicorn.UC_MODE_RISCV64 if xlen == 64 else unicorn.UC_MODE_RISCV32
        self.xlen = xlen
        self.machine = unicorn.Uc(unicorn.UC_ARCH_RISCV, mode)
        self.machine.mem_map(BASE, SIZE)

    def run(self, m: SmallMachine, end: int) -> tuple[list[int], bytes]:
        """Run what *m* is about to run up to *end*; integer registers and memory after it."""
        self.machine.mem_write(BASE, m.read(BASE, 1 << 16))
        self.machine.ctl_remove_cache(BASE, BASE + (1 << 16))
        self.machine.mem_write(WINDOW_START, m.read(WINDOW_START, WINDOW))
        for number in range(1, 32):
            self.machine.reg_write(riscv_const.UC_RISCV_REG_X0 + number, m.cpu.x[number])
        self.machine.emu_start(BASE, end)
        registers = [
            self.machine.reg_read(riscv_const.UC_RISCV_REG_X0 + number) & mask(self.xlen)
            for number in range(32)
        ]
        return registers, bytes(self.machine.mem_read(WINDOW_START, WINDOW))


ORACLES = {64: Unicorn(64), 32: Unicorn(32)}


@pytest.mark.parametrize("xlen", [64, 32])
@pytest.mark.parametrize("seed", range(40))
def test_translated_is_unicorn(xlen: int, seed: int) -> None:
    m = machine(xlen)
    pool = tuple(
        one
        for one in candidates(xlen, STRAIGHT | MEMORY)
        if one.extension in UNICORN and not one.floating
    )
    code = straight_line(random.Random(seed), 400, pool, Code(xlen=xlen))
    end = code.here
    code.finish()
    prepare(m, code, seed)
    registers, memory = ORACLES[xlen].run(m, end)
    m.finish()
    state = after(m)
    assert list(state.x[:31]) == registers[:31]
    assert state.memory == memory


FRESH = (1, 2, 3)
"""Registers whose last values are in the three places."""
OLD = 4
"""A register that is in memory only."""


def forced(code: Code, one: Instruction, first: int, second: int, turn: int) -> None:
    """*one* with these sources after three results, its own in the place of number *turn*."""
    memory = one.kind in (Kind.LOAD, Kind.STORE, Kind.ATOMIC)
    if memory:
        code.li(OLD, MIDDLE)
    # A block of its own begins with empty places.
    code("jal", rd=0, imm=4)
    places = []
    for index, register in enumerate(FRESH):
        places.append((register, code.here))
        if one.kind is Kind.INDIRECT:
            code("auipc", rd=register, imm=0)
        elif memory:
            code("addi", rd=register, rs1=OLD, imm=0 if one.access > 4 else 8 * index)
        else:
            code("xori", rd=register, rs1=5 + register, imm=index)
    if one.kind is Kind.INDIRECT:
        from_here = dict(places)
        if first not in from_here:
            code("auipc", rd=OLD, imm=0)
            from_here[OLD] = code.here - 4
            # Turn it out of its place.
            for register in FRESH:
                code("addi", rd=register, rs1=register, imm=4)
                from_here[register] += 4
        code(one.name, rd=FRESH[turn], rs1=first, imm=code.here + 4 - from_here[first])
    else:
        operands = {"rs1": first, "rs2": second, "rd": FRESH[turn], "rm": 7}
        names = {field.name for field in one.fields}
        operands = {name: value for name, value in operands.items() if name in names}
        if one.immediate is not None:
            operands["imm"] = {"U": 0x10000, "prefetch": 32}.get(one.immediate.name, 16)
        if one.kind is Kind.BRANCH:
            operands["imm"] = 4 + 2 * turn
        code(one.name, **operands)
        code("c.nop")("c.nop")("c.nop")
    for register in FRESH:
        code("slli", rd=13, rs1=13, imm=3)
        code("xor", rd=13, rs1=13, rs2=register)


def every_stencil(xlen: int) -> list[tuple[str, Code]]:
    """A program for each instruction that takes it through all its stencils."""
    programs = []
    kinds = STRAIGHT | MEMORY | {Kind.BRANCH, Kind.INDIRECT, Kind.JUMP}
    for one in (*candidates(xlen, kinds), *candidates_reserved(xlen)):
        if one.kind is Kind.JUMP:
            continue
        code = Code(xlen=xlen)
        needs_base = one.kind in MEMORY or one.kind is Kind.INDIRECT
        firsts = (*FRESH, OLD) if needs_base else (*FRESH, OLD, 0)
        for first in firsts if one.file("rs1") == "x" else (OLD,):
            for second in (*FRESH, OLD, 0) if one.file("rs2") == "x" else (OLD,):
                for turn in range(3):
                    forced(code, one, first, second, turn)
        if one.field("rm") is not None:
            code(one.name, **{field.name: 1 for field in one.fields if field.name != "rs4"})
            for turn in range(3):
                code("jal", rd=0, imm=4)
                for register in FRESH:
                    code("xori", rd=register, rs1=5, imm=turn)
                code(
                    one.name,
                    rd=FRESH[turn],
                    rs1=3,
                    **({"rs2": 1} if one.field("rs2") else {}),
                    rm=1,
                )
        programs.append((one.name, code.finish()))
    code = Code(xlen=xlen)
    for turn in range(3):
        for first in (*FRESH, OLD):
            code("jal", rd=0, imm=4)
            for register in FRESH:
                code("xori", rd=register, rs1=9, imm=register)
            code("addi", rd=FRESH[turn], rs1=first, imm=0)("add", rd=12, rs1=12, rs2=FRESH[turn])
            code("jal", rd=0, imm=4)
            for register in FRESH:
                code("xori", rd=register, rs1=9, imm=register)
            # One constant that is short, one that has 64 bits: an address of this machine.
            code("lui", rd=FRESH[turn], imm=0x12345000)("add", rd=12, rs1=12, rs2=FRESH[turn])
            code("auipc", rd=FRESH[turn], imm=0)("add", rd=12, rs1=12, rs2=FRESH[turn])
    code("fence", pred=3, succ=3)("fence.tso")("pause")("cbo.zero", rs1=ADDRESS)
    programs.append(("moves, constants and fences", code.finish()))
    return programs


def candidates_reserved(xlen: int) -> tuple[Instruction, ...]:
    """LR and SC, which random lines leave out."""
    isa = program(xlen).instructions
    return tuple(one for one in isa.records if one.name.startswith(("lr.", "sc.")))


@pytest.mark.parametrize("xlen", [64, 32])
def test_every_stencil_is_used_and_right(xlen: int) -> None:
    """Each instruction with its sources and its result in every place there is.

    What the translator wrote is then searched for the code of every stencil.
    """
    m = machine(xlen)
    written = bytearray()
    for name, code in every_stencil(xlen):
        prepare(m, code, 7)
        m.finish()
        translated = after(m)
        for start, end in m.vm.cache.used()["hot"]:
            written += ctypes.string_at(start, end - start)
        prepare(m, code, 7)
        m.step_to_end()
        assert translated == after(m), name
    # A jump to another page of a mode with pages.
    used = {"jump_cached", *COLD_STENCILS}
    table = stencil_table(m)
    missing = [
        stencil
        for number, stencil in enumerate(table.names)
        if stencil not in used and not pattern(table, number).search(written)
    ]
    # Never asked for: a branch that compares a result with itself.
    assert not [name for name in missing if not folds(name, xlen)]


def stencil_table(m: SmallMachine) -> StencilTable:
    """The stencils of the engine that *m* runs on."""
    names = [function.name for function in program(m.xlen).stencils.functions]
    addresses = m.vm.engine.addresses
    records = ctypes.string_at(addresses["stencils"], len(names) * STENCIL.size)
    last = STENCIL.over(bytearray(records[-STENCIL.size :]), 0)
    code = ctypes.string_at(addresses["stencil_code"], last.code + last.size)
    return StencilTable(names, SYMBOLS, code, records)


def folds(name: str, xlen: int) -> bool:
    """Whether a stencil is a branch whose operands are the same cached result."""
    one, *rest = name.split("_")
    branches = {one.name for one in candidates(xlen, frozenset({Kind.BRANCH}))}
    return one in branches and rest[0][0] == rest[0][1] != "m"


@pytest.mark.parametrize("xlen", [64, 32])
def test_a_branch_ends_with_its_target(xlen: int) -> None:
    """The last four bytes of a branch are what the translator patches."""
    table = stencil_table(machine(xlen))
    taken = SYMBOLS.index("TAKEN")
    branches = {one.name for one in candidates(xlen, frozenset({Kind.BRANCH}))}
    for number, name in enumerate(table.names):
        if name.split("_")[0] in branches and not folds(name, xlen):
            stencil = table[number]
            last = max(stencil.holes, key=lambda hole: hole.offset)
            assert (last.symbol, last.offset) == (taken, len(stencil.code) - 4), name


COLD_STENCILS = ("memory_stub", "link_stub", "head_stub", "miss_stub", "region_bridge")


def pattern(table: StencilTable, number: int) -> re.Pattern[bytes]:
    """What the code of a stencil looks like, whatever fills its holes."""
    stencil = table[number]
    parts, place = [], 0
    for hole in sorted(stencil.holes, key=lambda hole: hole.offset):
        size = hole.kind.size
        parts += [re.escape(stencil.code[place : hole.offset]), b".{%d}" % size]
        place = hole.offset + size
    parts.append(re.escape(stencil.code[place:]))
    return re.compile(b"".join(parts), re.DOTALL)
