"""Code that changes: FENCE.I, other harts, eviction from a small code cache."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable

import pytest

from tandemu.accel import Fence
from tandemu.jit.engine.code_cache import CacheSizes
from tandemu.jit.machine import vm as vm_module
from tandemu.memory import RamRegion
from tandemu.slots.emitters import HOST_RANGE
from tandemu.slots.routines import memory_routines
from tests.jit.random_code import STRAIGHT, candidates, random_registers, straight_line
from tests.jit.small_machine import BASE, END, PAGE, Code, SmallMachine, encode, machine

ROUTINE = BASE + 4 * PAGE


def word(rd: int, value: int) -> int:
    return int.from_bytes(encode("addi", rd=rd, rs1=0, imm=value), "little")


@pytest.mark.parametrize("distance", [0x200, 4 * PAGE, PAGE - 0x40])
@pytest.mark.parametrize("rounds", [3, 300])
def test_rewriting_a_routine(distance: int, rounds: int) -> None:
    """Each round writes another constant into it, fences and calls; the sum tells."""
    m = machine()
    routine = BASE + distance
    code = Code().li(10, routine).li(11, word(6, 0)).li(12, 1 << 20).li(13, rounds)
    code.label("again")("add", rd=11, rs1=11, rs2=12)("sw", rs1=10, rs2=11, imm=0)("fence.i")
    code("jalr", rd=1, rs1=10, imm=0)("add", rd=7, rs1=7, rs2=6)
    code("addi", rd=13, rs1=13, imm=-1)("bne", to="again", rs1=13, rs2=0).finish(7)
    m.load(code)
    m.load(Code(routine)("addi", rd=6, rs1=0, imm=0)("jalr", rd=0, rs1=1, imm=0))
    assert m.finish() == rounds * (rounds + 1) // 2


def test_a_block_that_rewrites_itself() -> None:
    """What stands behind the fence is new, on the page that runs."""
    m = machine()
    code = Code().li(11, word(6, 42))("auipc", rd=10, imm=0)
    code("sw", rs1=10, rs2=11, imm=12)("fence.i")("addi", rd=6, rs1=0, imm=1).finish(6)
    m.load(code)
    assert m.finish() == 42


def test_without_a_fence_either_is_right() -> None:
    m = machine()
    code = Code().li(10, ROUTINE).li(11, word(6, 2)).li(13, 50).label("again")
    code("jalr", rd=1, rs1=10, imm=0)("sw", rs1=10, rs2=11, imm=0)
    code("addi", rd=13, rs1=13, imm=-1)("bne", to="again", rs1=13, rs2=0).finish(6)
    m.load(code)
    m.load(Code(ROUTINE)("addi", rd=6, rs1=0, imm=1)("jalr", rd=0, rs1=1, imm=0))
    assert m.finish() in (1, 2)


def test_data_beside_code() -> None:
    """A counter on the page of the loop that counts: slow once, then as any."""
    m = machine()
    code = Code().li(13, 20_000)("auipc", rd=10, imm=0).label("again")
    code("ld", rd=5, rs1=10, imm=0x400)("addi", rd=5, rs1=5, imm=1)
    code("sd", rs1=10, rs2=5, imm=0x400)
    code("addi", rd=13, rs1=13, imm=-1)("bne", to="again", rs1=13, rs2=0).finish(5)
    m.load(code)
    before = m.vm.cache.state.translations
    assert m.finish() == 20_000
    assert m.vm.cache.state.translations < before + 20


def test_code_of_another_hart() -> None:
    """One hart rewrites what another has run; the fence comes from outside (SBI RFENCE)."""
    m = machine(64, 2)
    first, second = m.harts
    caller = Code().li(10, ROUTINE)("jalr", rd=1, rs1=10, imm=0).finish(6)
    writer = Code(BASE + PAGE).li(10, ROUTINE).li(11, word(6, 9))
    writer("sw", rs1=10, rs2=11, imm=0).finish(11)
    m.load(caller).load(writer)
    m.load(Code(ROUTINE)("addi", rd=6, rs1=0, imm=5)("jalr", rd=0, rs1=1, imm=0))
    assert m.finish() == 5
    second.set("pc", BASE + PAGE)
    m.finish(1)
    first.complete(0)
    first.step()
    first.fence(Fence(instructions=True))
    first.set("pc", BASE)
    assert m.finish() == 9


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> SmallMachine:
    small = CacheSizes(3 << 17, 3 << 16, 3 << 16, 3 << 16)
    monkeypatch.setattr(vm_module, "CODE_CACHE_SIZES", small)
    return SmallMachine().reset()


def test_eviction(small_cache: SmallMachine) -> None:
    """A program larger than the cache, twice round: nothing but time is lost."""
    chance = random.Random(3)
    pool = tuple(one for one in candidates(64, STRAIGHT) if not one.floating)
    code = Code().li(25, 2).label("again")
    for _ in range(400):
        straight_line(chance, 30, pool, code)
        code("jal", rd=0, imm=4)
    code("addi", rd=25, rs1=25, imm=-1)("beq", rs1=25, rs2=0, imm=8)("jal", to="again", rd=0)
    code.finish()
    states = []
    for step in (False, True):
        m = small_cache.reset().load(code)
        x, _ = random_registers(random.Random(4), 64)
        for number in range(1, 32):
            m.cpu.x[number] = x[number]
        if step:
            m.step_to_end()
        else:
            m.finish()
            assert m.vm.cache.state.evictions > 2
        states.append(m.state())
    assert states[0] == states[1]
    small_cache.vm.close()


def device_write(m: SmallMachine, address: int, data: bytes) -> None:
    assert m.vm.memory.write(address, data)


def device_loan(m: SmallMachine, address: int, data: bytes) -> None:
    """As a device does that reads a file straight into guest memory."""
    loan = m.vm.memory.lend_for_writing(address, len(data) + 100)
    assert loan is not None
    loan.views[0][: len(data)] = data
    loan.end(len(data))


def native_device(m: SmallMachine, address: int, data: bytes) -> None:
    """As native device code does, with host addresses."""
    routine, memory = memory_routines(), m.vm.memory
    ranges = ctypes.create_string_buffer(HOST_RANGE.size)
    count = routine("gather", 6)(memory.address, address, len(data), 1, ctypes.addressof(ranges), 1)
    assert count == 1
    ctypes.memmove(HOST_RANGE.over(ranges).address, data, len(data))
    routine("note_written", 3)(memory.address, address, len(data))


@pytest.mark.parametrize("write", [device_write, device_loan, native_device])
@pytest.mark.parametrize("alias", [False, True])
def test_a_device_writes_where_code_was_translated(
    write: Callable[[SmallMachine, int, bytes], None], alias: bool
) -> None:
    """After FENCE.I the new code runs, also if the device names the page by another address."""
    m = machine()
    code = Code().li(10, ROUTINE).li(13, 3).label("again")("jalr", rd=1, rs1=10, imm=0)
    code("lui", rd=31, imm=END)("sw", rs1=31, rs2=6, imm=0)("fence.i")
    code("jal", rd=0, to="again")
    m.load(code)
    routine = Code(ROUTINE)("addi", rd=6, rs1=0, imm=1)("jalr", rd=0, rs1=1, imm=0)
    m.load(routine)
    elsewhere = 0x4000_0000
    if alias:
        m.vm.set_memory_slot(RamRegion(elsewhere, PAGE, m.ram, ROUTINE - BASE))
    try:
        assert m.finish() == 1
        for value in (2, 3, 4):
            m.vcpu.complete(0)
            write(m, elsewhere if alias else ROUTINE, word(6, value).to_bytes(4, "little"))
            assert m.finish() == value
    finally:
        m.vm.remove_memory_slot(elsewhere)
