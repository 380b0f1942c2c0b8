"""Access to control and status registers by the instructions of Zicsr.

RISC-V Unprivileged ISA, chapter "Zicsr"; Privileged ISA, "CSR Address Mapping
Conventions". One native function serves every register (`build_csr_access`); the
semantics of the six instructions call it. No CSR has a side effect of being
read, so a read whose result goes to x0 is made all the same.
"""

from __future__ import annotations

from typing import Any, Protocol

from tandemu.bits import mask
from tandemu.ir import I64, Builder, Function, I, Value
from tandemu.isa.errors import IsaError
from tandemu.isa.instruction import Semantics
from tandemu.isa.riscv.csr_behaviour import Access
from tandemu.isa.riscv.csr_table import Row, rows
from tandemu.isa.riscv.hart import Environment, word
from tandemu.isa.riscv.message_file import build_top_identity, build_update_external
from tandemu.isa.riscv.pmp import build_pmp_configure, build_pmp_set_address
from tandemu.isa.riscv.state import (
    ILLEGAL_INSTRUCTION,
)

READ_ONLY, WRITE, SET, CLEAR = range(4)
"""Operations."""
DONE, ILLEGAL = 0, 1
"""Answers of the access function."""


def _groups(xlen: int) -> list[list[Row]]:
    """Rows that behave alike share their code; `IsaError` if a number stands twice."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    numbers: dict[int, Row] = {}
    for row in rows(xlen):
        other = numbers.setdefault(row.number, row)
        if other is not row:
            raise IsaError(f"CSRs {other.name} and {row.name} both have number {row.number:#x}")
        groups.setdefault((row.read, row.write, row.gate), []).append(row)
    return list(groups.values())


def build_csr_access(environment: Environment, *, checked: bool = True) -> Function:
    """Build (cpu, number, value, operation) -> `DONE` or `ILLEGAL`.

    The register's old value is left in ``csr_value``. *operation* is `READ_ONLY`,
    `WRITE`, or to `SET` or `CLEAR` the bits of *value*, of which the upper half
    must be zero at XLEN 32. Without *checked*, privilege, gates and locks do not
    count: that is how a debugger gets at registers.
    """
    name = "csr_access" if checked else "csr_access_unchecked"
    b, hart = environment.begin(name, "number", "value", "operation")
    writes = b.operation != READ_ONLY
    if checked:
        with b.If(b.number.bits(8, 2).ugt(hart.privilege) | (b.number.ugt(mask(12)))):
            b.Return(ILLEGAL)
        with b.If((b.number.bits(10, 2) == 3) & writes):
            b.Return(ILLEGAL)
    # What the instruction touches: everything, or the bits it sets or clears.
    touched = b.select(b.operation == WRITE, word(mask(environment.xlen)), b.value)
    ones = b.select(b.operation == CLEAR, word(0), b.value)
    access = Access(
        environment,
        b,
        hart,
        b.number,
        checked,
        build_pmp_configure(environment, checked=checked),
        build_pmp_set_address(environment, checked=checked),
        top_identity := build_top_identity(environment),
        build_update_external(environment, top_identity),
    )
    with b.Switch(b.number) as s:
        for group in _groups(environment.xlen):
            row = group[0]
            with s.Case(*(member.number for member in group)):
                if checked and row.gate is not None:
                    with b.If(~row.gate(access)):
                        b.Return(ILLEGAL)
                old = row.read(access) & mask(environment.xlen)
                hart.csr_value = old
                if row.write is not None:
                    with b.If(writes):
                        row.write(access, (old & ~touched) | ones, touched)
                elif not checked:
                    with b.If(writes):
                        b.Return(ILLEGAL)
                b.Return(DONE)
        with s.Default():
            b.Return(ILLEGAL)
    return b.finish()


class CsrContext(Protocol):
    """What the semantics below ask of a context, beyond integer registers."""

    xlen: int
    ir: Builder
    hart: Any
    rs1: Value
    rs1_index: Value
    rd: Any
    csr: Value
    zimm: Value
    word: Value

    def raise_exception(self, cause: Value, tval: Value) -> None: ...


def csr_semantics(access: Function) -> dict[str, Semantics]:
    """Return the meaning of the instructions of Zicsr, by mnemonic."""

    def perform(c: CsrContext, operand: Value, operation: Value) -> None:
        b = c.ir
        number, value = c.csr.resize(I64), operand.resize(I64)
        status = b.call(access, c.hart.pointer(), number, value, operation)
        with b.If(status != DONE, likely=False):
            c.raise_exception(word(ILLEGAL_INSTRUCTION), c.word.resize(I64))
        c.rd = c.hart.csr_value.resize(I(c.xlen))

    def unless_zero(c: CsrContext, selector: Value, operation: int) -> Value:
        """x0, or an immediate of zero, is no write at all."""
        return c.ir.select(selector == 0, word(READ_ONLY), word(operation))

    def csrrw(c: CsrContext) -> None:
        perform(c, c.rs1, word(WRITE))

    def csrrs(c: CsrContext) -> None:
        perform(c, c.rs1, unless_zero(c, c.rs1_index, SET))

    def csrrc(c: CsrContext) -> None:
        perform(c, c.rs1, unless_zero(c, c.rs1_index, CLEAR))

    def csrrwi(c: CsrContext) -> None:
        perform(c, c.zimm, word(WRITE))

    def csrrsi(c: CsrContext) -> None:
        perform(c, c.zimm, unless_zero(c, c.zimm, SET))

    def csrrci(c: CsrContext) -> None:
        perform(c, c.zimm, unless_zero(c, c.zimm, CLEAR))

    functions: tuple[Semantics, ...] = (csrrw, csrrs, csrrc, csrrwi, csrrsi, csrrci)
    return {function.__name__: function for function in functions}
