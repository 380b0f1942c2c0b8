"""Control and status registers: existence, masks, privilege, gates, the six instructions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandemu.bits import mask
from tandemu.isa import effects
from tandemu.isa.errors import IsaError
from tandemu.isa.riscv import state
from tandemu.isa.riscv.csr_table import csr_numbers, rows
from tests.isa.hart_machine import RAISED, Machine, machine


@pytest.fixture(params=[(64, False), (64, True), (32, False), (32, True)], ids=str)
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    yield machine(*request.param).fresh()


def at(xlen: int, wide: int, narrow: int) -> int:
    return wide if xlen == 64 else narrow


# What a register holds after zeroes and then ones are written, by name: (RV64, RV32).
WRITABLE = {
    "mstatus": (0x8000_000A_007E_79AA, 0x807E_79AA),
    "sstatus": (0x8000_0002_000C_6122, 0x800C_6122),
    "medeleg": (0xB3FF, 0xB3FF),
    "mideleg": (0x222, 0x222),
    "mie": (0xAAA, 0xAAA),
    "mip": (0x222, 0x222),
    "mcounteren": (0xFFFF_FFFF, 0xFFFF_FFFF),
    "scounteren": (0xFFFF_FFFF, 0xFFFF_FFFF),
    "mcountinhibit": (5, 5),
    "mscratch": (mask(64), mask(32)),
    "sscratch": (mask(64), mask(32)),
    "mepc": (mask(64) - 1, mask(32) - 1),
    "sepc": (mask(64) - 1, mask(32) - 1),
    "mcause": (mask(64), mask(32)),
    "scause": (mask(64), mask(32)),
    "mtval": (mask(64), mask(32)),
    "stval": (mask(64), mask(32)),
    # Mode 3 does not exist: what was there before stays.
    "mtvec": (0, 0),
    "stvec": (0, 0),
    "menvcfg": (0xA000_0000_0000_00F1, 0xF1),
    "senvcfg": (0xF1, 0xF1),
    "satp": (0, mask(32)),
    "stimecmp": (mask(64), mask(32)),
    "pmpaddr0": (mask(54), mask(32)),
    "pmpaddr15": (mask(54), mask(32)),
    "pmpcfg0": (0x9F9F_9F9F_9F9F_9F9F, 0x9F9F_9F9F),
    "pmpcfg2": (0x9F9F_9F9F_9F9F_9F9F, 0x9F9F_9F9F),
    "fflags": (0x1F, 0x1F),
    "frm": (7, 7),
    "fcsr": (0xFF, 0xFF),
    "mcycle": (mask(64), mask(32)),
    "minstret": (mask(64), mask(32)),
    "sie": (0, 0),
    "sip": (0, 0),
}


@pytest.mark.parametrize("name", WRITABLE)
def test_writable_bits(m: Machine, name: str) -> None:
    m.csr("mstatus", state.FS, 2)
    assert m.write(name, 0) is not None
    expected = at(m.xlen, *WRITABLE[name])
    assert m.write(name, -1) == expected
    if name in ("mtvec", "stvec", "satp") or name.startswith("pmp"):
        return
    assert m.csr(name, -1, 3) == expected
    m.hart.retired += 1
    always = {"mstatus": 0xA_0000_0000, "sstatus": 0x2_0000_0000}.get(name, 0)
    assert m.csr(name) == (always if m.xlen == 64 else 0)


READS = {
    "mvendorid": (0, 0),
    "marchid": (0, 0),
    "mimpid": (0, 0),
    "mhartid": (3, 3),
    "mconfigptr": (0, 0),
    "misa": (0x8000_0000_0014_112F, 0x4014_112F),
    "tselect": (0, 0),
    "tinfo": (1, 1),
    "mhpmcounter3": (0, 0),
    "mhpmevent31": (0, 0),
}


@pytest.mark.parametrize("name", READS)
def test_constant_registers(m: Machine, name: str) -> None:
    expected = at(m.xlen, *READS[name])
    assert m.csr(name) == expected
    written = m.write(name, -1)
    assert written == (None if csr_numbers(m.xlen)[name] >> 10 == 3 else expected)


def test_every_register_asks_for_its_privilege(m: Machine) -> None:
    m.registers.write_register(m.hart, "mcounteren", -1)
    m.registers.write_register(m.hart, "scounteren", -1)
    m.registers.write_register(m.hart, "menvcfg" if m.xlen == 64 else "menvcfgh", -1)
    m.registers.write_register(m.hart, "mstatus", state.FS)
    m.hart.message_file, m.hart.siselect = 1, 0x70
    for row in rows(m.xlen):
        for privilege in (state.USER, state.SUPERVISOR, state.MACHINE):
            m.hart.privilege = privilege
            assert (m.csr(row.number) is not None) == (privilege >= row.privilege), row.name
        # A set or clear of no bits is a write all the same, unless it comes from x0.
        assert (m.csr(row.number, 0, 2) is None) == row.read_only, row.name


def test_registers_that_do_not_exist(m: Machine) -> None:
    known = set(csr_numbers(m.xlen).values())
    for number in (0x015, 0x747, 0x600, 0x5A8, 0xDA0, 0x3B0 + 16, 0x30C, 0x008, 0x9999, 0xC20):
        assert number not in known
        assert m.csr(number) is None
    upper = ("menvcfgh", "mstatush", "cycleh", "pmpcfg1", "stimecmph", "mhpmcounter3h")
    for name in upper:
        assert (name in csr_numbers(m.xlen)) == (m.xlen == 32)
    if m.xlen == 64:
        assert m.csr(0x3A1) is None
        assert m.csr(0x31A) is None


def test_counters_are_gated_level_by_level(m: Machine) -> None:
    for name, bit in (("cycle", 0), ("time", 1), ("instret", 2), ("hpmcounter7", 7)):
        m.fresh()
        for machine_bit, supervisor_bit in ((0, 0), (1, 0), (0, 1), (1, 1)):
            m.hart.mcounteren, m.hart.scounteren = machine_bit << bit, supervisor_bit << bit
            m.hart.privilege = state.MACHINE
            assert m.csr(name) is not None
            m.hart.privilege = state.SUPERVISOR
            assert (m.csr(name) is not None) == bool(machine_bit)
            m.hart.privilege = state.USER
            assert (m.csr(name) is not None) == bool(machine_bit and supervisor_bit)


def test_counters_run_from_what_was_written(m: Machine) -> None:
    m.hart.retired, m.hart.clock = 100, 0x1_0000_0002
    assert m.csr("mcycle") == m.csr("cycle") == m.csr("instret") == 100
    assert m.csr("time") == at(m.xlen, 0x1_0000_0002, 2)
    assert m.write("minstret", 5) == 5
    m.hart.retired = 111
    assert (m.csr("instret"), m.csr("cycle")) == (15, 111)
    m.csr("mcountinhibit", 4, 2)
    m.hart.retired = 200
    assert (m.csr("instret"), m.csr("cycle")) == (15, 200)
    assert m.write("minstret", 40) == 40
    m.csr("mcountinhibit", 0, 1)
    m.hart.retired += 1
    assert m.csr("instret") == 41
    if m.xlen == 32:
        assert m.csr("timeh") == 1
        assert m.write("mcycleh", 7) == 7
        assert (m.csr("cycleh"), m.csr("cycle")) == (7, 202)
        assert m.write("mcycle", 3) == 3
        assert m.csr("cycleh") == 7


def test_floating_point_registers_need_fs_and_make_it_dirty(m: Machine) -> None:
    for name in ("fflags", "frm", "fcsr"):
        m.fresh()
        assert m.csr(name) is None
        # Natively, this process's own arithmetic has left flags: an engine clears them.
        m.hart.mstatus |= state.FS
        m.write("fflags", 0)
        m.hart.mstatus ^= 2 << state.FS_LOW
        assert m.csr(name) == 0
        assert m.hart.mstatus & state.FS == 1 << state.FS_LOW
        assert m.write(name, 0) == 0
        assert m.hart.mstatus & state.FS == state.FS
        assert m.hart.float_slow == 0
    m.write("fcsr", 0b101_01010)
    assert (m.csr("frm"), m.csr("fflags"), m.hart.float_slow) == (5, 0b01010, 1)
    m.write("frm", 0)
    assert (m.csr("fcsr"), m.hart.float_slow) == (0b01010, 0)
    assert m.taken_effects() & effects.FLOAT
    m.csr("mstatus", state.FS, 3)
    assert m.hart.float_slow == 1


def test_without_floating_point_fs_stays_off() -> None:
    m = machine(32, False, False).fresh()
    assert m.write("mstatus", -1) == 0x7E_19AA
    assert m.csr("fcsr") is None
    assert m.csr("misa") == 0x4014_1107
    assert m.hart.float_slow == 1


def test_mpp_never_becomes_two(m: Machine) -> None:
    for old in (0, 1, 3):
        m.csr("mstatus", old << 11, 1)
        m.csr("mstatus", 2 << 11, 1)
        assert m.hart.mstatus >> 11 & 3 == old


@pytest.mark.parametrize(
    ("bits", "effect"),
    [
        (state.SUM, effects.MODE),
        (state.MPRV, effects.MODE),
        (1 << state.MPP_LOW, effects.MODE),
        (state.MXR, effects.FLUSH_ALL),
        (state.SIE, effects.INTERRUPTS),
        (state.MIE, effects.INTERRUPTS),
        (state.TVM, 0),
    ],
)
def test_effects_of_status(m: Machine, bits: int, effect: int) -> None:
    assert m.csr("mstatus", bits, 2) is not None
    assert m.taken_effects() == effect
    m.csr("mstatus", bits, 2)
    assert m.taken_effects() == 0
    m.csr("mstatus", bits, 3)
    assert m.taken_effects() == effect


def test_satp_takes_only_modes_there_are(m: Machine) -> None:
    if m.xlen == 32:
        assert m.write("satp", 0x8012_3456) == 0x8012_3456
        assert m.taken_effects() == effects.FLUSH_ALL | effects.MODE
    else:
        legal = 8 << 60 | 0xFFFF << 44 | 0x123
        assert m.write("satp", legal) == legal
        assert m.taken_effects() == effects.FLUSH_ALL | effects.MODE
        for mode in (1, 7, 10, 11, 15):
            assert m.write("satp", mode << 60) == legal
        assert m.taken_effects() == 0
        assert m.write("satp", legal + 1) == legal + 1
        assert m.taken_effects() == effects.FLUSH_ALL
        assert m.write("satp", 9 << 60) == 9 << 60
        assert m.taken_effects() == effects.FLUSH_ALL | effects.MODE
    m.csr("mstatus", state.TVM, 2)
    m.hart.privilege = state.SUPERVISOR
    assert m.csr("satp") is None


def test_trap_vectors(m: Machine) -> None:
    for name in ("mtvec", "stvec"):
        assert m.write(name, 0x8000_1001) == 0x8000_1001
        assert m.write(name, 0x8000_2002) == 0x8000_1001
        assert m.write(name, 0x8000_3000) == 0x8000_3000


def test_pending_bits_belong_to_wires_software_and_comparator(m: Machine) -> None:
    m.hart.mip = state.MEIP | state.MTIP | state.SEIP
    assert m.csr("mip") == 0xA80
    # Clearing SEIP leaves the wire; setting it outlives the wire.
    assert m.csr("mip", state.SEIP, 3) == 0xA80
    assert m.csr("mip") == 0xA80
    m.csr("mip", state.SEIP, 2)
    m.hart.mip = 0
    assert m.csr("mip") == state.SEIP
    assert m.write("mip", state.SSIP | state.STIP | state.MSIP) == state.SSIP | state.STIP
    # Delegation decides what supervisor mode sees; it can write SSIP alone.
    m.csr("mideleg", state.SSIP, 1)
    assert m.csr("sip") == state.SSIP
    m.csr("mideleg", -1, 1)
    assert m.csr("sip", -1, 3) == state.SSIP | state.STIP
    assert m.csr("sip") == state.STIP
    m.csr("mie", -1, 1)
    assert m.write("sie", 0) == 0
    assert m.csr("mie") == 0x888


def test_supervisor_timer(m: Machine) -> None:
    enable = "menvcfg" if m.xlen == 64 else "menvcfgh"
    bit = 1 << (m.xlen - 1)
    m.hart.privilege = state.SUPERVISOR
    assert m.csr("stimecmp") is None
    m.hart.mcounteren = 2
    assert m.csr("stimecmp") is None
    m.hart.privilege = state.MACHINE
    m.csr("mip", state.STIP, 2)
    m.csr(enable, bit, 2)
    assert m.csr("mip") == 0
    m.csr("mip", state.STIP, 2)
    assert m.csr("mip") == 0
    m.hart.privilege = state.SUPERVISOR
    if m.xlen == 32:
        m.csr("stimecmph", 0, 1)
    m.hart.clock = 1000
    m.taken_effects()
    assert m.write("stimecmp", 1000) == 1000
    assert m.hart.mip == state.STIP
    assert m.taken_effects() == effects.TIMER | effects.INTERRUPTS
    assert m.write("stimecmp", 1001) == 1001
    assert m.hart.mip == 0
    m.hart.mcounteren = 0
    assert m.csr("stimecmp") is None


def test_environment_configuration(m: Machine) -> None:
    for name in ("menvcfg", "senvcfg"):
        assert m.write(name, 0x10) == 0x10
        assert m.write(name, 0x20) == 0x10
        assert m.write(name, 0x31) == 0x31


OPERATIONS = {
    "csrrw": lambda old, value: value,
    "csrrs": lambda old, value: old | value,
    "csrrc": lambda old, value: old & ~value,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_instructions(m: Machine, name: str) -> None:
    number = csr_numbers(m.xlen)["mscratch"]
    for old, value in ((0xF0F0, 0x1B), (mask(m.xlen), 0x15), (5, 0)):
        for suffix, operand in (("", "rs1"), ("i", "zimm")):
            m.hart.mscratch = old
            operands = {"csr": number, operand: value, "rs1_index": 1}
            assert m.execute(name + suffix, **operands) == 0
            assert m.hart.result == old
            assert m.hart.mscratch == OPERATIONS[name](old, value)


@pytest.mark.parametrize("name", ["csrrs", "csrrc"])
def test_reading_a_read_only_register(m: Machine, name: str) -> None:
    number = csr_numbers(m.xlen)["mhartid"]
    assert m.execute(name, csr=number) == 0
    assert m.hart.result == 3
    assert m.execute(name + "i", csr=number) == 0
    for bad, operands in ((name, {"rs1_index": 5}), (name + "i", {"zimm": 1}), ("csrrw", {})):
        assert m.execute(bad, csr=number, word=0xF140_1073, **operands) == RAISED
        assert (m.hart.raised_cause, m.hart.raised_tval) == (2, 0xF140_1073)


def test_registers_by_name(m: Machine) -> None:
    registers = m.registers
    for name in registers.names:
        registers.read_register(m.hart, name)
    registers.write_register(m.hart, "a0", -1)
    registers.write_register(m.hart, "zero", 7)
    registers.write_register(m.hart, "fa0", 9)
    registers.write_register(m.hart, "pc", 0x8000_0001)
    registers.write_register(m.hart, "privilege", 1)
    assert registers.read_register(m.hart, "x10") == mask(m.xlen)
    assert registers.read_register(m.hart, "x0") == 0
    assert registers.read_register(m.hart, "f10") == 9
    assert registers.read_register(m.hart, "pc") == 0x8000_0000
    # No gate stands between a debugger and a register.
    registers.write_register(m.hart, "fcsr", 0x25)
    assert registers.read_register(m.hart, "fcsr") == 0x25
    registers.write_register(m.hart, "mip", 0xAAA)
    assert m.hart.mip == 0xAAA
    assert m.hart.privilege == 1
    for name, value in (("mhartid", 1), ("privilege", 2), ("cr3", 0)):
        with pytest.raises(IsaError):
            registers.write_register(m.hart, name, value)
    with pytest.raises(IsaError, match="give x0"):
        registers.read_register(m.hart, "nonsense")
