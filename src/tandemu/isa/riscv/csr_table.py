"""The control and status registers: one row each.

RISC-V Privileged ISA, "CSR Listing". Who may access a register, and whether it
is read-only, is in its number (bits 9:8 and 11:10). A register that is not here
does not exist: an access is an illegal instruction, by which firmware probes.

Left out: the hypervisor's and vector registers, Smstateen, Smaia (Ssaia is there), Smepmp
(mseccfg), Zkr (seed), Sscofpmf. Performance counters 3 to 31 read zero; so does
the one trigger, whose tinfo says that it can do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tandemu.bits import mask
from tandemu.isa.effects import INTERRUPTS
from tandemu.isa.riscv import csr_behaviour as behaviour
from tandemu.isa.riscv import csr_counters as counters
from tandemu.isa.riscv import message_file as messages
from tandemu.isa.riscv.csr_behaviour import Gate, Read, Write
from tandemu.isa.riscv.state import (
    ALL_INTERRUPTS,
    DELEGABLE_EXCEPTIONS,
    PMP_ENTRIES,
    SUPERVISOR_INTERRUPTS,
)

_BOTH = frozenset((32, 64))
_RV32 = frozenset((32,))

_ALL = mask(64)
_EVEN = _ALL & ~1
"""Instruction addresses are even: there is the C extension."""


@dataclass(frozen=True)
class Row:
    """One register."""

    name: str
    number: int
    read: Read
    write: Write | None = None
    """None if software cannot change it."""
    gate: Gate | None = None
    """What it takes to access it, beyond privilege."""
    xlens: frozenset[int] = _BOTH

    @property
    def privilege(self) -> int:
        """The least privilege that may access it."""
        return self.number >> 8 & 3

    @property
    def read_only(self) -> bool:
        """Whether an attempt to write it is illegal."""
        return self.number >> 10 == 3


def _plain(name: str, number: int, writable: int = _ALL, effects: int = 0) -> Row:
    """A register that is a field of the hart."""
    return Row(name, number, behaviour.field(name), behaviour.masked(name, writable, effects))


def _stub(name: str, number: int, value: int = 0, xlens: frozenset[int] = _BOTH) -> Row:
    """A register that always reads the same; writes are lost."""
    read = behaviour.constant(value) if value else behaviour.read_zero
    return Row(name, number, read, behaviour.ignore, xlens=xlens)


def _stubs(name: str, first: int, xlens: frozenset[int] = _BOTH) -> Iterator[Row]:
    """Registers 3 to 31 of a group that starts at number *first*."""
    for index in range(3, 32):
        yield _stub(name.format(index), first + index, xlens=xlens)


_MACHINE = (
    Row("mvendorid", 0xF11, behaviour.read_zero),
    Row("marchid", 0xF12, behaviour.read_zero),
    Row("mimpid", 0xF13, behaviour.read_zero),
    Row("mhartid", 0xF14, behaviour.field("mhartid")),
    Row("mconfigptr", 0xF15, behaviour.read_zero),
    Row("mstatus", 0x300, behaviour.read_mstatus, behaviour.write_mstatus),
    _stub("mstatush", 0x310, xlens=_RV32),
    Row("misa", 0x301, behaviour.read_misa, behaviour.ignore),
    _plain("medeleg", 0x302, DELEGABLE_EXCEPTIONS),
    _stub("medelegh", 0x312, xlens=_RV32),
    _plain("mideleg", 0x303, SUPERVISOR_INTERRUPTS, INTERRUPTS),
    _plain("mie", 0x304, ALL_INTERRUPTS, INTERRUPTS),
    Row("mtvec", 0x305, behaviour.field("mtvec"), behaviour.trap_vector("mtvec")),
    _plain("mcounteren", 0x306, mask(32)),
    Row("menvcfg", 0x30A, behaviour.field("menvcfg"), behaviour.write_menvcfg),
    Row(
        "menvcfgh",
        0x31A,
        behaviour.upper_half("menvcfg"),
        behaviour.write_menvcfgh,
        xlens=_RV32,
    ),
    Row("mcountinhibit", 0x320, behaviour.field("mcountinhibit"), counters.write_mcountinhibit),
    _plain("mscratch", 0x340),
    _plain("mepc", 0x341, _EVEN),
    _plain("mcause", 0x342),
    _plain("mtval", 0x343),
    Row("mip", 0x344, behaviour.read_mip, behaviour.write_mip),
)

_PROTECTION = (
    Row("pmpcfg0", 0x3A0, behaviour.read_pmpcfg, behaviour.write_pmpcfg),
    Row("pmpcfg1", 0x3A1, behaviour.read_pmpcfg, behaviour.write_pmpcfg, xlens=_RV32),
    Row("pmpcfg2", 0x3A2, behaviour.read_pmpcfg, behaviour.write_pmpcfg),
    Row("pmpcfg3", 0x3A3, behaviour.read_pmpcfg, behaviour.write_pmpcfg, xlens=_RV32),
    *(
        Row(f"pmpaddr{index}", 0x3B0 + index, behaviour.read_pmpaddr, behaviour.write_pmpaddr)
        for index in range(PMP_ENTRIES)
    ),
)

_SUPERVISOR = (
    Row("sstatus", 0x100, behaviour.read_sstatus, behaviour.write_sstatus),
    Row("sie", 0x104, behaviour.read_sie, behaviour.write_sie),
    Row("stvec", 0x105, behaviour.field("stvec"), behaviour.trap_vector("stvec")),
    _plain("scounteren", 0x106, mask(32)),
    Row("senvcfg", 0x10A, behaviour.field("senvcfg"), behaviour.write_senvcfg),
    _plain("sscratch", 0x140),
    _plain("sepc", 0x141, _EVEN),
    _plain("scause", 0x142),
    _plain("stval", 0x143),
    Row("sip", 0x144, behaviour.read_sip, behaviour.write_sip),
    Row(
        "stimecmp",
        0x14D,
        behaviour.field("stimecmp"),
        counters.write_stimecmp,
        counters.supervisor_timer_gate,
    ),
    Row(
        "stimecmph",
        0x15D,
        behaviour.upper_half("stimecmp"),
        counters.write_stimecmph,
        counters.supervisor_timer_gate,
        _RV32,
    ),
    Row("satp", 0x180, behaviour.field("satp"), behaviour.write_satp, behaviour.satp_gate),
)

_MESSAGES = (
    Row(
        *("siselect", 0x150, behaviour.field("siselect"), messages.write_siselect),
        messages.present,
    ),
    Row("sireg", 0x151, messages.read_sireg, messages.write_sireg, messages.indirect_gate),
    Row("stopei", 0x15C, messages.read_stopei, messages.write_stopei, messages.present),
    Row("stopi", 0xDB0, messages.read_stopi, gate=messages.present),
    # Interrupts 32 to 63, of which there are none.
    Row("sieh", 0x114, behaviour.read_zero, behaviour.ignore, messages.present, _RV32),
    Row("siph", 0x154, behaviour.read_zero, behaviour.ignore, messages.present, _RV32),
)

_FLOAT = (
    Row(
        "fflags",
        0x001,
        counters.read_fflags,
        counters.write_fflags,
        counters.float_gate,
    ),
    Row("frm", 0x002, behaviour.field("frm"), counters.write_frm, counters.float_gate),
    Row("fcsr", 0x003, counters.read_fcsr, counters.write_fcsr, counters.float_gate),
)


def _counters(suffix: str, offset: int, xlens: frozenset[int]) -> Iterator[Row]:
    """Machine-mode counters and their shadows below it: whole, or the upper halves."""
    upper = bool(offset)
    for counter, machine, shadow, number in (
        (counters.CYCLES, "mcycle", "cycle", 0),
        (counters.INSTRUCTIONS_RETIRED, "minstret", "instret", 2),
    ):
        read = counter.read_upper if upper else counter.read
        write = counter.write_upper if upper else counter.write
        yield Row(machine + suffix, 0xB00 + offset + number, read, write, xlens=xlens)
        yield Row(
            shadow + suffix,
            0xC00 + offset + number,
            read,
            gate=counters.counter_gate,
            xlens=xlens,
        )
    read_time = counters.read_time_upper if upper else counters.read_time
    yield Row("time" + suffix, 0xC01 + offset, read_time, gate=counters.counter_gate, xlens=xlens)
    yield from _stubs("mhpmcounter{}" + suffix, 0xB00 + offset, xlens)
    for index in range(3, 32):
        yield Row(
            f"hpmcounter{index}{suffix}",
            0xC00 + offset + index,
            behaviour.read_zero,
            gate=counters.counter_gate,
            xlens=xlens,
        )


_COUNTERS = (
    *_counters("", 0, _BOTH),
    *_counters("h", 0x80, _RV32),
    *_stubs("mhpmevent{}", 0x320),
)

_TRIGGERS = (
    *(
        _stub(name, 0x7A0 + index)
        for index, name in enumerate(("tselect", "tdata1", "tdata2", "tdata3"))
    ),
    # Bit 0: the trigger has type 0, which is none.
    _stub("tinfo", 0x7A4, 1),
)

ROWS: tuple[Row, ...] = (
    *_FLOAT,
    *_SUPERVISOR,
    *_MESSAGES,
    *_MACHINE,
    *_PROTECTION,
    *_COUNTERS,
    *_TRIGGERS,
)
"""Every register at either XLEN."""


def rows(xlen: int) -> tuple[Row, ...]:
    """Return the registers that exist at *xlen*."""
    return tuple(row for row in ROWS if xlen in row.xlens)


def csr_numbers(xlen: int) -> dict[str, int]:
    """Return the number of each register that exists at *xlen*, by name."""
    return {row.name: row.number for row in rows(xlen)}
