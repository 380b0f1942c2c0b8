"""Every line of `instructions.table`: its encoding, and what it does, run three ways."""

from __future__ import annotations

from functools import cache

import pytest
import unicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import riscv_const

from tandemu.accel import MmioRead, MmioWrite, Stopped
from tandemu.bits import mask
from tandemu.isa.instruction import Kind
from tandemu.isa.riscv import state as riscv
from tandemu.isa.riscv.disassembler import disassemble
from tandemu.isa.riscv.instruction_set import RV64GC
from tandemu.isa.riscv.registers import NAMES, register_number
from tests.jit.instruction_table import (
    MODES,
    Items,
    Line,
    assemble_text,
    destination,
    is_float,
    is_integer,
    memory,
    read_table,
    show,
)
from tests.jit.page_tables import RWX, A, D, PageTable, R, U, V, W
from tests.jit.small_machine import (
    BASE,
    DATA,
    END,
    PAGE,
    POINTER,
    WIDE_CORNERS,
    Code,
    SmallMachine,
    machine,
)

LINES = read_table()
HANDLER, PREPARATION = BASE + 0x40000, BASE + 0x41000
WINDOW = 512
CSRS = ("frm", "mscratch", "sscratch", "mstatus", "mepc", "sepc", "scause", "stval")
OF_TRAPS = frozenset({"mstatus", "mepc"})
"""What a trap changes as it must; tests/isa and test_traps.py look at it."""
CACHE_BLOCKS = {"menvcfg": 0xF0, "senvcfg": 0xF0}
NAMES_OF_MODES = {number: name for name, number in MODES.items()}


@pytest.mark.parametrize("line", LINES, ids=str)
def test_text(line: Line) -> None:
    assert assemble_text(line) == line.bytes
    assert disassemble(line.word, line.address, aliases=False) == line.text


def test_every_instruction_has_a_line() -> None:
    every = {one.name for one in RV64GC.records}
    every |= {one.name for one in RV64GC.compressed.records}
    assert every - {line.name for line in LINES} == set()


def test_every_exception_has_a_line() -> None:
    """Save misaligned fetches, which there are not with compressed instructions."""
    causes = {line.outputs["trap"] for line in LINES if "trap" in line.outputs}
    assert causes == {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15}


def prepare(m: SmallMachine, line: Line) -> None:
    """Memory and registers as *line* begins; what ends the test wherever it may go."""
    m.reset()
    inputs = dict(line.inputs)
    assert line.bytes is not None
    if line.by_hand:
        inputs = {"pmpaddr0": (1 << 54) - 1, "pmpcfg0": 0x1F, **CACHE_BLOCKS, **inputs}
    reserved = inputs.pop("lr", None)
    if isinstance(reserved, int):
        code = Code(PREPARATION).li(POINTER, reserved)
        code(f"lr.{line.name[-1]}", rd=POINTER, rs1=POINTER)
        m.load(code)
    m.write(line.address, line.bytes)
    for place in {line.following, line.outputs.get("pc", line.following), HANDLER}:
        assert isinstance(place, int)
        m.load(Code(place).finish())
    for address, data in memory(inputs):
        m.write(address, data)
    if isinstance(reserved, int):
        m.vcpu.set("pc", PREPARATION)
        while m.cpu.pc < code.here:
            m.vcpu.step()
        m.cpu.x[POINTER] = 0
        m.cpu.instructions = 0
    m.cpu.mtvec = HANDLER
    m.vcpu.set("pc", line.address)
    mode = MODES[str(inputs.pop("mode", "M"))]
    if "page" in inputs:
        flags = str(inputs.pop("page"))
        user = U if mode == riscv.USER else 0
        table = PageTable(m)
        table.map(BASE, BASE, RWX | user)
        table.map(END, END, RWX | user)
        table.map(DATA, DATA, (V | A | D | user | R * ("r" in flags) | W * ("w" in flags)))
        m.vcpu.set("satp", table.satp())
    for name, value in inputs.items():
        if isinstance(value, int):
            put(m, name, value)
    m.vcpu.set("privilege", mode)


def put(m: SmallMachine, name: str, value: int) -> None:
    if is_integer(name):
        m.cpu.x[register_number(name, "x")] = value
    elif is_float(name):
        m.cpu.f[register_number(name, "f")] = value
    elif name in ("fflags", "mip"):
        setattr(m.cpu, name, value)
    else:
        m.vcpu.set(name, value)


def look(m: SmallMachine, window: bytes) -> Items:
    """All that an instruction can change, save where it went."""
    items: Items = {name: m.cpu.x[number] for number, name in enumerate(NAMES["x"][:POINTER])}
    items |= {name: m.cpu.f[number] for number, name in enumerate(NAMES["f"])}
    items |= {"fflags": m.cpu.fflags, "mode": NAMES_OF_MODES[m.cpu.privilege]}
    for name in CSRS:
        items[name] = getattr(m.cpu, name)
    now = m.read(DATA, WINDOW)
    for place in range(0, WINDOW, 8):
        if now[place : place + 8] != window[place : place + 8]:
            items[f"[{DATA + place:x}]"] = now[place : place + 8][::-1].hex()
    return items


