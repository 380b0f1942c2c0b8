"""Compiled regions do what stencils do: registers, memory, flags, counts, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tandemu.accel import MmioRead, Stopped
from tandemu.isa.riscv import state as riscv
from tandemu.isa.riscv.architecture import BY_XLEN
from tandemu.jit.regions.building import build_region
from tandemu.jit.regions.context import OWN_STORE
from tandemu.jit.regions.graph import find_graph
from tandemu.jit.regions.narrow import find_narrow
from tandemu.jit.regions.object_code import told_apart
from tandemu.jit.regions.request import RegionKind
from tests.jit import test_control_flow as control_flow
from tests.jit import test_instruction_table as instruction_table
from tests.jit import test_straight_lines as straight_lines
from tests.jit.instruction_table import Line
from tests.jit.optimised import Beginning, optimise
from tests.jit.page_tables import RWX, RX, TABLES, PageTable
from tests.jit.random_code import MEMORY, STRAIGHT, candidates, straight_line
from tests.jit.small_machine import (
    BASE,
    DATA,
    END,
    PAGE,
    SIZE,
    Code,
    SmallMachine,
    State,
    encode,
    machine,
)

ISA = BY_XLEN[64]
SLICES = (64, 67, 101, 1000)
"""A slice holds a whole block at least."""


def check_regions(
    m: SmallMachine, after: Callable[[SmallMachine], State], levels: tuple[int, ...] = (1, 2)
) -> State:
    """Run *m*'s program as stencils, then as regions of each level with slices that end anywhere.

    *after* tells what a run left behind; the result is what it has to be.
    """
    beginning = Beginning(m)
    m.finish()
    expected = after(m)
    for level in levels:
        beginning.again(m, 1000)
        assert optimise(m, level)
        for slice_length in SLICES:
            beginning.again(m, slice_length)
            m.finish()
            assert after(m) == expected, (level, slice_length)
    return expected


@pytest.mark.parametrize("line", instruction_table.LINES, ids=str)
def test_the_instruction_table(line: Line) -> None:
    m = machine()
    instruction_table.prepare(m, line)
    beginning = Beginning(m)
    instruction_table.to_end(m, "translated")
    expected = m.state(instruction_table.WINDOW)
    beginning.again(m, 1000)
    optimise(m)
    beginning.again(m, 1000)
    instruction_table.to_end(m, "translated")
    assert m.state(instruction_table.WINDOW) == expected


@pytest.mark.parametrize("xlen", [64, 32])
@pytest.mark.parametrize("seed", range(10))
def test_straight_lines(xlen: int, seed: int) -> None:
    m = machine(xlen)
    code = straight_lines.line(xlen, seed, 150, candidates(xlen, STRAIGHT | MEMORY))
    straight_lines.prepare(m, code, seed)
    check_regions(m, straight_lines.after, levels=(1 + seed % 2,))


@pytest.mark.parametrize("xlen", [64, 32])
@pytest.mark.parametrize("seed", range(8))
def test_control_flow_at_any_budget(xlen: int, seed: int) -> None:
    """Loops, calls, computed jumps; slices that end anywhere; both levels, one over the other."""
    m = machine(xlen)
    code = control_flow.random_program(random.Random(seed), xlen, 14)
    control_flow.prepare(m, code, seed)
    check_regions(m, control_flow.after)


@pytest.mark.parametrize("xlen", [64, 32])
@pytest.mark.parametrize("seed", range(8))
def test_several_turns_of_a_small_loop(xlen: int, seed: int) -> None:
    """As many turns as are made at once, fewer, more; the slice may end in any of them."""
    chance = random.Random(seed)
    pool = candidates(xlen, STRAIGHT | MEMORY)
    m = machine(xlen)
    code = Code(xlen=xlen).li(8, 30)
    # One too many for it now and then: that is an ordinary loop.
    size = chance.randrange(1, 16)
    code.label("outer")("addi", rd=7, rs1=8, imm=chance.randrange(1, 4)).label("inner")
    straight_line(chance, size, pool, code)("addi", rd=7, rs1=7, imm=-1)
    code("bne", to="inner", rs1=7, rs2=0)("addi", rd=8, rs1=8, imm=-1)
    code("bne", to="outer", rs1=8, rs2=0).finish()
    straight_lines.prepare(m, code, seed)
    check_regions(m, straight_lines.after, levels=(2,))


def calls(seed: int) -> Code:
    """A recursive function, a small one called from three places, returns that go elsewhere."""
    chance = random.Random(seed)
    code = Code().li(2, DATA + 4096).li(10, 12).li(9, 0)
    code("jal", to="sum", rd=1).li(11, chance.randrange(1 << 40))
    code("jal", to="mix", rd=1)("addi", rd=9, rs1=9, imm=1)("jal", to="mix", rd=1)
    # A return to where no call was, by a changed return address, then by another register.
    code("jal", to="astray", rd=1).label("skipped")("addi", rd=9, rs1=9, imm=1000)
    code("addi", rd=9, rs1=9, imm=2)("jal", to="other", rd=5)("addi", rd=9, rs1=9, imm=4)
    code.finish(11)
    # Sums 1 to n and mixes on the way; on the stack as a compiler would have it.
    code.label("sum")("addi", rd=2, rs1=2, imm=-16)("sd", rs1=2, rs2=1, imm=0)
    code("sd", rs1=2, rs2=10, imm=8)("beq", to="least", rs1=10, rs2=0)
    code("addi", rd=10, rs1=10, imm=-1)("jal", to="sum", rd=1)("ld", rd=12, rs1=2, imm=8)
    code("add", rd=10, rs1=10, rs2=12)("add", rd=11, rs1=11, rs2=10)("jal", to="mix", rd=1)
    code.label("least")("ld", rd=1, rs1=2, imm=0)("addi", rd=2, rs1=2, imm=16)
    code("jalr", rd=0, rs1=1, imm=0)
    code.label("mix").li(13, chance.randrange(1 << 31)).li(14, 3).label("turn")
    code("xor", rd=11, rs1=11, rs2=13)("slli", rd=15, rs1=11, imm=chance.randrange(1, 60))
    code("add", rd=11, rs1=11, rs2=15)("addi", rd=14, rs1=14, imm=-1)
    code("bne", to="turn", rs1=14, rs2=0)("addi", rd=9, rs1=9, imm=16)("jalr", rd=0, rs1=1, imm=0)
    code.label("astray")("addi", rd=1, rs1=1, imm=4)("jalr", rd=0, rs1=1, imm=0)
    code.label("other")("addi", rd=9, rs1=9, imm=32)("jalr", rd=0, rs1=5, imm=0)
    return code


@pytest.mark.parametrize("seed", range(6))
def test_calls_inside_a_region(seed: int) -> None:
    m = machine()
    m.load(calls(seed))
    expected = check_regions(m, straight_lines.after)
    assert expected.x[9] == 14 * 16 + 1 + 2 + 32 + 4


def test_what_is_called_is_taken_in_if_it_is_small() -> None:
    code = Code().label("start")("jal", to="small", rd=1)("addi", rd=9, rs1=9, imm=1)
    code("jal", to="large", rd=1)("jal", to="start", rd=0)
    code.label("small")("addi", rd=8, rs1=8, imm=1)("jalr", rd=0, rs1=1, imm=0)
    code.label("large")
    for _ in range(70):
        code("addi", rd=8, rs1=8, imm=1)
    code("jalr", rd=0, rs1=1, imm=0)
    data = code.build().ljust(4096, b"\0")
    kind = RegionKind("riscv64", False, 2)
    graph = find_graph(ISA, {BASE: data}, BASE, kind, 1)
    assert graph is not None
    call, after, small = BASE, BASE + 4, code.labels["small"]
    assert graph.blocks[call].followed and graph.blocks[call].successors == (small,)
    assert graph.blocks[small].returns == (after,)
    assert not graph.blocks[after].followed and graph.blocks[after].successors == ()
    assert code.labels["large"] not in graph.blocks
    # From the large one on, nothing is known of who called.
    graph = find_graph(ISA, {BASE: data}, code.labels["large"], kind, 1)
    assert graph is not None and graph.blocks[code.labels["large"]].returns == ()


def test_a_long_line_is_one_region() -> None:
    code = Code()
    for _ in range(500):
        code("addi", rd=8, rs1=8, imm=1)
    data = code("jalr", rd=0, rs1=1, imm=0).build().ljust(4096, b"\0")
    found = [
        find_graph(ISA, {BASE: data}, BASE, RegionKind("riscv64", False, 2), n) for n in (1, 2)
    ]
    assert [graph.instructions for graph in found if graph] == [240, 501]


_DOUBLES = (
    0x3FF0000000000000, 0xC008000000000000, 0, 1 << 63, 0x7FF0000000000000, 0xFFF0000000000000,
    0x7FF8000000000000, 0xFFF8000000000123, 0x7FF0000000000001, 0x7FEFFFFFFFFFFFFF, 1,
)  # fmt: skip
_ARITHMETIC = ("fadd.d", "fsub.d", "fmul.d", "fdiv.d", "fsqrt.d")
_OBSERVING = ("fmv.x.d", "fsgnjn.d", "fclass.d", "fmin.d", "fsd", "feq.d", "fle.d", "fcvt.l.d")
_FUSED = ("fmadd.d", "fnmsub.d", "fcvt.s.d", "fcvt.d.s")


def numbers(seed: int) -> Code:
    """Chains of arithmetic with NaNs, looked at now and then, across blocks of one loop."""
    chance = random.Random(seed)
    code = Code().li(2, DATA).li(3, 9)
    for register in range(8):
        code.li(4, chance.choice(_DOUBLES))("fmv.d.x", rd=register, rs1=4)
    code.label("again")
    for index in range(60):
        name = chance.choice(_ARITHMETIC * 4 + _OBSERVING * 2 + _FUSED)
        operands = {"rd": chance.randrange(8), "rs1": chance.randrange(8)}
        record = ISA.guest.instructions.by_name[name]
        fields = {one.name for one in record.fields}
        if name == "fsd":
            code("fsd", rs1=2, rs2=chance.randrange(8), imm=8 * index)
            continue
        if record.file("rd") == "x":
            operands["rd"] = 10 + index % 8
        if "rs2" in fields:
            operands["rs2"] = chance.randrange(8)
        if "rs3" in fields:
            operands["rs3"] = chance.randrange(8)
        if "rm" in fields:
            operands["rm"] = chance.choice((7, 7, 7, 0, 1, 3, 4))
        code(name, **operands)
        if index % 20 == 19:
            # Another block. (Rounding mode 4 is the interpreter's, in the midst of one.)
            code("bne", to=f"on{index}", rs1=11, rs2=10)("addi", rd=20, rs1=20, imm=1)
            code.label(f"on{index}")
    code("addi", rd=3, rs1=3, imm=-1)("bne", to="again", rs1=3, rs2=0)
    return code.finish(10)


@pytest.mark.parametrize("seed", range(12))
def test_chains_of_doubles(seed: int) -> None:
    m = machine()
    m.load(numbers(seed))
    check_regions(m, straight_lines.after)


def words(wide: int) -> Code:
    """A loop of 32-bit arithmetic whose sum begins as *wide*, and looks at all 64 bits after."""
    code = Code().li(2, DATA).li(10, wide).li(11, 20).li(12, 7).label("turn")
    code("addw", rd=10, rs1=10, rs2=12)("xor", rd=12, rs1=12, rs2=10)
    code("slliw", rd=13, rs1=12, imm=3)("addiw", rd=14, rs1=13, imm=0)
    code("lw", rd=15, rs1=2, imm=0)("addw", rd=12, rs1=14, rs2=15)("sw", rs1=2, rs2=12, imm=0)
    code("lbu", rd=16, rs1=2, imm=1)("or", rd=12, rs1=12, rs2=16)
    code("addi", rd=11, rs1=11, imm=-1)("bne", to="turn", rs1=11, rs2=0)
    code("sd", rs1=2, rs2=10, imm=8)("sd", rs1=2, rs2=12, imm=16)("srli", rd=17, rs1=12, imm=30)
    return code.finish(17)


def test_what_is_known_to_be_narrow() -> None:
    code = words(5)
    kind, turn = RegionKind("riscv64", False, 2), code.labels["turn"]
    graph = find_graph(ISA, {BASE: code.build().ljust(4096, b"\0")}, turn, kind, 2)
    assert graph is not None
    facts = find_narrow(ISA, kind, graph, read=range(1, 32))
    # x11 is counted in 64 bits and x2 points: neither is.
    assert facts.checked == {10, 12, 13, 14, 15, 16}
    assert facts.at_end[turn] == facts.checked
    assert (
        find_narrow(BY_XLEN[32], RegionKind("riscv32", False, 2), graph, range(32)).checked
        == frozenset()
    )


def test_facts_depend_on_bits_and_on_which_registers() -> None:
    """What was found out of one instruction is not taken for what another one does."""
    code = Code().label("turn")
    lines = (("bseti", 3), ("bseti", 40), ("bclri", 40), ("max", 12), ("max", 10))
    for number, (name, last) in enumerate(lines):
        operands = {"rs2": last} if name == "max" else {"imm": last}
        code(name, rd=20 + number, rs1=10, **operands)
    code("addiw", rd=10, rs1=10, imm=1)("addw", rd=12, rs1=12, rs2=10)
    code("bne", to="turn", rs1=10, rs2=12)
    kind = RegionKind("riscv64", False, 2)
    graph = find_graph(ISA, {BASE: code.build().ljust(4096, b"\0")}, BASE, kind, 2)
    assert graph is not None
    facts = find_narrow(ISA, kind, graph, read=range(1, 32))
    build_region(ISA, kind, graph, 2)
    assert facts.at_end[BASE] == {10, 12, 20, 24}


def test_a_call_that_comes_back_from_elsewhere() -> None:
    """A small function that ends with a jump to a register, as those of a PLT do."""
    m = machine()
    code = Code().li(6, BASE + 0x200).li(10, 0).li(12, 300).label("turn")
    code("addiw", rd=10, rs1=10, imm=1)("jal", to="stub", rd=1)
    code("bne", to="turn", rs1=10, rs2=12).finish(10)
    code.label("stub")("addw", rd=11, rs1=10, rs2=10)("jalr", rd=0, rs1=6, imm=0)
    m.load(code)
    m.load(Code(BASE + 0x200)("addi", rd=13, rs1=13, imm=1)("jalr", rd=0, rs1=1, imm=0))
    assert check_regions(m, straight_lines.after, levels=(2,)).x[13] == 300


@pytest.mark.parametrize("wide", [5, -9, 1 << 31, 0x123456789ABCDEF0])
def test_registers_of_32_bits(wide: int) -> None:
    """Where a region is entered with more in a register than it is made for, stencils run."""
    m = machine()
    m.load(words(wide))
    check_regions(m, straight_lines.after, levels=(2,))


def test_accesses_that_cannot_be_told_apart() -> None:
    """A program's accesses each need a mark that comes through to the object."""
    ir = """
  %a = load volatile i8, ptr %p, align 1, !pcsections !4
  store volatile i64 %b, ptr %q, align 1{}
!4 = !{{!"tandemu.marks", !5}}
!5 = !{{i32 7}}
!6 = !{{!"tandemu.marks", !7}}
!7 = !{{i32 {}}}
"""
    marked = ", !pcsections !6"
    assert told_apart(ir.format(marked, 8), {7, 8})
    assert told_apart(ir.format(marked, OWN_STORE), {7})
    assert not told_apart(ir.format(marked, 8), {7})
    assert not told_apart(ir.format("", 8), {7, 8})


