"""Zicsr: control and status register instructions.

RISC-V Unprivileged ISA, chapter "Zicsr". Records only: what a CSR holds and who
may touch it is the privileged architecture's, which attaches the semantics.
"""

from __future__ import annotations

from tandemu.isa.instruction import Instruction, Kind
from tandemu.isa.riscv.formats import BOTH, CSR, FUNCT3, RD, RS1, SYSTEM, ZIMM


def _csr(name: str, funct3: int) -> Instruction:
    from_register = funct3 < 4
    return Instruction(
        name=name,
        extension="Zicsr",
        xlens=BOTH,
        mask=FUNCT3 | 0x7F,
        match=funct3 << 12 | SYSTEM,
        fields=(RD, CSR, RS1 if from_register else ZIMM),
        immediate=None,
        syntax="rd,csr,rs1" if from_register else "rd,csr,zimm",
        kind=Kind.SYSTEM,
    )


INSTRUCTIONS = (
    _csr("csrrw", 1),
    _csr("csrrs", 2),
    _csr("csrrc", 3),
    _csr("csrrwi", 5),
    _csr("csrrsi", 6),
    _csr("csrrci", 7),
)
