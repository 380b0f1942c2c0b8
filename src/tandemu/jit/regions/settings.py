"""How eager the optimiser is, and the user's word on it: `TANDEMU_OPTIMISER`.

``off``: stencils alone; ``on``: hot code is compiled; ``fresh``: without what is on disk, nor
for it. For tests, ``eager``: every block where a slice ends is compiled, and ``stress``:
slices are short, too, and all waits for the compiler.
"""

from __future__ import annotations

import os

from tandemu.accel.errors import AccelError
from tandemu.jit.regions.installer import OptimiserSettings

_VARIABLE = "TANDEMU_OPTIMISER"
_STRESS_SLICE = 1 << 10


def optimiser_settings(
    threshold: int, slice_length: int, patience: int, patience_for_one: int
) -> OptimiserSettings:
    """The settings in force; the arguments are those of an optimiser that is on."""
    settings = OptimiserSettings(threshold, slice_length, patience, patience_for_one)
    word = os.environ.get(_VARIABLE) or "on"
    match word:
        case "on":
            return settings
        case "fresh":
            return settings._replace(kept=False)
        case "off":
            return settings._replace(threshold=0)
        case "eager":
            return OptimiserSettings(1, slice_length, 0, 0)
        case "stress":
            return OptimiserSettings(1, _STRESS_SLICE, 0, 0, synchronous=True)
    raise AccelError(f"{_VARIABLE}={word}: must be on, fresh, off, eager or stress")
