"""Platform-level interrupt controller: RISC-V PLIC specification 1.0.0, as SiFive builds it.

Up to 1023 level-triggered sources, each with a priority; a context (a hart's
M-mode or S-mode) has enable bits, a threshold and a claim/complete register.
A source whose line falls before it is claimed is no longer pending, as in QEMU.

Left out: edge-triggered gateways.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from tandemu.device.registers import (
    Access,
    DeviceError,
    InterruptLine,
    Peripheral,
    Register,
    RegisterMap,
    state,
    states,
)

MAX_SOURCES = 1023
MAX_CONTEXTS = 1024
PRIORITY_MASK = 7

_WORDS = 32
_CONTEXT_BASE, _CONTEXT_STRIDE = 0x200000, 0x1000


class Plic(Peripheral):
    """A PLIC with sources 1 to *sources*; *outputs* are the contexts' lines, in order."""

    registers = RegisterMap(
        Register("priority", 0, count=MAX_SOURCES + 1),
        Register("pending", 0x1000, count=_WORDS, access=Access.RO),
        Register("enable", 0x2000, count=MAX_CONTEXTS * _WORDS),
        Register("threshold", _CONTEXT_BASE, count=MAX_CONTEXTS, stride=_CONTEXT_STRIDE),
        Register("claim", _CONTEXT_BASE + 4, count=MAX_CONTEXTS, stride=_CONTEXT_STRIDE),
    )

    outputs: Sequence[InterruptLine]
    sources: int = 95

    priorities: list[int] = states(MAX_SOURCES + 1, 32)
    enables: list[int] = states(MAX_CONTEXTS, MAX_SOURCES + 1)
    thresholds: list[int] = states(MAX_CONTEXTS, 32)
    levels: int = state(MAX_SOURCES + 1)
    """Inputs that are high, bit by source."""
    claimed: int = state(MAX_SOURCES + 1)
    """Sources that a context has claimed and not completed."""

    def prepare(self) -> None:
        if not 0 < self.sources <= MAX_SOURCES or len(self.outputs) > MAX_CONTEXTS:
            raise DeviceError(
                f"PLIC with {self.sources} sources and {len(self.outputs)} contexts: must be"
                f" 1 to {MAX_SOURCES} sources and at most {MAX_CONTEXTS} contexts"
            )
        self._lock = threading.Lock()
        self._existing = (1 << self.sources + 1) - 2
        self._driven = [False] * len(self.outputs)

    def restored(self) -> None:
        with self._lock:
            self.levels &= self._existing
            self.claimed &= self._existing
            self._driven = [False] * len(self.outputs)
            for output in self.outputs:
                output(False)
            self._update()

    def line(self, source: int) -> InterruptLine:
        """Return the input of *source*: a callable that takes the level. Any thread."""
        if not 0 < source <= self.sources:
            raise DeviceError(f"interrupt source {source}: must be 1 to {self.sources}")
        return partial(self._drive, 1 << source)

    # Registers

    def read_priority(self, index: int) -> int:
        return self.priorities[index]

    def write_priority(self, index: int, value: int) -> None:
        with self._lock:
            if 0 < index <= self.sources:
                self.priorities[index] = value & PRIORITY_MASK
                self._update()

    def read_pending(self, index: int) -> int:
        return (self.levels & ~self.claimed) >> 32 * index & 0xFFFF_FFFF

    def read_enable(self, index: int) -> int:
        context, word = divmod(index, _WORDS)
        return self.enables[context] >> 32 * word & 0xFFFF_FFFF

    def write_enable(self, index: int, value: int) -> None:
        context, word = divmod(index, _WORDS)
        if context >= len(self.outputs):
            return
        with self._lock:
            kept = self.enables[context] & ~(0xFFFF_FFFF << 32 * word)
            self.enables[context] = (kept | value << 32 * word) & self._existing
            self._update()

    def read_threshold(self, context: int) -> int:
        return self.thresholds[context]

    def write_threshold(self, context: int, value: int) -> None:
        if context >= len(self.outputs):
            return
        with self._lock:
            self.thresholds[context] = value & PRIORITY_MASK
            self._update()

    def read_claim(self, context: int) -> int:
        """Claim the pending source of the highest priority; the threshold does not matter (10)."""
        with self._lock:
            source = self._best(context, 0)
            if source:
                self.claimed |= 1 << source
                self._update()
            return source

    def write_claim(self, context: int, value: int) -> None:
        """Complete source *value*; ignored if the context has not enabled it."""
        if value > self.sources:
            return
        with self._lock:
            self.claimed &= ~(1 << value & self.enables[context])
            self._update()

    # Inside

    def _drive(self, bit: int, level: bool) -> None:
        with self._lock:
            self.levels = self.levels | bit if level else self.levels & ~bit
            self._update()

    def _best(self, context: int, above: int) -> int:
        """The pending, enabled source of the highest priority over *above*; 0 if none is."""
        candidates = self.levels & ~self.claimed & self.enables[context]
        best = 0
        while candidates:
            lowest = candidates & -candidates
            source = lowest.bit_length() - 1
            if self.priorities[source] > above:
                best, above = source, self.priorities[source]
            candidates ^= lowest
        return best

    def _update(self) -> None:
        """Drive the lines that have changed."""
        driven = self._driven
        for context, output in enumerate(self.outputs):
            level = self._best(context, self.thresholds[context]) != 0
            if level != driven[context]:
                driven[context] = level
                output(level)