BASES = (BASE, 0x20_0000_0000, 0xFFFF_FFC0_0000_0000)
"""For code in machine mode, and for a program and a kernel that are elsewhere."""


def load_at(m: SmallMachine, base: int, code: Code) -> None:
    """Put *code* where the hart sees it at *base*, one of `BASES`, and have it begin there.

    The page behind it is there too.
    """
    m.write(BASE, code.build())
    if base != BASE:
        table = PageTable(m)
        for place, physical in ((base, BASE), (base + PAGE, BASE + PAGE), (END, END)):
            table.map(place, physical, RWX)
        m.vcpu.set("satp", table.satp())
        m.open_pmp()
        m.vcpu.set("privilege", riscv.SUPERVISOR)
        m.cpu.pc = base


def check_regions_go(m: SmallMachine, expected: int) -> None:
    """*m*'s program, which writes code, stores *expected*; with regions too, some of which go."""
    beginning = Beginning(m)
    assert m.finish() == expected
    for _ in range(3):
        beginning.again(m, 1000)
        optimise(m)
        stale = m.vm.cache.state.stale_regions
        beginning.again(m, 1000)
        assert m.finish() == expected
        assert m.vm.cache.state.stale_regions > stale


@pytest.mark.parametrize("base", BASES)
def test_code_that_is_written_takes_its_region_along(base: int) -> None:
    """A loop changes an instruction of itself and fences: what runs next is the new one."""
    m = machine()
    code = Code(base).li(10, 0).li(11, 1).li(12, 40).label("again")
    patched = code.here
    code("addi", rd=10, rs1=10, imm=1).label("after")
    code("addi", rd=11, rs1=11, imm=1)("bne", to="again", rs1=11, rs2=12)
    code("bne", to="end", rs1=13, rs2=0)
    # Once more, with another constant.
    other = int.from_bytes(Code()("addi", rd=10, rs1=10, imm=100).bytes, "little")
    code.li(13, patched if base < 1 << 63 else patched - (1 << 64))
    code.li(14, other)("sw", rs1=13, rs2=14, imm=0)("fence.i").li(11, 1)
    code("jal", to="again", rd=0).label("end").finish(10)
    load_at(m, base, code)
    check_regions_go(m, 39 + 3900)


