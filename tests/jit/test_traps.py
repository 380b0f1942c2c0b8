"""Every trap is precise: in the middle of a block as when single-stepped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tandemu.accel import MmioRead, MmioWrite
from tandemu.isa.riscv import state as riscv
from tests.jit.page_tables import RWX, RX, A, D, PageTable, R, U, V
from tests.jit.small_machine import BASE, END, PAGE, Code, SmallMachine, State, machine

HANDLER = BASE + 0x40000
USER, SUPERVISOR, MACHINE = 0, 1, 3
VIRTUAL = 0x40_0000_0000 - (1 << 20)
"""Where the program lies for S and U mode: the last part of Sv39's lower half."""
NOWHERE = 0x2000_0000
"""No RAM: an exit, answered with a bus error."""

Fault = Callable[[Code], None]


def load_from(address: int, name: str = "ld") -> Fault:
    return lambda code: void(code.li(10, address)(name, rd=11, rs1=10, imm=0))


def store_to(address: int, name: str = "sd") -> Fault:
    return lambda code: void(code.li(10, address)(name, rs1=10, rs2=3, imm=0))


def atomic(address: int, name: str = "amoadd.d") -> Fault:
    def emit(code: Code) -> None:
        operands = {"rd": 11, "rs1": 10}
        if not name.startswith("lr"):
            operands["rs2"] = 3
        code.li(10, address)(name, **operands)

    return emit


def jump_to(address: int) -> Fault:
    return lambda code: void(code.li(10, address)("jalr", rd=1, rs1=10, imm=0))


def void(code: Code) -> None:
    pass


def plain(name: str, **operands: int) -> Fault:
    return lambda code: void(code(name, **operands))


def raw(value: int, size: int) -> Fault:
    return lambda code: void(code.raw(value, size))


