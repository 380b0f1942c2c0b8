"""The registers of a machine as text, on request, while it runs or when it broke down.

A vCPU's registers belong to its thread, so a request kicks all vCPUs, each thread writes
its own part when it comes by, and goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from tandemu.accel import Vcpu
from tandemu.board import Hart, HartState

PATIENCE_S = 10.0
_KICK_INTERVAL_S = 0.2
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
    """The registers of *vcpu* as text. Its own thread."""
    if isinstance(vcpu, Dumping):
        text = vcpu.dump()
    else:
        cells = [f"{name:>9} {vcpu.get(name):016x}" for name in _RISCV]
        starts = range(0, len(cells), _A_LINE)
        text = "\n".join("".join(cells[start : start + _A_LINE]) for start in starts)
    return f"processor {vcpu.index}\n{text}"


class DumpRequest:
    """One request: made by any thread, filled by the harts' threads."""

    def __init__(self, harts: Sequence[Hart], is_over: Callable[[], bool]) -> None:
        self._harts = harts
        self._is_over = is_over
        self._parts: dict[int, str] = {}
        self._lock = threading.Lock()
        self._news = threading.Event()

    def answer(self, vcpu: Vcpu) -> None:
        """Write down the registers of *vcpu*. Its own thread."""
        with self._lock:
            if vcpu.index in self._parts:
                return
        text = describe(vcpu)
        with self._lock:
            self._parts[vcpu.index] = text
        self._news.set()

    def collect(self) -> str:
        """Kick what runs until all have answered; what does not within `PATIENCE_S` is said."""
        for _ in range(int(PATIENCE_S / _KICK_INTERVAL_S)):
            self._news.clear()
            missing = [
                hart
                for hart in self._harts
                if hart.state is HartState.STARTED and hart.index not in self._parts
            ]
            if not missing or self._is_over():
                break
            for hart in missing:
                hart.vcpu.kick()
            self._news.wait(_KICK_INTERVAL_S)
        with self._lock:
            return "\n".join(self._parts.get(hart.index) or self._absent(hart)
                             for hart in self._harts)  # fmt: skip

    @staticmethod
    def _absent(hart: Hart) -> str:
        why = "does not answer" if hart.state is HartState.STARTED else "is not started"
        return f"processor {hart.index} {why}"
