"""How control and status registers are read and written: the parts of the CSR table.

RISC-V Privileged ISA, "CSR Listing" and the sections of the single registers;
chapter "Sstc". Counters and floating point are in `csr_counters`.

A behaviour is a function that emits code, given an `Access`; a write is handed
the new value and the bits that the instruction touched, which matters where
other threads change the register at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I8, I64, Builder, Function, Value
from tandemu.isa.effects import FLUSH_ALL, INTERRUPTS, MODE, TIMER
from tandemu.isa.riscv.hart import Environment, add_effects, any_set, set_status, word
from tandemu.isa.riscv.paging import SV39, SV48, translation_mode
from tandemu.isa.riscv.state import (
    ADUE,
    ALL_INTERRUPTS,
    CBCFE,
    CBIE,
    CBZE,
    FIOM,
    FS,
    MXR,
    SEIP,
    SIE,
    SPIE,
    SPP,
    SSIP,
    STCE,
    STIP,
    SUM,
    SUPERVISOR,
    SUPERVISOR_INTERRUPTS,
    TVM,
    UXL,
)


@dataclass(frozen=True)
class Access:
    """One access to a CSR, being emitted."""

    environment: Environment
    b: Builder
    hart: Any
    number: Value
    """The register's number: for behaviours that several registers share."""
    checked: bool
    """Whether gates and locks count; not for a debugger."""
    pmp_configure: Function
    pmp_set_address: Function
    top_identity: Function
    update_external: Function

    @property
    def xlen(self) -> int:
        return self.environment.xlen


Read = Callable[[Access], Value]
Write = Callable[[Access, Value, Value], None]
"""(access, new value, touched bits)"""
Gate = Callable[[Access], Value]
"""1-bit: whether the access is allowed."""


# General --------------------------------------------------------------------------------


def constant(value: int) -> Read:
    """A register that always reads the same."""
    return lambda a: word(value & mask(a.xlen))


read_zero = constant(0)


def ignore(a: Access, value: Value, touched: Value) -> None:
    """A register that may be written, in vain."""


def field(name: str, readable: int = mask(64)) -> Read:
    """The bits *readable* of a field of the hart."""
    return lambda a: getattr(a.hart, name) & readable


def upper_half(name: str) -> Read:
    """Bits 63 to 32 of a field."""
    return lambda a: getattr(a.hart, name) >> 32


def masked(name: str, writable: int, effects: int = 0) -> Write:
    """Write the bits *writable* of a field."""

    def write(a: Access, value: Value, touched: Value) -> None:
        old = getattr(a.hart, name)
        setattr(a.hart, name, (old & ~writable) | (value & writable))
        if effects:
            add_effects(a.hart, effects)

    return write


def replace_upper(a: Access, name: str, value: Value) -> Value:
    """Return field *name* with its upper half replaced."""
    low: Value = getattr(a.hart, name) & mask(32)
    return low | (value << 32)


def replace_lower(a: Access, name: str, value: Value) -> Value:
    """Return field *name* with its low XLEN bits replaced."""
    if a.xlen == 64:
        return value
    high: Value = getattr(a.hart, name) & ~mask(32)
    return high | value


def trap_vector(name: str) -> Write:
    """Modes are 0, direct, and 1, vectored; another leaves the register alone."""

    def write(a: Access, value: Value, touched: Value) -> None:
        legal = value.bits(0, 2).ult(2)
        setattr(a.hart, name, a.b.select(legal, value, getattr(a.hart, name)))

    return write


# Status ---------------------------------------------------------------------------------

_SUPERVISOR_WRITABLE = SIE | SPIE | SPP | FS | SUM | MXR
_SUPERVISOR_READABLE = _SUPERVISOR_WRITABLE | UXL


def _with_dirty_summary(a: Access, status: Value) -> Value:
    """SD, the highest bit, sums up that FS is Dirty."""
    dirty = (status & FS) == FS
    return status | a.b.select(dirty, word(1 << (a.xlen - 1)), word(0))


def read_mstatus(a: Access) -> Value:
    return _with_dirty_summary(a, a.hart.mstatus)


def read_sstatus(a: Access) -> Value:
    return _with_dirty_summary(a, a.hart.mstatus & _SUPERVISOR_READABLE)


def _write_status(writable: int) -> Write:
    def write(a: Access, value: Value, touched: Value) -> None:
        bits = writable & a.environment.status_mask
        set_status(a.b, a.hart, (a.hart.mstatus & ~bits) | (value & bits))

    return write


write_mstatus = _write_status(mask(64))
write_sstatus = _write_status(_SUPERVISOR_WRITABLE)