@pytest.mark.parametrize("base", BASES)
def test_a_region_that_leads_to_one_that_is_gone(base: int) -> None:
    """It comes by what stands in the place of the other, and goes on where that began."""
    m = machine()
    function = base + PAGE
    code = Code(base).li(10, 0).li(14, 2).label("again").li(12, 40).label("turn")
    code("jal", rd=1, imm=function - code.here)("addi", rd=12, rs1=12, imm=-1)
    code("bne", to="turn", rs1=12, rs2=0)
    other = int.from_bytes(Code()("addi", rd=10, rs1=10, imm=100).bytes, "little")
    code.li(13, function if base < 1 << 63 else function - (1 << 64)).li(15, other)
    code("sw", rs1=13, rs2=15, imm=0)("fence.i")("addi", rd=14, rs1=14, imm=-1)
    code("bne", to="again", rs1=14, rs2=0)
    # It is there again at the end, to become a region.
    load_at(m, base, code("jal", rd=1, imm=function - code.here).finish(10))
    # Too large to be taken in where it is called.
    large = Code(function)
    for _ in range(80):
        large("addi", rd=10, rs1=10, imm=1)
    m.write(BASE + PAGE, large("jalr", rd=0, rs1=1, imm=0).build())
    check_regions_go(m, 2 * 40 * 79 + 40 + 4000 + 179)