def to_end(m: SmallMachine, way: str) -> None:
    """Run to the store at `END`; other accesses to devices are bus errors."""
    for _ in range(20):
        if way == "evaluated":
            if m.evaluate():
                continue
            at_end = m.cpu.x[POINTER] == END
        else:
            leaving = m.run() if way == "translated" else m.vcpu.step()
            if isinstance(leaving, Stopped):
                continue
            assert isinstance(leaving, MmioRead | MmioWrite), leaving
            at_end = leaving.address == END
        if at_end:
            return
        m.vcpu.complete(None)
    raise AssertionError(f"it does not end: {m.state()}")


def outcome(m: SmallMachine, line: Line, way: str) -> Items:
    """What *line* changes, as its outputs say it."""
    prepare(m, line)
    window = m.read(DATA, WINDOW)
    before = look(m, window)
    to_end(m, way)
    after = look(m, window)
    result = destination(line)
    trapped = m.cpu.mcause != 0 and m.cpu.pc == HANDLER + 4
    changed = {
        name: value
        for name, value in after.items()
        if value != before.get(name) or (name == result and not trapped)
    }
    if trapped:
        changed = {name: value for name, value in changed.items() if name not in OF_TRAPS}
        changed.pop("mode", None)
        changed |= {"trap": m.cpu.mcause, "tval": m.cpu.mtval}
        if m.cpu.mepc != line.address:
            changed["epc"] = m.cpu.mepc
    elif "mstatus" in changed:
        # With the fields that do not change.
        changed["mstatus"] = m.vcpu.get("mstatus")
    if not trapped and m.cpu.pc != line.following + 4:
        changed["pc"] = m.cpu.pc - 4
    # The first of the two instructions of the end ran too.
    assert m.instructions == (2 if not trapped or "epc" in changed else 1)
    return changed


@pytest.mark.parametrize("line", LINES, ids=str)
@pytest.mark.parametrize("way", ["evaluated", "stepped", "translated"])
def test_meaning(line: Line, way: str) -> None:
    got = outcome(machine(), line, way)
    assert {show(*item) for item in got.items()} == {show(*item) for item in line.outputs.items()}


# Random operands, against unicorn -----------------------------------------------------------


@cache
def oracle() -> unicorn.Uc:
    uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
    uc.mem_map(BASE, 2 << 20)
    return uc


def by_unicorn(line: Line, registers: dict[str, int], window: bytes) -> tuple[Items, bytes]:
    uc = oracle()
    assert line.bytes is not None
    uc.mem_write(DATA, window)
    for number in range(1, 32):
        value = registers.get(NAMES["x"][number], 0)
        uc.reg_write(riscv_const.UC_RISCV_REG_X0 + number, value)
    uc.emu_start(line.address, 0, count=1)
    items: Items = {
        name: uc.reg_read(riscv_const.UC_RISCV_REG_X0 + number) & mask(64)
        for number, name in enumerate(NAMES["x"])
    }
    items["pc"] = uc.reg_read(riscv_const.UC_RISCV_REG_PC)
    return items, bytes(uc.mem_read(DATA, WINDOW))


VALUES = st.one_of(
    st.sampled_from(WIDE_CORNERS),
    st.integers(0, mask(64)),
    st.integers(-64, 64).map(lambda value: value & mask(64)),
)
EXAMPLES = 25
_UNKNOWN = ("fence", "c.nop", "c.ebreak", "lr.", "sc.")


def known_to_unicorn() -> list[Line]:
    """One line of each integer instruction that unicorn has."""
    found: dict[str, Line] = {}
    for line in LINES:
        decoded = RV64GC.decode(line.word)
        if line.by_hand or decoded is None or line.name.startswith(_UNKNOWN):
            continue
        one = decoded.instruction
        if one.extension in ("I", "M", "A") and not one.floating:
            found.setdefault(line.name, line)
    return list(found.values())


@pytest.mark.parametrize("line", known_to_unicorn(), ids=lambda line: line.name)
def test_random_operands(line: Line) -> None:
    """Only the operands change: where an address comes from stays as the line has it."""
    decoded = RV64GC.decode(line.word)
    assert decoded is not None
    one = decoded.instruction
    addresses = one.kind in (Kind.LOAD, Kind.STORE, Kind.ATOMIC, Kind.INDIRECT)
    sources = {
        NAMES["x"][decoded.operands[name]]
        for name in (("rs2",) if addresses else ("rs1", "rs2"))
        if one.file(name) == "x" and decoded.operands[name]
    }
    kept = {k: v for k, v in line.inputs.items() if isinstance(v, int) and k not in sources}
    m = machine()
    prepare(m, line)
    if one.kind is Kind.BRANCH:
        m.load(Code(line.address + decoded.operands["imm"]).finish())
    assert line.bytes is not None
    oracle().mem_write(line.address, line.bytes)
    oracle().ctl_remove_cache(line.address, line.address + PAGE)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(st.tuples(VALUES, VALUES), st.binary(min_size=32, max_size=32))
    def check(values: tuple[int, int], data: bytes) -> None:
        registers = {**kept, **dict(zip(sorted(sources), values, strict=False))}
        window = data * (WINDOW // len(data))
        for number in range(1, 32):
            m.cpu.x[number] = registers.get(NAMES["x"][number], 0)
        m.write(DATA, window)
        m.vcpu.set("pc", line.address)
        expected, after = by_unicorn(line, registers, window)
        to_end(m, "translated")
        got: Items = {name: m.cpu.x[number] for number, name in enumerate(NAMES["x"])}
        got["pc"] = m.cpu.pc - 4
        del got["t6"], expected["t6"]
        assert got == expected
        assert m.read(DATA, WINDOW) == after

    check()
