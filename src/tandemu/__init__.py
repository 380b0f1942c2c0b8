"""Tandemu: a machine you hold in Python.

    from tandemu import Machine

The names below are imported when they are first used, so that ``import tandemu`` and
the command line's help load no engine.
"""

from __future__ import annotations

# Type checkers know this name; importing typing would double the time of an import.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from tandemu.cli.version import VERSION as __version__
    from tandemu.machine import Machine, MachineError, MachineTimeout, Result

__all__ = ["Machine", "MachineError", "MachineTimeout", "Result", "__version__"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tandemu' has no attribute {name!r}")
    value: object
    if name == "__version__":
        from tandemu.cli.version import VERSION as value
    else:
        from tandemu import machine

        value = getattr(machine, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