def test_a_trap_finds_what_the_access_would_have_overwritten() -> None:
    """Also where a slice ended in the loop just before: what a load does not load stays."""
    m = machine()
    end, count = BASE + SIZE, 41
    m.write(end - 8 * count, b"".join(n.to_bytes(8, "little") for n in range(count)))
    code = Code().li(11, end - 8 * count).label("turn")
    code("ld", rd=10, rs1=11, imm=0)("add", rd=12, rs1=12, rs2=10)
    code("addi", rd=11, rs1=11, imm=8)("jal", to="turn", rd=0)
    m.load(code)
    beginning = Beginning(m)
    assert m.run() == MmioRead(end, 8)
    for level in (1, 2):
        beginning.again(m, 1000)
        optimise(m, level)
        for slice_length in range(64, 100):
            beginning.again(m, slice_length)
            assert m.run() == MmioRead(end, 8)
            assert m.cpu.x[10] == count - 1, (level, slice_length)


def test_counts_are_exact_where_a_region_leads_to_code_that_was_written() -> None:
    """A region may end with more than the slice had: what comes next has not run yet."""
    m = machine()
    there = BASE + PAGE
    code = Code().li(10, there + 0x400).li(11, 60).label("turn")
    for _ in range(40):
        code("addi", rd=5, rs1=5, imm=1)
    code("jal", rd=0, imm=there - code.here).label("back")
    code("addi", rd=11, rs1=11, imm=-1)("bne", to="turn", rs1=11, rs2=0).finish(5)
    m.load(code)
    other = Code(there)
    for _ in range(16):
        other("addi", rd=6, rs1=6, imm=1)
    other("sw", rs1=10, rs2=11, imm=0)("fence.i")
    m.load(other("jal", rd=0, imm=code.labels["back"] - other.here))
    check_regions(m, straight_lines.after)


