"""The guest architectures by name.

An architecture is found when it is asked for: a row names the module that holds it.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from tandemu.isa.architecture import Isa
from tandemu.isa.errors import IsaError

_ROWS: dict[str, tuple[str, str]] = {
    "riscv64": ("tandemu.isa.riscv.architecture", "RISCV64"),
    "riscv32": ("tandemu.isa.riscv.architecture", "RISCV32"),
    "aarch64": ("tandemu.isa.arm.architecture", "AARCH64"),
}
"""The module, and the name of the `Isa` in it, by the architecture's name."""


def names() -> tuple[str, ...]:
    """The architectures that there are."""
    return tuple(_ROWS)


def add(name: str, module: str, attribute: str) -> None:
    """Add an architecture: *attribute* of *module*. `IsaError` if there is another of its name."""
    if _ROWS.setdefault(name, (module, attribute)) != (module, attribute):
        raise IsaError(f"there is a guest architecture called {name!r} already: choose another")


def find_isa(name: str) -> Isa:
    """The architecture called *name*; `IsaError` with those that there are.

    >>> find_isa("riscv32").state.address_bits
    32
    """
    if name not in _ROWS:
        raise IsaError(
            f"no guest architecture is called {name!r}: must be one of {', '.join(_ROWS)}"
        )
    module, attribute = _ROWS[name]
    return cast("Isa", getattr(import_module(module), attribute))