def read_misa(a: Access) -> Value:
    letters = "abcimsu" + ("df" if a.environment.floating else "")
    extensions = sum(1 << (ord(letter) - ord("a")) for letter in letters)
    return word(a.xlen // 32 << (a.xlen - 2) | extensions)


# Interrupts -----------------------------------------------------------------------------


def read_mip(a: Access) -> Value:
    wires = a.b.load(a.hart.pointer("mip"), I64, atomic=True)
    software: Value = a.hart.mip_seip
    return (wires | software) & ALL_INTERRUPTS


def read_sip(a: Access) -> Value:
    delegated: Value = a.hart.mideleg
    return read_mip(a) & delegated


def _change_pending(a: Access, value: Value, touched: Value) -> None:
    """Set and clear bits of mip, of which other threads change others."""
    pointer = a.hart.pointer("mip")
    a.b.atomic("and", pointer, value | ~touched)
    a.b.atomic("or", pointer, value & touched)
    add_effects(a.hart, INTERRUPTS)


def write_mip(a: Access, value: Value, touched: Value) -> None:
    if not a.checked:
        _change_pending(a, value, touched & ALL_INTERRUPTS)
        a.hart.mip_seip = word(0)
        return
    # With Sstc, STIP is the comparator's alone.
    timer_owned = any_set(a.hart.menvcfg, STCE)
    writable = a.b.select(timer_owned, word(SSIP), word(SSIP | STIP))
    _change_pending(a, value, touched & writable)
    # Setting or clearing SEIP concerns what software wrote, never the wire.
    external = touched & SEIP
    a.hart.mip_seip = (a.hart.mip_seip & ~external) | (value & external)


def write_sip(a: Access, value: Value, touched: Value) -> None:
    _change_pending(a, value, touched & SSIP & a.hart.mideleg)


def read_sie(a: Access) -> Value:
    delegated: Value = a.hart.mideleg
    enabled: Value = a.hart.mie
    return enabled & delegated


def write_sie(a: Access, value: Value, touched: Value) -> None:
    bits = a.hart.mideleg & SUPERVISOR_INTERRUPTS
    a.hart.mie = (a.hart.mie & ~bits) | (value & bits)
    add_effects(a.hart, INTERRUPTS)


# Environment configuration --------------------------------------------------------------


def update_supervisor_timer(a: Access) -> None:
    """Bring STIP in line with stimecmp, if Sstc is enabled."""
    with a.b.If(any_set(a.hart.menvcfg, STCE)):
        due = a.hart.stimecmp.ule(a.environment.time(a.b, a.hart))
        with a.b.If(due):
            a.b.atomic("or", a.hart.pointer("mip"), word(STIP))
        with a.b.Else():
            a.b.atomic("and", a.hart.pointer("mip"), word(~STIP))
    add_effects(a.hart, TIMER | INTERRUPTS)


def _legal_environment(a: Access, name: str, value: Value) -> Value:
    """CBIE 2 is reserved: the field then keeps its value."""
    reserved = value.bits(4, 2) == 2
    return a.b.select(reserved, (value & ~CBIE) | (getattr(a.hart, name) & CBIE), value)


def _set_menvcfg(a: Access, value: Value) -> None:
    value = _legal_environment(a, "menvcfg", value)
    value = value & (FIOM | CBIE | CBCFE | CBZE | ADUE | STCE)
    changed = a.hart.menvcfg ^ value
    a.hart.menvcfg = value
    with a.b.If(any_set(changed, STCE)):
        # Without Sstc, STIP is software's again and starts clear.
        a.b.atomic("and", a.hart.pointer("mip"), word(~STIP))
        update_supervisor_timer(a)
    with a.b.If(any_set(changed, ADUE)):
        add_effects(a.hart, FLUSH_ALL)


def write_menvcfg(a: Access, value: Value, touched: Value) -> None:
    _set_menvcfg(a, replace_lower(a, "menvcfg", value))


def write_menvcfgh(a: Access, value: Value, touched: Value) -> None:
    _set_menvcfg(a, replace_upper(a, "menvcfg", value))


def write_senvcfg(a: Access, value: Value, touched: Value) -> None:
    a.hart.senvcfg = _legal_environment(a, "senvcfg", value) & (FIOM | CBIE | CBCFE | CBZE)


# Translation and protection -------------------------------------------------------------


def satp_gate(a: Access) -> Value:
    """TVM keeps satp from supervisor mode."""
    kept = any_set(a.hart.mstatus, TVM)
    supervisor: Value = a.hart.privilege == SUPERVISOR
    return ~(kept & supervisor)


def write_satp(a: Access, value: Value, touched: Value) -> None:
    mode = translation_mode(value, a.xlen)
    legal = mode.ule(1) if a.xlen == 32 else (mode == 0) | (mode == SV39) | (mode == SV48)
    old = a.hart.satp
    new = a.b.select(legal, value, old)
    a.hart.satp = new
    modes = translation_mode(old, a.xlen) != translation_mode(new, a.xlen)
    effects = a.b.select(old != new, word(FLUSH_ALL), word(0))
    add_effects(a.hart, effects | a.b.select(modes, word(MODE), word(0)))


def _first_pmp_entry(a: Access) -> Value:
    """pmpcfg*n* holds four entries from 4n on; at XLEN 64 the even ones hold eight."""
    return a.number.bits(0, 4) * 4


def read_pmpcfg(a: Access) -> Value:
    pointer = a.hart.pmpcfg.pointer(_first_pmp_entry(a))
    # At XLEN 32 the upper half is cut off with all that is read.
    if a.xlen == 64:
        return a.b.load(pointer, I64)
    bytes_read = [a.b.load(pointer.offset(index), I8).zext(I64) for index in range(4)]
    return bytes_read[0] | bytes_read[1] << 8 | bytes_read[2] << 16 | bytes_read[3] << 24


def write_pmpcfg(a: Access, value: Value, touched: Value) -> None:
    a.b.call(a.pmp_configure, a.b.cpu, _first_pmp_entry(a), a.xlen // 8, value)


def read_pmpaddr(a: Access) -> Value:
    address: Value = a.hart.pmpaddr[a.number.bits(0, 4)]
    return address


def write_pmpaddr(a: Access, value: Value, touched: Value) -> None:
    a.b.call(a.pmp_set_address, a.b.cpu, a.number.bits(0, 4), value)