ILLEGAL = {
    "illegal word": (raw(0xFFFFFFFF, 4), 0xFFFFFFFF),
    "reserved encoding": (raw(0x0000307F, 4), 0x307F),
    "zero half": (raw(0, 2), 0),
    "reserved half": (raw(0x6101 & ~0x107C | 0x0001 << 0, 2), 0x6101 & ~0x107C | 1),
    "csr that does not exist": (plain("csrrs", rd=1, csr=0x7FF, rs1=0), 0x7FF020F3),
    "read-only csr": (plain("csrrw", rd=0, csr=0xC00, rs1=0), 0xC0001073),
}
ANYWHERE: dict[str, tuple[Fault, int, int | None]] = {
    **{name: (fault, 2, value) for name, (fault, value) in ILLEGAL.items()},
    "breakpoint": (plain("ebreak"), 3, None),
    "short breakpoint": (plain("c.ebreak"), 3, None),
}
MACHINE_ONLY: dict[str, tuple[Fault, int, int | None]] = {
    "call": (plain("ecall"), 11, 0),
    "load fault": (load_from(NOWHERE), 5, NOWHERE),
    "byte load fault": (load_from(NOWHERE + 3, "lb"), 5, NOWHERE + 3),
    "float load fault": (
        lambda code: void(code.li(10, NOWHERE)("fld", rd=1, rs1=10, imm=8)),
        5,
        NOWHERE + 8,
    ),
    "store fault": (store_to(NOWHERE), 7, NOWHERE),
    "atomic on a device": (atomic(NOWHERE), 7, NOWHERE),
    "conditional store on a device": (atomic(NOWHERE, "sc.w"), 7, NOWHERE),
    "reserved load from a device": (atomic(NOWHERE, "lr.d"), 5, NOWHERE),
    "misaligned atomic": (atomic(BASE + 0x8004), 6, BASE + 0x8004),
    "misaligned short atomic": (atomic(BASE + 0x8002, "amoswap.w"), 6, BASE + 0x8002),
    "misaligned reserved load": (atomic(BASE + 0x8004, "lr.d"), 4, BASE + 0x8004),
    "misaligned conditional store": (atomic(BASE + 0x8001, "sc.w"), 6, BASE + 0x8001),
    "zero a device": (
        lambda code: void(code.li(10, NOWHERE + 64)("cbo.zero", rs1=10)),
        7,
        NOWHERE + 64,
    ),
    "code at a device": (jump_to(END), 1, END),
    "code nowhere": (jump_to(NOWHERE), 1, NOWHERE),
    "code at an odd address": (jump_to(NOWHERE + 1), 1, NOWHERE),
}
UNMAPPED, READ_ONLY, KERNEL_PAGE = 0x1000, 0x2000, 0x3000
BELOW: dict[str, tuple[Fault, int, int | None]] = {
    "load page fault": (load_from(UNMAPPED), 13, UNMAPPED),
    "store page fault": (store_to(UNMAPPED), 15, UNMAPPED),
    "store to what may be read": (store_to(READ_ONLY), 15, READ_ONLY),
    "atomic on what may be read": (atomic(READ_ONLY), 15, READ_ONLY),
    "reserved load page fault": (atomic(UNMAPPED, "lr.w"), 13, UNMAPPED),
    "load across into nothing": (load_from(KERNEL_PAGE + PAGE - 3), 13, KERNEL_PAGE + PAGE),
    "store across into nothing": (store_to(KERNEL_PAGE + PAGE - 3), 15, KERNEL_PAGE + PAGE),
    "store across from what may be read": (
        store_to(READ_ONLY + PAGE - 3),
        15,
        READ_ONLY + PAGE - 3,
    ),
    "code page fault": (jump_to(UNMAPPED), 12, UNMAPPED),
    "code that may not run": (jump_to(READ_ONLY), 12, READ_ONLY),
    "not canonical": (load_from(1 << 40), 13, 1 << 40),
    "code not canonical": (jump_to(1 << 40), 12, 1 << 40),
    "zero what may be read": (
        lambda code: void(code.li(10, READ_ONLY)("cbo.zero", rs1=10)),
        15,
        READ_ONLY,
    ),
    "return of machine mode": (plain("mret"), 2, 0x30200073),
    "machine register": (plain("csrrs", rd=1, csr=0x300, rs1=0), 2, 0x300020F3),
}


def test_zeroing_is_forbidden_to_user_mode() -> None:
    """Without CBZE it is illegal, and never done again and again for its address's sake."""
    m = machine()
    fault = load_from(KERNEL_PAGE, "lb")
    for step in (False, True):

        def zero(code: Code) -> None:
            fault(code)
            code("cbo.zero", rs1=10)

        place(m, zero, USER, False, 3)
        m.vcpu.set("senvcfg", 0)
        state = until_end(m, step)
        assert dict(state.csrs)["mcause"] == 2
        assert dict(state.csrs)["mtval"] == 0x0045200F


def program(fault: Fault, base: int) -> Code:
    """Work, the fault, more work."""
    code = Code(base)
    for index in range(1, 8):
        code("addi", rd=index, rs1=index, imm=index)("c.addi", rd=index, imm=1)
    fault(code)
    for index in range(1, 8):
        code("addi", rd=index, rs1=0, imm=0)
    return code.finish()


