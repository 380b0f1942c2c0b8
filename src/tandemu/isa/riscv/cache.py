"""Zicbom and Zicboz: cache-block management.

RISC-V Unprivileged ISA, chapter "CMO". Records only: who may manage blocks is
the privileged architecture's, which attaches the semantics. Prefetching (Zicbop)
is in `base`, beside the instruction whose encodings it takes.
"""

from __future__ import annotations

from tandemu.isa.instruction import Instruction, Kind
from tandemu.isa.riscv.formats import MISC_MEM, RS1, exact

BLOCK_SIZE = 64
"""Bytes in a cache block; what a device tree says in ``riscv,cboz-block-size``."""


def _cbo(name: str, selector: int, extension: str, kind: Kind, access: int = 0) -> Instruction:
    return exact(
        name,
        selector << 20 | 2 << 12 | MISC_MEM,
        extension=extension,
        fields=(RS1,),
        syntax="(rs1)",
        kind=kind,
        access=access,
    )


INSTRUCTIONS = (
    _cbo("cbo.inval", 0, "Zicbom", Kind.SYSTEM),
    _cbo("cbo.clean", 1, "Zicbom", Kind.SYSTEM),
    _cbo("cbo.flush", 2, "Zicbom", Kind.SYSTEM),
    _cbo("cbo.zero", 4, "Zicboz", Kind.STORE, BLOCK_SIZE),
)