def test_a_region_leaves_when_it_is_asked_to() -> None:
    """An endless loop inside a region obeys a limit, and goes on where it was."""
    m = machine()
    m.load(Code().label("on")("addi", rd=5, rs1=5, imm=1)("jal", to="on", rd=0))
    assert isinstance(m.run(limit=1000), Stopped)
    m.vcpu.set("pc", BASE)
    assert optimise(m)
    begun = m.instructions
    assert isinstance(m.run(limit=100_000), Stopped)
    done = m.instructions - begun
    assert done >= 100_000
    assert m.cpu.region_slices
    assert m.cpu.pc in (BASE, BASE + 4)


def test_regions_of_two_address_spaces() -> None:
    """The same addresses, other code: exits of the one's regions do not lead to the other's."""
    m = machine()
    virtual, function = 0x20_0000_0000, 0x400
    tables = []
    for number in range(2):
        physical = BASE + (16 + number) * PAGE
        table = PageTable(m, base=TABLES + number * 16 * PAGE)
        table.map(virtual, physical, RX)
        table.map(END, END, RWX)
        tables.append(table.satp())
        code = Code(virtual).li(12, 40).label("turn")
        code("jal", rd=1, imm=virtual + function - code.here)("addi", rd=12, rs1=12, imm=-1)
        code("bne", to="turn", rs1=12, rs2=0).finish(10)
        m.write(physical, code.build())
        # Too large to be taken in where it is called.
        large = Code(virtual + function)
        for _ in range(80):
            large("addi", rd=10, rs1=10, imm=1 + number)
        m.write(physical + function, large("jalr", rd=0, rs1=1, imm=0).build())
    m.open_pmp()
    m.vcpu.set("privilege", riscv.SUPERVISOR)
    for number in (0, 1, 0, 1, 0, 1):
        m.vcpu.set("satp", tables[number])
        m.cpu.pc, m.cpu.x[10] = virtual, 0
        assert m.finish() == 40 * 80 * (1 + number)
        m.vcpu.complete(0)
        optimise(m)
    assert m.vcpu.regions.installed >= 4


