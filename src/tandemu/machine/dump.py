"""The registers of a machine as text, while it runs or when it broke down."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tandemu.accel import Vcpu

_A_LINE = 4
_RISCV = (
    *("pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{number}" for number in range(8)),
    *(f"s{number}" for number in range(2, 12)),
    *("t3", "t4", "t5", "t6", "mstatus", "mepc", "mcause", "mtval"),
    *("sepc", "scause", "stval", "satp"),
)


@runtime_checkable
class Dumping(Protocol):
    """What a vCPU that shows its registers itself offers besides `Vcpu`."""

    def dump(self) -> str:
        """The registers as text."""


def describe(vcpu: Vcpu) -> str:
    """The registers of *vcpu*, which is at rest, as text."""
    if isinstance(vcpu, Dumping):
        text = vcpu.dump()
    else:
        cells = [f"{name:>9} {vcpu.get(name):016x}" for name in _RISCV]
        starts = range(0, len(cells), _A_LINE)
        text = "\n".join("".join(cells[start : start + _A_LINE]) for start in starts)
    return f"processor {vcpu.index}\n{text}"