def place(m: SmallMachine, fault: Fault, mode: int, delegated: bool, levels: int) -> None:
    m.reset()
    m.open_pmp()
    base = BASE if mode == MACHINE else VIRTUAL
    code = program(fault, base)
    m.write(BASE, code.build())
    number = 0x142 if delegated else 0x342
    handler = HANDLER if not delegated else VIRTUAL + 0x40000
    trap = Code(handler)("csrrs", rd=30, csr=number, rs1=0).finish(30)
    m.write(HANDLER, trap.build())
    m.vcpu.set("stvec" if delegated else "mtvec", handler)
    if mode != MACHINE:
        user = U if mode == USER else 0
        table = PageTable(m, levels)
        for page in range(2):
            table.map(VIRTUAL + page * PAGE, BASE + page * PAGE, RX | user)
        table.map(VIRTUAL + 0x40000, HANDLER, RX)
        table.map(END, END, RWX)
        table.map(READ_ONLY, BASE + 0x8000, V | R | A | user)
        table.map(KERNEL_PAGE, BASE + 0x9000, RWX | D | user)
        m.vcpu.set("satp", table.satp())
        if delegated:
            m.vcpu.set("medeleg", 0xB3FF)
        m.vcpu.set("menvcfg", 0xF0 | 1 << 61)
        m.vcpu.set("senvcfg", 0xF0)
    m.vcpu.set("privilege", mode)
    m.vcpu.set("pc", base)


def until_end(m: SmallMachine, step: bool) -> State:
    """Run to the end of test; accesses to nowhere are bus errors."""
    for _ in range(200):
        leaving = m.vcpu.step() if step else m.run()
        if isinstance(leaving, MmioRead | MmioWrite):
            if leaving.address == END:
                return m.state(64)
            m.vcpu.complete(None)
    raise AssertionError(f"it does not end: {m.state()}")


CASES = [
    pytest.param(mode, fault, cause, value, id=f"{'USxM'[mode]}-{name}")
    for mode, table in (
        (MACHINE, {**ANYWHERE, **MACHINE_ONLY}),
        (SUPERVISOR, {**ANYWHERE, **BELOW, "call": (plain("ecall"), 9, 0)}),
        (USER, {**ANYWHERE, **BELOW, "call": (plain("ecall"), 8, 0)}),
    )
    for name, (fault, cause, value) in table.items()
]


@pytest.mark.parametrize(("mode", "fault", "cause", "value"), CASES)
@pytest.mark.parametrize("delegated", [False, True])
def test_trap(mode: int, fault: Fault, cause: int, value: int | None, delegated: bool) -> None:
    if mode == MACHINE and delegated:
        pytest.skip("traps of machine mode stay there")
    m = machine()
    for levels in (3, 4):
        place(m, fault, mode, delegated, levels)
        translated = until_end(m, step=False)
        place(m, fault, mode, delegated, levels)
        assert translated == until_end(m, step=True)
        csrs = dict(translated.csrs)
        letter = "s" if delegated else "m"
        assert csrs[f"{letter}cause"] == cause
        assert csrs[f"{letter}tval"] == (csrs[f"{letter}epc"] if value is None else value)
        assert translated.x[2:8] == tuple(index + 1 for index in range(2, 8))


@pytest.mark.parametrize("offset", [PAGE - 2, PAGE - 4, PAGE - 6])
def test_an_instruction_half_on_a_page_that_faults(offset: int) -> None:
    """The trap value is where the second half would be, the program counter the first."""
    m = machine()
    for step in (False, True):
        m.reset()
        m.open_pmp()
        m.load(Code(HANDLER)("csrrs", rd=30, csr=0x342, rs1=0).finish(30))
        m.vcpu.set("mtvec", HANDLER)
        table = PageTable(m)
        table.map(VIRTUAL, BASE, RX)
        m.vcpu.set("satp", table.satp())
        m.vcpu.set("privilege", SUPERVISOR)
        code = Code(VIRTUAL)("jal", rd=0, imm=offset)
        while code.here < VIRTUAL + offset:
            code("c.nop")
        while code.here <= VIRTUAL + PAGE:
            code("addi", rd=1, rs1=1, imm=1)
        m.write(BASE, code.build())
        m.vcpu.set("pc", VIRTUAL)
        state = until_end(m, step)
        csrs = dict(state.csrs)
        straddles = offset % 4 == 2
        assert csrs["mcause"] == riscv.INSTRUCTION_PAGE_FAULT
        assert csrs["mtval"] == VIRTUAL + PAGE
        assert csrs["mepc"] == VIRTUAL + PAGE - 2 * straddles
        assert state.x[1] == (PAGE - offset) // 4