def test_new_code_has_a_region_where_old_code_had_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round a loop that is hot is written anew, fenced, and hot again."""
    monkeypatch.setenv("TANDEMU_OPTIMISER", "stress")
    m = SmallMachine().reset()
    routine, rounds = BASE + PAGE, 4
    first = int.from_bytes(encode("addi", rd=6, rs1=6, imm=0), "little")
    code = Code().li(10, routine).li(11, first).li(12, 1 << 20).li(13, rounds).label("again")
    code("add", rd=11, rs1=11, rs2=12)("sw", rs1=10, rs2=11, imm=0)("fence.i").li(14, 5000)
    code("jalr", rd=1, rs1=10, imm=0)("addi", rd=13, rs1=13, imm=-1)
    m.load(code("bne", to="again", rs1=13, rs2=0).finish(6))
    loop = Code(routine).label("turn")("addi", rd=6, rs1=6, imm=0)("addi", rd=14, rs1=14, imm=-1)
    m.load(loop("bne", to="turn", rs1=14, rs2=0)("jalr", rd=0, rs1=1, imm=0))
    assert m.finish() == 5000 * sum(range(1, rounds + 1))
    assert m.vm.cache.state.stale_regions >= rounds - 1
    assert m.vcpu.regions.installed >= rounds
    m.vm.close()
