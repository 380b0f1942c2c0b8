"""RISC-V for debuggers: registers in GDB's features, page tables.

GDB: appendix "Standard Target Features", section "RISC-V Features". RISC-V Privileged ISA,
"Sv32", "Sv39", "Sv48". The walk here only looks: it sets no bits and asks for no rights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tandemu.debug.architecture import (
    DebugArchitecture,
    Feature,
    Page,
    ReadPhysical,
    ReadRegister,
    Register,
)
from tandemu.isa.catalogue import find_isa
from tandemu.isa.riscv.csr_table import rows
from tandemu.isa.riscv.registers import FLOATING_NAMES, INTEGER_NAMES

_MACHINE = 3
_VALID, _READ, _WRITE, _EXECUTE, _USER = 1, 2, 4, 8, 16
_PAGE_BITS = 12
_FLOAT = ("fflags", "frm", "fcsr")
_MOST_PAGES = 1 << 20
"""A guest's tables may map anything any number of times."""


class _Scheme(NamedTuple):
    levels: int
    index_bits: int
    entry_bytes: int


_SCHEMES = {
    (32, 1): _Scheme(2, 10, 4),
    (64, 8): _Scheme(3, 9, 8),
    (64, 9): _Scheme(4, 9, 8),
}
"""By XLEN and the mode of satp."""


def _regime(xlen: int, read: ReadRegister) -> tuple[_Scheme, int] | None:
    """The scheme in force and the root table; None if addresses are physical."""
    satp = read("satp")
    scheme = _SCHEMES.get((xlen, satp >> (60 if xlen == 64 else 31)))
    if scheme is None or read("privilege") == _MACHINE:
        return None
    return scheme, (satp & ((1 << (44 if xlen == 64 else 22)) - 1)) << _PAGE_BITS


def _frame(entry: int, xlen: int) -> int:
    return (entry >> 10 & ((1 << (44 if xlen == 64 else 22)) - 1)) << _PAGE_BITS


def translate(xlen: int, read: ReadRegister, memory: ReadPhysical, address: int) -> int | None:
    """Where *address* is; see `DebugArchitecture.translate`."""
    regime = _regime(xlen, read)
    if regime is None:
        return address
    scheme, table = regime
    width = _PAGE_BITS + scheme.levels * scheme.index_bits
    above = address >> (width - 1)
    if xlen == 64 and above not in (0, (1 << (xlen - width + 1)) - 1):
        return None
    for level in reversed(range(scheme.levels)):
        shift = _PAGE_BITS + level * scheme.index_bits
        index = address >> shift & ((1 << scheme.index_bits) - 1)
        data = memory(table + index * scheme.entry_bytes, scheme.entry_bytes)
        if data is None:
            return None
        entry = int.from_bytes(data, "little")
        if not entry & _VALID:
            return None
        if entry & (_READ | _EXECUTE):
            inside = (1 << shift) - 1
            return (_frame(entry, xlen) & ~inside) | (address & inside)
        table = _frame(entry, xlen)
    return None


def pages(xlen: int, read: ReadRegister, memory: ReadPhysical) -> Iterator[Page]:
    """What is mapped; see `DebugArchitecture.pages`."""
    regime = _regime(xlen, read)
    if regime is None:
        return
    scheme, root = regime
    width = _PAGE_BITS + scheme.levels * scheme.index_bits
    sign = ((1 << xlen) - 1) >> width << width if xlen == 64 else 0
    budget = _MOST_PAGES

    def walk(table: int, level: int, base: int) -> Iterator[Page]:
        nonlocal budget
        size = scheme.entry_bytes
        data = memory(table, size << scheme.index_bits)
        if data is None:
            return
        shift = _PAGE_BITS + level * scheme.index_bits
        for index in range(1 << scheme.index_bits):
            entry = int.from_bytes(data[index * size : index * size + size], "little")
            budget -= 1
            if not entry & _VALID or budget < 0:
                continue
            virtual = base | index << shift
            if entry & (_READ | _EXECUTE):
                if virtual >> (width - 1):
                    virtual |= sign
                yield Page(virtual, _frame(entry, xlen), 1 << shift, _rights(entry))
            elif level:
                yield from walk(_frame(entry, xlen), level - 1, virtual)

    yield from walk(root, scheme.levels - 1, 0)


def _rights(entry: int) -> str:
    return "".join(
        letter if entry & bit else "-"
        for bit, letter in ((_READ, "r"), (_WRITE, "w"), (_EXECUTE, "x"), (_USER, "u"))
    )


def _csrs(xlen: int) -> tuple[str, ...]:
    """Every CSR but counters and triggers that never count or do anything."""
    return tuple(
        row.name
        for row in rows(xlen)
        if row.name not in _FLOAT and "hpm" not in row.name and not row.name.startswith("tdata")
    )


def debug_architecture(name: str) -> DebugArchitecture:
    """RISC-V of the XLEN that *name* says."""
    xlen = find_isa(name).state.address_bits
    integers = tuple(
        Register(
            abi,
            xlen,
            f"x{number}",
            {"sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr", "ra": "code_ptr"}.get(
                abi, "int"
            ),
            "general",
        )
        for number, abi in enumerate(INTEGER_NAMES)
    )
    union = (
        '<union id="riscv_double"><field name="float" type="ieee_single"/>'
        '<field name="double" type="ieee_double"/></union>'
    )
    floats = tuple(
        Register(abi, 64, f"f{number}", "riscv_double", "float")
        for number, abi in enumerate(FLOATING_NAMES)
    )
    status = tuple(Register(one, 32, one, "int", "float") for one in _FLOAT)
    system = _csrs(xlen)
    return DebugArchitecture(
        name=f"riscv:rv{xlen}",
        features=(
            Feature(
                "org.gnu.gdb.riscv.cpu",
                (*integers, Register("pc", xlen, "pc", "code_ptr", "general")),
            ),
            Feature("org.gnu.gdb.riscv.fpu", (*floats, *status), union),
            Feature(
                "org.gnu.gdb.riscv.virtual",
                (Register("priv", xlen, "privilege", "int", "general"),),
            ),
            Feature(
                "org.gnu.gdb.riscv.csr",
                tuple(Register(one, xlen, one, "int", "system") for one in system),
            ),
        ),
        general=len(INTEGER_NAMES) + 1,
        pc="pc",
        address_bits=xlen,
        translate=lambda read, memory, address: translate(xlen, read, memory, address),
        pages=lambda read, memory: pages(xlen, read, memory),
        system=system,
    )