@pytest.mark.parametrize("name", ["c.fld", "c.fsd", "fld", "fadd.d", "c.fldsp"])
def test_floating_point_is_off(name: str) -> None:
    """Illegal while FS is Off, whatever was translated before; the value is the encoding."""
    m = machine()
    operands = {"rd": 8, "rs1": 9, "imm": 8} if name == "c.fld" else {}
    operands = {"rs2": 8, "rs1": 9, "imm": 8} if name == "c.fsd" else operands
    operands = {"rd": 8, "imm": 8} if name == "c.fldsp" else operands
    operands = operands or {"rd": 8, "rs1": 9}
    states = []
    for step in (False, True):
        m.reset().load(Code(HANDLER).finish(30))
        code = Code().li(9, BASE + 0x8000).li(2, BASE + 0x8000).li(10, riscv.FS)
        code("csrrc", rd=0, csr=0x300, rs1=10)("addi", rd=5, rs1=0, imm=5)
        where = code.here
        code(name, **operands)("addi", rd=5, rs1=0, imm=6)
        m.load(code)
        m.vcpu.set("mtvec", HANDLER)
        states.append(until_end(m, step))
        csrs = dict(states[-1].csrs)
        size = 2 if name.startswith("c.") else 4
        start = where - BASE
        assert csrs["mtval"] == int.from_bytes(code.bytes[start : start + size], "little")
        assert (csrs["mcause"], csrs["mepc"]) == (2, where)
        assert states[-1].x[5] == 5
    assert states[0] == states[1]


@pytest.mark.parametrize("name", ["lb", "lbu", "lh", "lhu", "lw", "lwu", "ld", "flw", "fld"])
def test_reading_a_device(name: str) -> None:
    """Sizes of accesses, extension of answers; interrupted where the access is."""
    m = machine()
    states = []
    for step in (False, True):
        m.reset()
        code = Code().li(10, NOWHERE)("addi", rd=1, rs1=0, imm=7)
        code(name, rd=2, rs1=10, imm=8)("addi", rd=3, rs1=1, imm=1).finish()
        m.load(code)
        while True:
            leaving = m.vcpu.step() if step else m.run()
            if isinstance(leaving, MmioRead):
                size = {"b": 1, "h": 2, "w": 4, "d": 8}[name.lstrip("f")[1]]
                assert leaving == MmioRead(NOWHERE + 8, size)
                m.vcpu.complete((0xF1F2F3F4F5F6F7F8) & ((1 << 8 * size) - 1))
            if isinstance(leaving, MmioWrite):
                break
        states.append(m.state())
    assert states[0] == states[1]
    assert states[0].x[3] == 8


@pytest.mark.parametrize("name", ["sb", "sh", "sw", "sd", "fsw", "fsd"])
def test_writing_a_device(name: str) -> None:
    m = machine()
    value = 0x1122334455667788
    m.load(Code().li(10, NOWHERE).li(5, value)("fmv.d.x", rd=5, rs1=5)(name, rs1=10, rs2=5, imm=8))
    leaving = m.run()
    size = {"b": 1, "h": 2, "w": 4, "d": 8}[name.lstrip("f")[1]]
    assert leaving == MmioWrite(NOWHERE + 8, size, value & ((1 << 8 * size) - 1))


@pytest.mark.parametrize("name", ["sfence.w.inval", "sfence.inval.ir", "sfence.vma", "fence.i"])
def test_what_ends_a_block_goes_on_behind_it(name: str) -> None:
    """Whether or not it leaves the engine anything to do."""
    m = machine()
    m.load(Code()("addi", rd=1, rs1=0, imm=1)(name)("addi", rd=1, rs1=1, imm=2).finish(1))
    assert m.finish() == 3
