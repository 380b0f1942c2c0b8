"""What the meaning of instructions becomes, as text that a reader can check.

A change of what is generated shows in the change of these files, which
``python -m tests.golden.test_golden`` writes anew. They hold some of each kind: stencils of both
guests, and routines of the privileged architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tandemu.ir import Function, Value
from tandemu.ir.printer import show
from tandemu.isa.architecture import Isa
from tandemu.isa.catalogue import find_isa
from tandemu.jit.memory.routines import build_ram_pointer
from tandemu.jit.shared.layout import cpu_layout
from tandemu.jit.translate.contexts import FlatStencilContext, StencilContext, Variant
from tandemu.jit.translate.stencils import Stencils
from tests.teaching.machine import NAME

HERE = Path(__file__).resolve().parent
RISCV = (
    *("add", "addi", "sltu", "srlw", "mul", "lui"),
    *("ld", "lb", "sw", "beq", "bltu", "jalr"),
    *("amoadd.w", "sc.d", "fadd.d", "fmadd.s", "fcvt.w.d", "feq.d"),
)
PROGRAM = ("lw", "sd", "amoswap.d", "fld")
TEACHING = ("mov", "add", "cmp", "mul", "addm", "ldx3", "stb", "blt", "jmpr")


def _stencils(
    isa: Isa, names: tuple[str, ...], context: type[StencilContext]
) -> Iterator[Function]:
    guest, state = isa.guest, isa.state
    stencils = Stencils(guest, state, cpu_layout(state), context)
    records = {record.name: record for record in guest.instructions.records}
    for name in names:
        # One whose sources are cached results, if there is such a one.
        variants = list(stencils.variants(records[name]))
        yield stencils.function(records[name], max(variants, key=_cached))


def _cached(variant: Variant) -> tuple[bool, bool]:
    return variant.rs1 == 0, variant.rs2 == 1


def _system() -> Iterator[Function]:
    isa = find_isa("riscv64")
    layout = cpu_layout(isa.state)
    system = isa.guest.system(layout, _clock, _clock, build_ram_pointer(layout))
    functions = system.privileged  # type: ignore[attr-defined]
    yield functions.take_trap
    yield functions.pending_interrupt
    yield functions.wakes
    yield functions.enter_float
    yield functions.translate


def _clock(b: object, cpu: object) -> Value:
    value: Value = cpu.mtimecmp  # type: ignore[attr-defined]
    return value


def golden() -> dict[str, str]:
    """The text of every file, by its name."""
    riscv, teaching = find_isa("riscv64"), find_isa(NAME)
    groups = {
        "riscv64-stencils": _stencils(riscv, RISCV, StencilContext),
        "riscv64-program-stencils": _stencils(riscv, PROGRAM, FlatStencilContext),
        "riscv64-system": _system(),
        "teaching-stencils": _stencils(teaching, TEACHING, StencilContext),
    }
    return {
        f"{name}.txt": "\n\n".join(map(show, functions)) + "\n"
        for name, functions in groups.items()
    }


def test_what_is_generated_is_what_was_read() -> None:
    for name, text in golden().items():
        path = HERE / name
        if path.read_text(encoding="utf-8") != text:
            pytest.fail(
                f"{name} says something else: look at the difference after "
                "`python -m tests.golden.test_golden`, and commit it if it is meant"
            )


if __name__ == "__main__":
    for file_name, content in golden().items():
        (HERE / file_name).write_text(content, encoding="utf-8")
