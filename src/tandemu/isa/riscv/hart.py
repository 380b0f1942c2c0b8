"""The state of a RISC-V hart, and what the rest of the privileged architecture shares.

RISC-V Privileged ISA (version 1.13), chapters "Machine-Level ISA" and
"Supervisor-Level ISA". Every CSR is kept in 64 bits at either XLEN; at XLEN 32
the upper half of a CSR that has one stands in the same field.

The hypervisor extension, Smepmp, Smstateen and the counter-overflow extension
are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I64, PTR, Builder, Constant, IrError, Type, Value
from tandemu.ir.values import emit_effect
from tandemu.isa.effects import FLUSH_ALL, INTERRUPTS, MODE
from tandemu.isa.riscv.state import (
    FS,
    MIE,
    MPIE,
    MPP,
    MPP_LOW,
    MPRV,
    MXR,
    SIE,
    SPIE,
    SPP,
    SUM,
    TSR,
    TVM,
    TW,
    hart_fields,
)

Source = Callable[[Builder, Any], Value]
"""Emits the reading of a counter: (builder, hart) -> i64."""


@dataclass(frozen=True)
class Environment:
    """What the functions of the privileged architecture are built for."""

    layout: Layout
    """The engine's structure; it has the `hart_fields`."""
    xlen: int
    time: Source
    """Ticks of the machine's clock."""
    cycles: Source
    instructions: Source
    floating: bool = True
    """Whether F and D exist; if not, mstatus.FS is Off for ever."""

    def __post_init__(self) -> None:
        missing = [name for name in hart_fields(self.xlen) if name not in self.layout.fields]
        if missing:
            raise IrError(f"{self.layout.name} lacks {', '.join(missing)}: add hart_fields()")

    def begin(
        self,
        name: str,
        *parameters: str,
        result: Type | None = I64,
    ) -> tuple[Builder, Any]:
        """Begin function *name* of (cpu, *parameters*: i64); its builder and the hart."""
        typed = [("cpu", PTR), *((parameter, I64) for parameter in parameters)]
        b = Builder(f"riscv{self.xlen}_{name}", typed, result=result)
        return b, b.struct(self.layout, b.cpu)

    @property
    def status_mask(self) -> int:
        """The bits of mstatus that software can change."""
        bits = SIE | MIE | SPIE | MPIE | SPP | MPP | MPRV | SUM | MXR | TVM | TW | TSR
        return bits | (FS if self.floating else 0)


def any_set(value: Value, bits: Value | int) -> Value:
    """Return whether any of *bits* is set in *value*."""
    return (value & bits) != 0


def word(value: int) -> Constant:
    """Return a 64-bit constant."""
    return Constant(I64, value)


def add_effects(hart: Any, effects: Value | int) -> None:
    """Leave *effects* for the engine."""
    hart.effects = hart.effects | effects


def data_privilege(b: Builder, hart: Any) -> Value:
    """Return the privilege that loads and stores have now: MPRV lends that of MPP."""
    status = hart.mstatus
    return b.select(any_set(status, MPRV), status.bits(MPP_LOW, 2), hart.privilege)


def update_float_slow(b: Builder, hart: Any) -> None:
    """Bring `float_slow` in line with mstatus and frm."""
    fast = ((hart.mstatus & FS) == FS) & hart.frm.ule(3)
    hart.float_slow = b.select(fast, word(0), word(1))


def dirty_float(b: Builder, hart: Any) -> None:
    """Note that floating-point state changed; FS must not be Off."""
    hart.mstatus = hart.mstatus | FS
    update_float_slow(b, hart)


def set_status(b: Builder, hart: Any, value: Value) -> None:
    """Make *value*, legal but for MPP, the new mstatus, and leave the effects of the change."""
    old = hart.mstatus
    # Privilege 2 does not exist; MPP then keeps its value.
    reserved = value.bits(MPP_LOW, 2) == 2
    new = b.select(reserved, (value & ~MPP) | (old & MPP), value)
    hart.mstatus = new
    changed = old ^ new
    effects = b.select(any_set(changed, SUM | MPRV | MPP), word(MODE), word(0))
    effects = effects | b.select(any_set(changed, MXR), word(FLUSH_ALL), word(0))
    effects = effects | b.select(any_set(changed, SIE | MIE), word(INTERRUPTS), word(0))
    add_effects(hart, effects)
    update_float_slow(b, hart)


def host_float_flags(b: Builder) -> Value:
    """Return the flags that the host raised since they were last cleared, as in fflags."""
    flags = emit_effect("float_flags", builder=b)
    assert flags is not None
    return flags.resize(I64)


def clear_host_float_flags(b: Builder) -> None:
    emit_effect("float_clear_flags", builder=b)


def set_host_rounding(b: Builder, mode: Value) -> None:
    """Make the host round by *mode*, an frm of 0 to 3."""
    emit_effect("float_set_rounding", mode, builder=b)
