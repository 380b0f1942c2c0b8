"""Breakpoints and watched memory in translated code, compiled regions and single steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandemu.accel import AccelError, BreakpointHit, MmioWrite, Stopped, Watch, WatchpointHit
from tests.jit.optimised import FirstTouch
from tests.jit.small_machine import BASE, DATA, END, Code, SmallMachine, machine

TURNS = 100


@pytest.fixture(params=(64, 32))
def m(request: pytest.FixtureRequest) -> Iterator[SmallMachine]:
    made = machine(request.param)
    yield made
    made.vm.set_breakpoints(())
    made.vm.set_watches(())


def counting(xlen: int) -> Code:
    """A loop that adds up x5 in x6 and keeps the sum in memory at x7."""
    code = Code(xlen=xlen).li(5, TURNS).li(7, DATA)
    code.label("loop")("add", rd=6, rs1=6, rs2=5)
    code.label("store")("sw", rs1=7, rs2=6, imm=8)
    code.label("load")("lw", rd=8, rs1=7, imm=8)
    code("addi", rd=5, rs1=5, imm=-1)
    code.label("branch")("bne", rs1=5, rs2=0, to="loop")
    return code.label("end").finish(6)


def test_breakpoint_in_the_midst_of_a_block(m: SmallMachine) -> None:
    code = counting(m.xlen)
    m.load(code).finish()
    instructions = m.instructions
    m.reset().load(code)
    m.vm.set_breakpoints([code.labels["load"], code.labels["load"] + 2])
    for turn in range(1, 4):
        assert m.run() == BreakpointHit(code.labels["load"])
        assert m.vcpu.get("x5") == TURNS + 1 - turn
        assert m.vcpu.step() == Stopped(code.labels["load"] + 4)
    m.vm.set_breakpoints(())
    assert m.finish() == TURNS * (TURNS + 1) // 2
    assert m.instructions == instructions


def test_breakpoint_is_no_part_of_memory(m: SmallMachine) -> None:
    """Code that is written over keeps its breakpoint, and a load reads what is there."""
    code = Code(xlen=m.xlen).li(7, BASE + 0x100)("lw", rd=6, rs1=7, imm=0)
    code("sw", rs1=7, rs2=6, imm=0)("fence.i")("jal", rd=0, imm=BASE + 0x100 - code.here)
    m.load(code)
    m.write(BASE + 0x100, Code(xlen=m.xlen)("addi", rd=9, rs1=0, imm=7).finish(9).build())
    m.vm.set_breakpoints([BASE + 0x100])
    assert m.run() == BreakpointHit(BASE + 0x100)
    assert m.vcpu.get("x6") == int.from_bytes(m.read(BASE + 0x100, 4), "little")
    assert m.vcpu.step() == Stopped(BASE + 0x104)
    assert m.finish() == 7


def test_breakpoint_set_where_a_region_runs(m: SmallMachine) -> None:
    code = counting(m.xlen)
    m.load(code)
    optimised = FirstTouch(m.xlen)
    m.cpu.slice_length = 16
    while m.vcpu.get("x5") == 0 or m.vcpu.get("x5") > TURNS // 2:
        m.vcpu.limit_instructions(20)
        assert isinstance(m.vcpu.run(), Stopped)
        optimised.touch(m.vcpu)
    assert optimised.installed
    m.vm.set_breakpoints([code.labels["store"], code.labels["end"]])
    m.vcpu.limit_instructions(None)
    optimised.touch(m.vcpu)
    left = m.vcpu.get("x5")
    hits = 0
    while m.vcpu.run() == BreakpointHit(code.labels["store"]):
        hits += 1
        m.vcpu.step()
        optimised.touch(m.vcpu)
    assert left - 1 <= hits <= left
    assert m.vcpu.get("pc") == code.labels["end"]
    assert m.vcpu.get("x6") == TURNS * (TURNS + 1) // 2


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("reads", "writes"), [(True, False), (False, True), (True, True)])
def test_watched_memory(m: SmallMachine, reads: bool, writes: bool, regions: bool) -> None:
    code = counting(m.xlen)
    m.load(code)
    if regions:
        m.cpu.slice_length = 16
        m.vcpu.limit_instructions(100)
        m.vcpu.run()
        FirstTouch(m.xlen).touch(m.vcpu)
        m.vcpu.limit_instructions(None)
    m.vm.set_watches([Watch(DATA + 11, DATA + 11, reads, writes)])
    seen = []
    while isinstance(exit := m.run(), WatchpointHit):
        seen.append(exit)
        assert (exit.address, exit.size) == (DATA + 8, 4)
        assert exit.pc == code.labels["load"] + (4 if exit.reads else 0)
        assert m.vcpu.get("pc") == exit.pc
    assert isinstance(exit, MmioWrite) and exit.value == TURNS * (TURNS + 1) // 2
    done = 20 if regions else 0
    assert (TURNS - done) * (reads + writes) - 2 <= len(seen) <= TURNS * (reads + writes)


def test_watched_bytes_beside_others(m: SmallMachine) -> None:
    code = counting(m.xlen)
    m.load(code)
    m.vm.set_watches([Watch(DATA + 12, DATA + 4000, True, True), Watch(DATA, DATA + 7, True, True)])
    assert m.finish() == TURNS * (TURNS + 1) // 2


def test_watched_device(m: SmallMachine) -> None:
    m.load(Code(xlen=m.xlen).finish(0))
    m.vm.set_watches([Watch(END, END + 3, False, True)])
    assert m.run() == MmioWrite(END, 4, 0)
    m.vcpu.complete(0)
    exit = m.vcpu.run()
    assert isinstance(exit, WatchpointHit) and exit.address == END and exit.writes


def test_access_that_faults_is_none(m: SmallMachine) -> None:
    code = Code(xlen=m.xlen).li(7, 0x4000_0000)("amoadd.w", rd=6, rs1=7, rs2=0)
    m.load(code)
    m.vcpu.set("mtvec", BASE + 0x200)
    m.load(Code(BASE + 0x200, xlen=m.xlen).finish(0))
    m.vm.set_watches([Watch(0x4000_0000, 0x4000_0003, True, True)])
    assert m.run() == MmioWrite(END, 4, 0)


def test_too_many(m: SmallMachine) -> None:
    with pytest.raises(AccelError, match="must be at most 1024"):
        m.vm.set_breakpoints(range(0, 4096, 2))
    with pytest.raises(AccelError, match="must be at most 64"):
        m.vm.set_watches([Watch(n, n, True, True) for n in range(65)])
    assert not m.vm.debugging.breakpoints and not m.vm.debugging.watches


def test_settled_registers_are_what_they_seem(m: SmallMachine) -> None:
    """A region may leave old values where its loop closes; who looks finds none."""
    code = Code(xlen=m.xlen).li(5, 1 << 30)
    code.label("loop")("addi", rd=9, rs1=5, imm=3)("add", rd=6, rs1=6, rs2=9)
    code("addi", rd=5, rs1=5, imm=-1)("bne", rs1=5, rs2=0, to="loop")
    m.load(code.finish(6))
    optimised = FirstTouch(m.xlen)
    m.cpu.slice_length = 1000
    for _ in range(20):
        m.vcpu.limit_instructions(1007)
        assert isinstance(m.vcpu.run(), Stopped)
        optimised.touch(m.vcpu)
        m.vcpu.limit_instructions(None)
        assert m.vcpu.settle() is None
        turn = (m.vcpu.get("pc") - code.labels["loop"]) // 4
        ahead = {0: 4, 1: 3, 2: 3, 3: 4}[turn]
        assert m.vcpu.get("x9") == m.vcpu.get("x5") + ahead
    assert optimised.installed
