"""What a debugger is told of an architecture: its registers, in groups, and its page tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import NamedTuple, cast

from tandemu.bits import Record
from tandemu.debug.errors import DebugError


class Register(NamedTuple):
    """A register as the debugger calls it; *source* is the engine's name of it.

    *type* is one of GDB's. Registers of a *group* are shown together.
    """

    name: str
    bits: int
    source: str = ""
    type: str = ""
    group: str = ""

    @property
    def bytes(self) -> int:
        """Its size in packets."""
        return self.bits // 8


class Feature(NamedTuple):
    """Registers that belong together, by one of the names that GDB knows or an own one."""

    name: str
    registers: tuple[Register, ...]
    types: str = ""
    """Definitions of types, as XML."""


class Page(NamedTuple):
    """Pages that are mapped alike, one behind the other: *rights* as ``rwxu`` and the like."""

    virtual: int
    physical: int
    size: int
    rights: str


ReadRegister = Callable[[str], int]
ReadPhysical = Callable[[int, int], bytes | None]
"""Reads memory by guest-physical address and size; None if not all of it is there."""


class DebugArchitecture(Record):
    """An architecture for debuggers."""

    name: str
    """GDB's."""
    features: tuple[Feature, ...]
    general: int
    """How many registers, counted from the first, come at once (packet g)."""
    pc: str
    """The engine's name of the program counter."""
    address_bits: int
    translate: Callable[[ReadRegister, ReadPhysical, int], int | None]
    """The guest-physical address of a virtual one, whoever may access it; None if unmapped."""
    pages: Callable[[ReadRegister, ReadPhysical], Iterator[Page]]
    """What the page tables in force map, in order; nothing if there is no translation."""
    system: tuple[str, ...] = ()
    """The engine's names of system registers, for people."""

    @cached_property
    def registers(self) -> tuple[Register, ...]:
        """All registers by their number in packets."""
        return tuple(register for feature in self.features for register in feature.registers)

    @cached_property
    def description(self) -> bytes:
        """The target description ("Debugging with GDB", appendix "Target Descriptions")."""
        lines = [
            '<?xml version="1.0"?>',
            '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
            '<target version="1.0">',
            f"<architecture>{self.name}</architecture>",
            # Else GDB takes a machine for a Linux program, and makes steps of breakpoints.
            "<osabi>none</osabi>",
        ]
        number = 0
        for feature in self.features:
            lines.append(f'<feature name="{feature.name}">{feature.types}')
            for register in feature.registers:
                kind = f' type="{register.type}"' if register.type else ""
                group = f' group="{register.group}"' if register.group else ""
                lines.append(
                    f'<reg name="{register.name}" bitsize="{register.bits}" '
                    f'regnum="{number}"{kind}{group}/>'
                )
                number += 1
            lines.append("</feature>")
        return "\n".join([*lines, "</target>", ""]).encode()


_MODULES: Mapping[str, str] = {
    "riscv64": "tandemu.debug.riscv",
    "riscv32": "tandemu.debug.riscv",
    "x86_64": "tandemu.debug.x86_64",
}


def find_architecture(name: str) -> DebugArchitecture:
    """The architecture called *name*; `DebugError` if debuggers are told nothing of it."""
    if name not in _MODULES:
        raise DebugError(
            f"{name} machines cannot be debugged yet, only {', '.join(_MODULES)}: leave --gdb out"
        )
    return cast("DebugArchitecture", import_module(_MODULES[name]).debug_architecture(name))
