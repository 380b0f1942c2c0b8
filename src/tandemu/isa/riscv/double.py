"""D: double-precision floating point.

RISC-V Unprivileged ISA, chapter "D". Records only; the semantics are attached
by the instruction set.
"""

from __future__ import annotations

from tandemu.isa.riscv.formats import FD, FS1, LOAD_FP, RD, RS1, RV64, STORE_FP, load, store
from tandemu.isa.riscv.scalar_float import arithmetic, conversion, exact_single

INSTRUCTIONS = (
    load("fld", LOAD_FP, 3, 8, extension="D"),
    store("fsd", STORE_FP, 3, 8, extension="D"),
    *arithmetic("d", 1, "D"),
    conversion("fcvt.s.d", 0x20, 1, (FD, FS1), "D"),
    conversion("fcvt.d.s", 0x21, 0, (FD, FS1), "D", exact=True),
    exact_single("fmv.x.d", 0x71, 0, (RD, FS1), "D", xlens=RV64),
    exact_single("fmv.d.x", 0x79, 0, (FD, RS1), "D", xlens=RV64),
)
