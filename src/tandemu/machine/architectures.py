"""The architectures and boards a machine can have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from tandemu import board as boards
from tandemu.bits import Record
from tandemu.board import BoardError
from tandemu.machine.errors import OptionError

if TYPE_CHECKING:
    from tandemu.board import RiscvVirt, X86Microvm

    Board = RiscvVirt | X86Microvm

_RISCV_COMMON = (
    "zicbom",
    "zicboz",
    "zicntr",
    "zicond",
    "zicsr",
    "zifencei",
    "zihpm",
    "zba",
    "zbb",
    "zbs",
    "sstc",
    "svinval",
)


class Architecture(Record):
    """What a guest of this architecture runs on; *boards* maps names to their makers.

    A maker takes the memory in bytes and the number of CPUs. The first board is the default.
    """

    name: str
    xlen: int
    boards: Mapping[str, Callable[[int, int], Board]]


def _riscv64_virt(memory_bytes: int, cpus: int) -> RiscvVirt:
    extensions = ("i", "m", "a", "f", "d", "c", *_RISCV_COMMON)
    return boards.RiscvVirt(memory_bytes, cpus, 64, extensions, "sv48")


def _x86_64_microvm(memory_bytes: int, cpus: int) -> X86Microvm:
    return boards.X86Microvm(memory_bytes, cpus)


ARCHITECTURES: Mapping[str, Architecture] = {
    "riscv64": Architecture("riscv64", 64, {"riscv-virt": _riscv64_virt}),
    "x86_64": Architecture("x86_64", 64, {"x86-microvm": _x86_64_microvm}),
}


def _known(kind: str, name: str, known: Iterable[str]) -> OptionError:
    import difflib  # only for somebody who misspelt a name

    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return OptionError(f"no {kind} is called {name!r}{hint}: must be one of {', '.join(names)}")


def find_architecture(name: str) -> Architecture:
    """The architecture called *name*; `OptionError` with the known ones."""
    if name not in ARCHITECTURES:
        raise _known("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def make_board(architecture: Architecture, name: str, memory_bytes: int, cpus: int) -> Board:
    """The board called *name* (empty: the first) with so much memory and so many CPUs."""
    name = name or next(iter(architecture.boards))
    if name not in architecture.boards:
        raise _known("board", name, architecture.boards)
    try:
        return architecture.boards[name](memory_bytes, cpus)
    except BoardError as error:
        raise OptionError(str(error)) from error
