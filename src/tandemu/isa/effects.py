"""What an instruction, or a trap, leaves for the engine to do: bits of a state's `effects`.

Every guest's structure has the fields `effects`, `fence_kind` and `fence_address`; the engine
acts on them when the instruction is over (`jit.run.dispatcher`). Plain numbers.
"""

from __future__ import annotations

MODE = 1 << 0
"""What decides how addresses are translated changed, or who runs: select another TLB."""
FLUSH_ALL = 1 << 1
"""Forget every address translation of this vCPU."""
FENCE = 1 << 2
"""A fence of address translations is pending; its operands are in `fence_*`."""
INSTRUCTIONS = 1 << 3
"""Instruction memory changed."""
INTERRUPTS = 1 << 4
"""An interrupt may have become deliverable."""
TIMER = 1 << 5
"""A timer's deadline or its enable changed: arm it anew."""
COUNTERS = 1 << 6
"""A counter was written or stopped."""
WAIT = 1 << 7
"""Wait for an interrupt."""
FLOAT = 1 << 8
"""The rounding mode changed; the host's is already set."""

FENCE_ADDRESS = 1 << 0
"""In `fence_kind`: only the page of `fence_address`."""
