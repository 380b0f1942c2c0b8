"""RV32 and RV64 as guest architectures: the numbers that a translator needs of them."""

from __future__ import annotations

from functools import partial

from tandemu.isa.architecture import Faults, Isa, RegisterFile, State
from tandemu.isa.riscv.state import (
    ILLEGAL_INSTRUCTION,
    INSTRUCTION_ACCESS_FAULT,
    LOAD_ACCESS_FAULT,
    LOAD_MISALIGNED,
    MACHINE_CODE,
    STORE_ACCESS_FAULT,
    STORE_MISALIGNED,
    hart_fields,
)

_SP, _A0, _A4, _A5 = 2, 10, 14, 15


def _isa(xlen: int, large_pages: tuple[int, ...]) -> Isa:
    return Isa(
        name=f"riscv{xlen}",
        state=State(
            name=f"riscv{xlen}",
            address_bits=xlen,
            fields=partial(hart_fields, xlen),
            files=(
                RegisterFile("x", 32, xlen, zero=0, sink=32),
                RegisterFile("f", 32, 64, floating=True),
            ),
            # The most used ones.
            pinned=(_SP, _A0, _A4, _A5),
            alignment=2,
            longest=4,
            faults=Faults(
                load=LOAD_ACCESS_FAULT,
                store=STORE_ACCESS_FAULT,
                load_misaligned=LOAD_MISALIGNED,
                store_misaligned=STORE_MISALIGNED,
                fetch=INSTRUCTION_ACCESS_FAULT,
                illegal=ILLEGAL_INSTRUCTION,
            ),
            large_pages=large_pages,
            contexts=3,
            unpaged=frozenset({MACHINE_CODE}),
            float_guard="float_slow",
        ),
        control_module="tandemu.isa.riscv.control",
        guest_module="tandemu.isa.riscv.guest",
    )


RISCV64 = _isa(64, (21, 30, 39))
RISCV32 = _isa(32, (22,))
BY_XLEN = {64: RISCV64, 32: RISCV32}
