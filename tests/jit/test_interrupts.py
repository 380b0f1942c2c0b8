"""Counts, interrupts, waiting, kicks; and two harts at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tandemu.accel import Exit, Fence, Interrupted, MmioWrite
from tandemu.isa.riscv import state as riscv
from tests.jit.small_machine import BASE, END, PAGE, Code, SmallMachine, machine

HANDLER = BASE + 8 * PAGE
COUNTER = BASE + 16 * PAGE
PATIENCE_S = 20.0


def endless(m: SmallMachine) -> None:
    m.load(Code()("jal", rd=0, imm=0))


def endless_traps(m: SmallMachine) -> None:
    m.load(Code()("ecall"))
    m.vcpu.set("mtvec", BASE)


def endless_faults(m: SmallMachine) -> None:
    m.vcpu.set("mtvec", 0x100)
    m.vcpu.set("pc", 0x200)


def endless_links(m: SmallMachine) -> None:
    m.load(Code()("jal", rd=0, imm=PAGE))
    m.load(Code(BASE + PAGE)("fence.i")("jal", rd=0, imm=-PAGE - 4))


def waiting(m: SmallMachine) -> None:
    m.load(Code()("wfi")("jal", rd=0, imm=-4))


@contextmanager
def running(m: SmallMachine, hart: int = 0) -> Iterator[list[Exit]]:
    """Run a hart on a thread of its own; its exit, at the end."""
    exits: list[Exit] = []
    thread = threading.Thread(target=lambda: exits.append(m.harts[hart].run()))
    thread.start()
    yield exits
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


LOOPS = [endless, endless_traps, endless_faults, endless_links, waiting]


@pytest.mark.parametrize("loop", LOOPS)
def test_kick(loop: Callable[[SmallMachine], None]) -> None:
    m = machine()
    loop(m)
    with running(m) as exits:
        time.sleep(0.01)
        m.vcpu.kick()
    assert exits == [Interrupted()]
    # One that comes before is not lost.
    m.vcpu.kick()
    assert m.vcpu.run() == Interrupted()


@pytest.mark.parametrize("loop", LOOPS)
def test_interrupt_of_another_thread(loop: Callable[[SmallMachine], None]) -> None:
    if loop in (endless_traps, endless_faults):
        pytest.skip("its handler is the loop")
    m = machine()
    loop(m)
    m.load(Code(HANDLER)("csrrs", rd=30, csr=0x342, rs1=0).finish(30))
    m.vcpu.set("mtvec", HANDLER)
    m.vcpu.set("mie", riscv.MEIP)
    m.vcpu.set("mstatus", riscv.MIE | riscv.FS)
    with running(m) as exits:
        time.sleep(0.01)
        m.vcpu.set_interrupt(11, True)
    assert exits == [MmioWrite(END, 4, 11)]
    assert BASE <= m.cpu.mepc <= BASE + PAGE + 4


def test_waiting_for_the_timer() -> None:
    m = machine()
    m.load(Code()("wfi")("csrrs", rd=5, csr=0xC01, rs1=0).finish(5))
    m.vcpu.set("mie", riscv.MTIP)
    due = m.vm.time() + 100_000
    m.vcpu.set("mtimecmp", due)
    m.finish()
    assert m.cpu.x[5] >= due
    assert m.vcpu.waits >= 1


def test_waiting_for_what_software_made_pending() -> None:
    """SEIP as software wrote it ends WFI as the wire does."""
    m = machine()
    code = Code().li(5, riscv.SEIP)("csrrs", rd=0, csr=0x304, rs1=5)
    m.load(code("csrrs", rd=0, csr=0x344, rs1=5)("wfi").finish(5))
    assert m.finish() == riscv.SEIP


def test_traps_and_exits_retire_nothing() -> None:
    """minstret counts what ran, whether it is stepped or not, and across both."""
    counts = []
    for mode in ("run", "step", "both"):
        m = machine()
        handler = Code(HANDLER)("csrrs", rd=6, csr=0x341, rs1=0)("addi", rd=6, rs1=6, imm=4)
        m.load(handler("csrrw", rd=0, csr=0x341, rs1=6)("mret"))
        code = Code().li(5, HANDLER)("csrrw", rd=0, csr=0x305, rs1=5).li(8, END)
        for _ in range(20):
            code("ecall")("addi", rd=1, rs1=1, imm=1)("sw", rs1=8, rs2=1, imm=4)
        code("csrrs", rd=7, csr=0xB02, rs1=0).finish(7)
        m.load(code)
        turn = 0
        while True:
            turn += 1
            step = mode == "step" or (mode == "both" and turn % 2 == 0)
            leaving = m.vcpu.step() if step else m.run()
            if isinstance(leaving, MmioWrite):
                if leaving.address == END:
                    break
                m.vcpu.complete(0)
        counts.append((m.cpu.x[7], m.instructions))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("step", [False, True])
def test_a_counter_that_is_written_has_that_value_for_the_next_instruction(step: bool) -> None:
    m = machine()
    code = Code().li(5, 1000)
    for counter, result in ((0xB02, 6), (0xB00, 7)):
        code("csrrw", rd=0, csr=counter, rs1=5)("csrrs", rd=result, csr=counter, rs1=0)
    code("csrrw", rd=0, csr=0xB02, rs1=5)("addi", rd=1, rs1=1, imm=1)
    code("csrrs", rd=8, csr=0xB02, rs1=0)
    m.load(code.finish(0))
    while not isinstance(m.vcpu.step() if step else m.run(), MmioWrite):
        pass
    assert (m.cpu.x[6], m.cpu.x[7], m.cpu.x[8]) == (1000, 1000, 1001)


def test_the_clock_goes_on_from_what_is_set() -> None:
    for ticks in (0, 1 << 40, (1 << 64) - 1):
        m = machine()
        m.vm.set_time(ticks)
        m.load(Code()("csrrs", rd=6, csr=0xC01, rs1=0).finish(6))
        m.finish()
        assert (m.cpu.x[6] - ticks) % (1 << 64) < 1 << 32
        assert (m.vm.time() - ticks) % (1 << 64) < 1 << 32


# Two harts ----------------------------------------------------------------------------------

ROUNDS = 20_000


def together(m: SmallMachine, programs: list[Code]) -> None:
    for number, code in enumerate(programs):
        m.load(code)
        m.harts[number].set("pc", code.base)
    with running(m, 1) as second:
        first = m.harts[0].run()
    for leaving in (first, *second):
        assert isinstance(leaving, MmioWrite)
        assert leaving.address == END


def counting(base: int, kind: str) -> Code:
    code = Code(base).li(10, COUNTER).li(11, ROUNDS).li(12, 1).label("again")
    if kind == "amo":
        code("amoadd.d", rd=0, rs1=10, rs2=12)
    elif kind == "reserved":
        code.label("retry")("lr.w", rd=5, rs1=10)("addi", rd=5, rs1=5, imm=1)
        code("sc.w", rd=6, rs1=10, rs2=5)("bne", to="retry", rs1=6, rs2=0)
    else:
        code("addi", rd=13, rs1=10, imm=64).label("retry")
        code("amoswap.w", rd=5, rs1=13, rs2=12, aq=1)("bne", to="retry", rs1=5, rs2=0)
        code("lw", rd=5, rs1=10, imm=0)("addi", rd=5, rs1=5, imm=1)("sw", rs1=10, rs2=5, imm=0)
        code("amoswap.w", rd=0, rs1=13, rs2=0, rl=1)
    return code("addi", rd=11, rs1=11, imm=-1)("bne", to="again", rs1=11, rs2=0).finish()


@pytest.mark.parametrize("kind", ["amo", "reserved", "lock"])
def test_counting_together(kind: str) -> None:
    m = machine(64, 2)
    together(m, [counting(BASE, kind), counting(BASE + PAGE, kind)])
    assert int.from_bytes(m.read(COUNTER, 4), "little") == 2 * ROUNDS


def test_passing_messages() -> None:
    """Data is there when the flag is; both harts in turn."""
    m = machine(64, 2)
    programs = []
    for number in range(2):
        code = Code(BASE + number * PAGE).li(10, COUNTER).li(11, 2000).label("again")
        code("addi", rd=5, rs1=5, imm=1)
        if number == 0:
            code("sd", rs1=10, rs2=5, imm=8)("fence", pred=1, succ=1)
            code("sd", rs1=10, rs2=5, imm=64).label("wait")
            code("ld", rd=6, rs1=10, imm=128)("bne", to="wait", rs1=6, rs2=5)
        else:
            code.label("wait")("ld", rd=6, rs1=10, imm=64)("bne", to="wait", rs1=6, rs2=5)
            code("fence", pred=2, succ=2)("ld", rd=7, rs1=10, imm=8)
            code("sub", rd=7, rs1=7, rs2=5)("or", rd=8, rs1=8, rs2=7)
            code("sd", rs1=10, rs2=5, imm=128)
        code("addi", rd=11, rs1=11, imm=-1)("bne", to="again", rs1=11, rs2=0)
        programs.append(code.finish(8))
    together(m, programs)
    assert m.harts[1].cpu.x[8] == 0


def test_fencing_a_hart_that_runs() -> None:
    m = machine()
    endless(m)
    with running(m) as exits:
        for number in range(20):
            m.vcpu.fence(Fence(start=BASE, size=PAGE * (number + 1)))
            m.vcpu.fence(Fence(instructions=True))
        m.vcpu.kick()
    assert exits == [Interrupted()]


def test_storing_to_what_another_hart_runs() -> None:
    """Data beside its code; each sees its own stores, and nobody stops."""
    m = machine(64, 2)
    reader = Code().li(11, ROUNDS).label("again")("addi", rd=11, rs1=11, imm=-1)
    reader("bne", to="again", rs1=11, rs2=0).finish()
    writer = Code(BASE + PAGE).li(10, BASE + 0x800).li(11, ROUNDS).label("again")
    writer("sd", rs1=10, rs2=11, imm=0)("ld", rd=5, rs1=10, imm=0)("add", rd=6, rs1=6, rs2=5)
    writer("addi", rd=11, rs1=11, imm=-1)("bne", to="again", rs1=11, rs2=0).finish(6)
    together(m, [reader, writer])
    assert m.harts[1].cpu.x[6] == ROUNDS * (ROUNDS + 1) // 2
