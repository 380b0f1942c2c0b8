"""Accesses that the host refuses in compiled regions of a foreign program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tandemu.isa.riscv import state as riscv
from tests.jit.optimised import FirstTouch
from tests.jit.random_program import READ_ONLY, VIRTUAL, WALK, GuestMemory
from tests.jit.small_machine import BASE, PAGE, Code
from tests.jit.user_bed import SEEN, user_bed

SHIFT = VIRTUAL - BASE
MANY = range(5, 29)
"""More registers than the host has."""


class Written:
    """A program written by hand, on its first page."""

    def __init__(self, code: Code) -> None:
        self._code = code.build()

    def place(self, memory: GuestMemory) -> None:
        memory.write(BASE + PAGE, self._code)

    def begin(self, cpu: Any) -> None:
        for number in range(1, 32):
            cpu.x[number] = number * 0x0123_4567_89AB_CDEF & (1 << 64) - 1
            cpu.f[number] = 0
        cpu.frm = cpu.fflags = 0
        cpu.pc = VIRTUAL


def many_registers() -> Code:
    """A loop over all registers that comes to the end of a page."""
    code = Code(VIRTUAL).li(1, WALK + SHIFT + PAGE - 8 * 60).li(2, 70).label("turn")
    for number in MANY:
        following = number + 1 if number + 1 in MANY else MANY[0]
        code("add", rd=number, rs1=number, rs2=following)
    code("ld", rd=29, rs1=1, imm=0)("xor", rd=5, rs1=5, rs2=29)
    for number in MANY:
        code("slli", rd=30, rs1=number, imm=3)("xor", rd=number, rs1=number, rs2=30)
    code("addi", rd=1, rs1=1, imm=8)("addi", rd=2, rs1=2, imm=-1)
    return code("bne", to="turn", rs1=2, rs2=0).finish(5)


def atomics(address: int) -> Code:
    """A loop with an atomic that the host does with several instructions."""
    code = Code(VIRTUAL).li(1, address + SHIFT).li(2, 40).label("turn")
    code("addi", rd=5, rs1=5, imm=1)("addi", rd=6, rs1=6, imm=3)
    code("amoxor.d", rd=7, rs1=1, rs2=6)("addi", rd=2, rs1=2, imm=-1)
    return code("bne", to="turn", rs1=2, rs2=0).finish(5)


@pytest.mark.parametrize(
    ("make", "traps"),
    [
        pytest.param(many_registers, 10, id="many registers"),
        pytest.param(lambda: atomics(READ_ONLY), 40, id="atomic on what may be read"),
        pytest.param(lambda: atomics(WALK + PAGE), 40, id="atomic on nothing"),
        pytest.param(lambda: atomics(WALK), 0, id="atomic"),
    ],
)
def test_a_refused_access_is_a_fault(make: Callable[[], Code], traps: int) -> None:
    """It leaves with the registers as stencils have them, and the program goes on."""
    bed, program = user_bed(), Written(make())
    expected = bed.run(program, (1 << 16,), None)
    assert len(expected.traps) == traps
    assert {trap.cause for trap in expected.traps} <= {
        riscv.LOAD_PAGE_FAULT,
        riscv.STORE_PAGE_FAULT,
    }
    for level in (1, 2):
        regions = FirstTouch(64, (level,))
        for _ in range(2):
            assert bed.run(program, (64, 130), regions.touch) == expected
        assert regions.installed


def test_a_signalling_nan_that_is_only_moved_raises_nothing() -> None:
    """Loaded in one block, stored in another: it is not arithmetic's, and is not looked at."""
    signalling = 0x7FF0_0000_0000_0001
    code = Code(VIRTUAL).li(1, WALK + SHIFT).li(2, signalling).li(3, 40)
    code("sd", rs1=1, rs2=2, imm=0).label("turn")
    code("fld", rd=1, rs1=1, imm=0)("blt", to="on", rs1=0, rs2=3)(
        "fadd.d", rd=1, rs1=2, rs2=2, rm=7
    )
    code.label("on")("fsd", rs1=1, rs2=1, imm=8)("addi", rd=3, rs1=3, imm=-1)
    code("bne", to="turn", rs1=3, rs2=0)("csrrs", rd=4, csr=1, rs1=0)("ecall").finish()
    bed, program = user_bed(), Written(code)
    for precise in (True, False):
        bed.engine.precise = precise
        for level in (1, 2):
            regions = FirstTouch(64, (level,))
            for touch in (None, regions.touch, regions.touch):
                (trap,) = bed.run(program, (64, 130), touch).traps
                assert trap.registers[SEEN.index(4)] == 0
    bed.engine.precise = True
