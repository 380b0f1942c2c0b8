"""Zicond: conditional zero, from which compilers make branchless selections.

RISC-V Unprivileged ISA, chapter "Zicond".
"""

from __future__ import annotations

from tandemu.isa.riscv.context import Context
from tandemu.isa.riscv.formats import OP, r_type


def czero_eqz(c: Context) -> None:
    c.rd = c.ir.select(c.rs2 == 0, 0, c.rs1)


def czero_nez(c: Context) -> None:
    c.rd = c.ir.select(c.rs2 == 0, c.rs1, 0)


INSTRUCTIONS = (
    r_type("czero.eqz", OP, 5, 0x07, czero_eqz, extension="Zicond"),
    r_type("czero.nez", OP, 7, 0x07, czero_nez, extension="Zicond"),
)
