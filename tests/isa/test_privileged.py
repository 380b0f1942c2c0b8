"""Traps, delegation, interrupts and the privileged instructions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandemu.bits import mask
from tandemu.isa import effects
from tandemu.isa.riscv import state
from tests.isa.hart_machine import CALLED, RAISED, Machine, machine

M_VECTOR, S_VECTOR, PC = 0x8000_1000, 0x8000_2000, 0x8000_0104
EXCEPTIONS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15)


@pytest.fixture(params=[(64, False), (64, True), (32, False), (32, True)], ids=str)
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine_ = machine(*request.param).fresh()
    machine_.hart.mtvec, machine_.hart.stvec, machine_.hart.pc = M_VECTOR, S_VECTOR, PC
    yield machine_


@pytest.mark.parametrize("privilege", [0, 1, 3])
@pytest.mark.parametrize("cause", EXCEPTIONS)
def test_exceptions(m: Machine, cause: int, privilege: int) -> None:
    for delegated in (False, True):
        m.hart.medeleg = 1 << cause if delegated else 0
        m.hart.pc, m.hart.privilege = PC, privilege
        status = m.hart.mstatus = state.MIE | state.SIE | state.SUM
        m.hart.reservation_address = 0x8000_0000
        m.taken_effects()
        m.call("take_trap", cause, -2)
        assert m.hart.reservation_address == state.NO_RESERVATION
        assert m.taken_effects() & effects.MODE
        if delegated and privilege < 3:
            assert (m.hart.scause, m.hart.stval) == (cause, mask(m.xlen) - 1)
            assert (m.hart.sepc, m.hart.pc, m.hart.privilege) == (PC, S_VECTOR, 1)
            expected = status & ~state.SIE | state.SPIE | (state.SPP if privilege else 0)
        else:
            assert (m.hart.mcause, m.hart.mtval) == (cause, mask(m.xlen) - 1)
            assert (m.hart.mepc, m.hart.pc, m.hart.privilege) == (PC, M_VECTOR, 3)
            expected = status & ~state.MIE | state.MPIE | privilege << state.MPP_LOW
        assert m.hart.mstatus == expected


def test_vectored_interrupts(m: Machine) -> None:
    flag = 1 << (m.xlen - 1)
    m.hart.mtvec |= 1
    m.hart.stvec |= 1
    m.hart.mideleg = state.SUPERVISOR_INTERRUPTS
    m.hart.privilege = 1
    m.call("take_trap", flag | 9, 0)
    assert (m.hart.pc, m.hart.scause, m.hart.privilege) == (S_VECTOR + 36, flag | 9, 1)
    m.call("take_trap", flag | 7, 0)
    assert (m.hart.pc, m.hart.mcause, m.hart.privilege) == (M_VECTOR + 28, flag | 7, 3)
    # A delegated interrupt cannot come to pass in machine mode; exceptions are direct.
    m.call("take_trap", 2, 0)
    assert m.hart.pc == M_VECTOR


def test_interrupt_priority(m: Machine) -> None:
    m.hart.mie = m.hart.mip = state.ALL_INTERRUPTS
    m.hart.mstatus = state.MIE
    for number in (11, 3, 7, 9, 1, 5):
        assert m.call("pending_interrupt") == number
        m.hart.mip &= ~(1 << number)
    assert m.call("pending_interrupt") == -1
    m.hart.mip_seip = state.SEIP
    assert m.call("pending_interrupt") == 9
    m.hart.mie = 0
    assert m.call("pending_interrupt") == -1


@pytest.mark.parametrize(
    ("privilege", "status", "expected"),
    [
        (3, 0, -1),
        (3, state.MIE, 7),
        (3, state.SIE, -1),
        (1, 0, 7),
        (1, state.SIE, 7),
        (0, 0, 7),
    ],
)
def test_which_level_takes_an_interrupt(
    m: Machine, privilege: int, status: int, expected: int
) -> None:
    m.hart.mideleg = state.SUPERVISOR_INTERRUPTS
    m.hart.mie = state.ALL_INTERRUPTS
    m.hart.mip = state.MTIP | state.SEIP
    m.hart.privilege, m.hart.mstatus = privilege, status
    assert m.call("pending_interrupt") == expected
    m.hart.mip = state.STIP | state.SSIP
    supervisor = privilege == 0 or (privilege == 1 and status == state.SIE)
    assert m.call("pending_interrupt") == (1 if supervisor else -1)


def test_what_wakes_a_waiting_hart(m: Machine) -> None:
    m.hart.mstatus, m.hart.mideleg = 0, state.SUPERVISOR_INTERRUPTS
    m.hart.mip, m.hart.mie = state.STIP, state.SEIP
    assert not m.call("wakes")
    m.hart.mie |= state.STIP
    assert m.call("wakes")
    assert m.call("pending_interrupt") == -1


def test_the_first_floating_point_instruction(m: Machine) -> None:
    assert m.call("enter_float") == 1
    m.hart.mstatus = 1 << state.FS_LOW
    assert m.call("enter_float") == 0
    assert (m.hart.mstatus, m.hart.float_slow) == (state.FS, 0)
    m.hart.frm = 4
    assert m.call("enter_float") == 0
    assert m.hart.float_slow == 1


def test_mret(m: Machine) -> None:
    for privilege in (0, 1, 3):
        for enabled in (0, state.MPIE):
            m.hart.privilege, m.hart.mepc = 3, 0x8000_4002
            kept = state.SIE | state.MPRV
            m.hart.mstatus = kept | enabled | privilege << state.MPP_LOW
            assert m.execute("mret") == 0
            assert (m.hart.privilege, m.hart.pc, m.hart.jumped) == (privilege, 0x8000_4002, 1)
            expected = state.SIE | state.MPIE | (state.MIE if enabled else 0)
            assert m.hart.mstatus == expected | (state.MPRV if privilege == 3 else 0)
            assert m.taken_effects() == effects.MODE | effects.INTERRUPTS


def test_sret(m: Machine) -> None:
    for privilege in (1, 3):
        for previous in (0, state.SPP):
            for enabled in (0, state.SPIE):
                m.hart.privilege, m.hart.sepc = privilege, 0x8000_4002
                m.hart.mstatus = state.MPRV | previous | enabled
                assert m.execute("sret") == 0
                assert (m.hart.privilege, m.hart.pc) == (1 if previous else 0, 0x8000_4002)
                assert m.hart.mstatus == state.SPIE | (state.SIE if enabled else 0)


# Instruction, and the least privilege for it: as is, and with TVM, TW and TSR set.
PRIVILEGES = [
    ("mret", 3, 3),
    ("sret", 1, 3),
    ("wfi", 1, 3),
    ("sfence.vma", 1, 3),
    ("sinval.vma", 1, 3),
    ("sfence.w.inval", 1, 1),
    ("sfence.inval.ir", 1, 1),
    ("fence.i", 0, 0),
]


@pytest.mark.parametrize(("name", "least", "trapped"), PRIVILEGES)
def test_privilege_of_instructions(m: Machine, name: str, least: int, trapped: int) -> None:
    for status, limit in ((0, least), (state.TVM | state.TW | state.TSR, trapped)):
        for privilege in (0, 1, 3):
            m.hart.privilege, m.hart.mstatus = privilege, status
            outcome = m.execute(name, word=0x1234_5677)
            assert outcome == (0 if privilege >= limit else RAISED)
            if outcome:
                assert (m.hart.raised_cause, m.hart.raised_tval) == (2, 0x1234_5677)
                assert m.hart.privilege == privilege


def test_fences_leave_their_operands(m: Machine) -> None:
    for index1, index2, kind in ((0, 0, 0), (1, 0, 1), (0, 2, 2), (1, 2, 3)):
        m.execute("sfence.vma", rs1=0x8765_4321, rs2=0x1_0007, rs1_index=index1, rs2_index=index2)
        assert m.taken_effects() == effects.FENCE
        assert (m.hart.fence_kind, m.hart.fence_address) == (kind, 0x8765_4321)
        assert m.hart.fence_asid == 7
    m.execute("fence.i")
    assert m.taken_effects() == effects.INSTRUCTIONS
    m.execute("wfi")
    assert m.taken_effects() == effects.WAIT


def test_calls_and_breakpoints(m: Machine) -> None:
    for privilege, cause in ((0, 8), (1, 9), (3, 11)):
        for firmware in (0, 1):
            m.hart.privilege = privilege
            outcome = m.execute("ecall", firmware=firmware)
            if firmware and privilege == 1:
                assert outcome == CALLED
            else:
                assert outcome == RAISED
                assert (m.hart.raised_cause, m.hart.raised_tval) == (cause, 0)
    assert m.execute("ebreak") == RAISED
    assert (m.hart.raised_cause, m.hart.raised_tval) == (3, PC)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("cbo.inval", state.CBIE),
        ("cbo.clean", state.CBCFE),
        ("cbo.flush", state.CBCFE),
        ("cbo.zero", state.CBZE),
    ],
)
def test_cache_instructions_need_leave(m: Machine, name: str, field: int) -> None:
    m.hart.pmp_open = 1
    for privilege in (0, 1, 3):
        for machine_bits, supervisor_bits in ((0, 0), (0, field), (field, 0), (field, field)):
            m.hart.privilege = privilege
            m.hart.menvcfg, m.hart.senvcfg = machine_bits, supervisor_bits
            allowed = privilege == 3 or (machine_bits and (privilege == 1 or supervisor_bits))
            assert m.execute(name, rs1=0x8000_0000) == (0 if allowed else RAISED)


def test_cache_instructions_do_their_work(m: Machine) -> None:
    for index in range(8):
        m.hart.stores[index] = mask(64)
    m.execute("cbo.zero", rs1=0x8000_0033)
    assert list(m.hart.stores) == [0] * 8
    # Management traps as a store would, and only where not even a load could go.
    m.hart.pmp_open = 1
    m.hart.menvcfg, m.hart.privilege = state.CBCFE, 1
    m.hart.satp = (8 << 60 if m.xlen == 64 else 1 << 31) | 0x80000
    assert m.execute("cbo.clean", rs1=0x1234) == RAISED
    assert (m.hart.raised_cause, m.hart.raised_tval) == (15, 0x1234)


def test_state_handed_over_by_firmware() -> None:
    m = machine(64, False).fresh(firmware_calls=True, pc=0x8020_0000)
    assert (m.hart.privilege, m.hart.pc, m.hart.x[10]) == (1, 0x8020_0000, 3)
    assert m.hart.pmp_open and m.hart.firmware_calls
    assert m.csr("time") is not None
    assert m.csr("stimecmp") == mask(64)
    m.call("take_trap", 13, 0)
    assert m.hart.privilege == 1
