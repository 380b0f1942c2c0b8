"""Fences, environment calls, returns from traps, and address-translation fences.

RISC-V Unprivileged ISA, "Memory Ordering Instructions", "Environment Call and
Breakpoints", chapters "Zifencei" and "Zihintpause"; Privileged ISA, "Trap-Return
Instructions", "Wait for Interrupt", "Supervisor Memory-Management Fence
Instruction" and chapter "Svinval". Semantics of all but the plain fences belong
to the privileged architecture. The hypervisor's fences are left out.
"""

from __future__ import annotations

from tandemu.isa.instruction import Field, Instruction, Kind
from tandemu.isa.riscv.context import Context
from tandemu.isa.riscv.formats import BOTH, FUNCT3, MISC_MEM, RS1, RS2, exact


def fence(c: Context) -> None:
    c.fence()


def pause(c: Context) -> None:
    """A hint to the core; there is nothing to do."""


_IGNORED = (Field("ignored_rd", 7, 5), Field("ignored_rs1", 15, 5))
"""Fields of the fences that "base implementations shall ignore"."""

_FENCE = Instruction(
    name="fence",
    extension="I",
    xlens=BOTH,
    mask=FUNCT3 | 0x7F,
    match=MISC_MEM,
    # Reserved modes (fm) and sets are to be treated as a full or normal fence.
    fields=(*_IGNORED, Field("succ", 20, 4), Field("pred", 24, 4), Field("fm", 28, 4)),
    immediate=None,
    syntax="pred,succ",
    kind=Kind.STRAIGHT,
    semantics=fence,
)

_FENCE_I = Instruction(
    name="fence.i",
    extension="Zifencei",
    xlens=BOTH,
    mask=FUNCT3 | 0x7F,
    match=1 << 12 | MISC_MEM,
    fields=(*_IGNORED, Field("ignored_imm", 20, 12)),
    immediate=None,
    syntax="",
    kind=Kind.SYSTEM,
)

INSTRUCTIONS = (
    _FENCE,
    exact(
        "fence.tso",
        0x8330000F,
        extension="I",
        fields=_IGNORED,
        kind=Kind.STRAIGHT,
        semantics=fence,
        specialises="fence",
    ),
    exact(
        "pause",
        0x0100000F,
        extension="Zihintpause",
        kind=Kind.STRAIGHT,
        semantics=pause,
        specialises="fence",
    ),
    _FENCE_I,
    exact("ecall", 0x00000073, extension="I"),
    exact("ebreak", 0x00100073, extension="I"),
    exact("sret", 0x10200073, extension="priv"),
    exact("mret", 0x30200073, extension="priv"),
    exact("wfi", 0x10500073, extension="priv"),
    exact("sfence.vma", 0x12000073, extension="priv", fields=(RS1, RS2), syntax="rs1,rs2"),
    exact("sinval.vma", 0x16000073, extension="Svinval", fields=(RS1, RS2), syntax="rs1,rs2"),
    exact("sfence.w.inval", 0x18000073, extension="Svinval"),
    exact("sfence.inval.ir", 0x18100073, extension="Svinval"),
)
