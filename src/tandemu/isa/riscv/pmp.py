"""Physical memory protection.

RISC-V Privileged ISA, "Physical Memory Protection": 16 entries, matching by TOR,
NA4 and NAPOT at a grain of four bytes, locked entries. The first entry that matches
any byte of an access decides, and must match all of them. Smepmp (mseccfg) is left out.
"""

from __future__ import annotations

from tandemu.bits import mask
from tandemu.ir import I8, I64, Function
from tandemu.isa.effects import FLUSH_ALL
from tandemu.isa.riscv.hart import Environment, add_effects, word
from tandemu.isa.riscv.state import (
    MACHINE,
    PMP_ENTRIES,
)

READ, WRITE, EXECUTE = 1, 2, 4
"""Permissions, as in the low bits of a pmpcfg byte."""
UNIFORM = 8
"""In the answer: it holds for the whole 4 KiB page of the address."""

_MATCHING_LOW, _TOR, _NA4, _NAPOT = 3, 1, 2, 3
_LOCKED = 0x80
_CONFIGURATION_MASK = 0x9F
_PAGE = 4096


def address_mask(xlen: int) -> int:
    """Return the bits of a pmpaddr register that exist."""
    return mask(54) if xlen == 64 else mask(32)


def build_pmp_allows(environment: Environment) -> Function:
    """Build (cpu, physical, size, privilege) -> permissions, and `UNIFORM` if it is.

    The *size* bytes from *physical* on lie in one page.
    """
    b, hart = environment.begin("pmp_allows", "physical", "size", "privilege")
    machine = b.privilege == MACHINE
    with b.If(hart.pmp_open != 0):
        b.Return(READ | WRITE | EXECUTE | UNIFORM)
    # A privilege below M needs an entry that matches.
    unmatched = b.select(machine, word(READ | WRITE | EXECUTE), word(0))
    with b.If(hart.pmp_active == 0):
        b.Return(unmatched | UNIFORM)
    page = b.physical & ~(_PAGE - 1)
    end = b.physical + b.size
    uniform = b.variable(I64, UNIFORM)
    previous = b.variable(I64, 0)
    index = b.variable(I64, 0)
    with b.While(lambda: index.value != PMP_ENTRIES):
        configuration = hart.pmpcfg[index.value].zext(I64)
        raw = hart.pmpaddr[index.value]
        matching = configuration.bits(_MATCHING_LOW, 2)
        with b.If(matching != 0):
            # NAPOT: ones below the lowest zero say how many low bits are free.
            free = b.select(matching == _NAPOT, raw ^ (raw + 1), word(0))
            top_of_range = matching == _TOR
            low = b.select(top_of_range, previous.value, (raw & ~free) << 2)
            high = b.select(top_of_range, raw << 2, ((raw | free) + 1) << 2)
            covers_page = low.ule(page) & high.uge(page + _PAGE)
            touches_page = low.ult(page + _PAGE) & high.ugt(page) & low.ult(high)
            with b.If(touches_page & ~covers_page):
                uniform.value = 0
            with b.If(low.ult(end) & high.ugt(b.physical) & low.ult(high)):
                with b.If(low.ugt(b.physical) | high.ult(end), likely=False):
                    # It matches some of the bytes: whatever it allows, to any mode.
                    b.Return(0)
                # Only a locked entry binds machine mode.
                free_of_it = machine & ((configuration & _LOCKED) == 0)
                allowed = b.select(free_of_it, word(READ | WRITE | EXECUTE), configuration & 7)
                b.Return(allowed | uniform.value)
        previous.value = raw << 2
        index.value = index.value + 1
    b.Return(unmatched | uniform.value)
    return b.finish()


def build_pmp_configure(environment: Environment, *, checked: bool = True) -> Function:
    """Build (cpu, first, count, value): write *count* pmpcfg bytes from *first* on.

    A locked entry keeps its byte if *checked*.
    """
    name = "pmp_configure" if checked else "pmp_configure_unchecked"
    b, hart = environment.begin(name, "first", "count", "value", result=None)
    index = b.variable(I64, b.first)
    rest = b.variable(I64, b.value)
    end = b.first + b.count
    with b.While(lambda: index.value != end):
        byte = rest.value & _CONFIGURATION_MASK
        # Write without read is reserved: such an entry allows nothing.
        byte = b.select((byte & (READ | WRITE)) == WRITE, byte & ~7, byte)
        old = hart.pmpcfg[index.value]
        writable = (old & _LOCKED) == 0 if checked else b.constant(old.type, 1) == 1
        with b.If(writable & (old != byte.trunc(I8))):
            hart.pmpcfg[index.value] = byte.trunc(I8)
            add_effects(hart, FLUSH_ALL)
        rest.value = rest.value >> 8
        index.value = index.value + 1
    halves = [b.load(hart.pmpcfg.pointer(first), I64) for first in (0, 8)]
    active = (halves[0] | halves[1]) & 0x1818_1818_1818_1818
    hart.pmp_active = b.select(active != 0, word(1), word(0))
    return b.finish()


def build_pmp_set_address(environment: Environment, *, checked: bool = True) -> Function:
    """Build (cpu, index, value): write a pmpaddr register unless a lock forbids it."""
    name = "pmp_set_address" if checked else "pmp_set_address_unchecked"
    b, hart = environment.begin(name, "index", "value", result=None)
    if checked:
        with b.If((hart.pmpcfg[b.index] & _LOCKED) != 0):
            b.Return()
        # The base of a locked range is locked with it.
        with b.If(b.index != PMP_ENTRIES - 1):
            following = hart.pmpcfg[b.index + 1]
            locked_range = (following & (_LOCKED | 0x18)) == (_LOCKED | _TOR << _MATCHING_LOW)
            with b.If(locked_range):
                b.Return()
    new = b.value & address_mask(environment.xlen)
    with b.If(hart.pmpaddr[b.index] != new):
        hart.pmpaddr[b.index] = new
        with b.If(hart.pmp_active != 0):
            add_effects(hart, FLUSH_ALL)
    return b.finish()
