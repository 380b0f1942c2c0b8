"""F: single-precision floating point.

RISC-V Unprivileged ISA, chapter "F". Records only; the semantics are attached
by the instruction set.
"""

from __future__ import annotations

from tandemu.isa.riscv.formats import FD, FS1, LOAD_FP, RD, RS1, STORE_FP, load, store
from tandemu.isa.riscv.scalar_float import arithmetic, exact_single

INSTRUCTIONS = (
    load("flw", LOAD_FP, 2, 4, extension="F"),
    store("fsw", STORE_FP, 2, 4, extension="F"),
    *arithmetic("s", 0, "F"),
    exact_single("fmv.x.w", 0x70, 0, (RD, FS1), "F"),
    exact_single("fmv.w.x", 0x78, 0, (FD, RS1), "F"),
)
