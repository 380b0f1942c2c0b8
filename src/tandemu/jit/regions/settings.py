"""How eager the optimiser is, and the user's word on it: `TANDEMU_OPTIMISER`.

``off``: stencils alone; ``on``: hot code is compiled; ``fresh``: without what is on disk, nor
for it. For tests, ``eager``: every block where a slice ends is compiled, and ``stress``:
slices are short, too, and all waits for the compiler.
"""

from __future__ import annotations

import os

from tandemu.accel import AccelError
from tandemu.jit.regions.installer import OptimiserSettings

_VARIABLE = "TANDEMU_OPTIMISER"
_STRESS_SLICE = 1 << 10


def optimiser_settings(threshold: int, slice_length: int, patience: int) -> OptimiserSettings:
    """The settings in force where a slice has *slice_length* instructions.

    *threshold*: slices that must end at a block before it is hot, a power of two. *patience*:
    slices before a process that compiles is started.
    """
    word = os.environ.get(_VARIABLE) or "on"
    match word:
        case "on":
            return OptimiserSettings(threshold, slice_length, patience)
        case "fresh":
            return OptimiserSettings(threshold, slice_length, patience, kept=False)
        case "off":
            return OptimiserSettings(0, slice_length, patience)
        case "eager":
            return OptimiserSettings(1, slice_length, 0)
        case "stress":
            return OptimiserSettings(1, _STRESS_SLICE, 0, synchronous=True)
    raise AccelError(f"{_VARIABLE}={word}: must be on, fresh, off, eager or stress")
