"""The architectures and boards a machine can have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tandemu import board as boards
from tandemu.bits import Record
from tandemu.board import BoardError
from tandemu.machine.errors import OptionError

if TYPE_CHECKING:
    from tandemu.accel import Vcpu, Vm
    from tandemu.board import Board, BootPlan, Images, Instance, Lent, RiscvVirt, X86Microvm

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


class BoardKind(Record):
    """A board there is: how to make its value, what it begins with, how to put it together.

    *make* takes the memory in bytes and the number of CPUs. *plan* and *assemble* are the names of
    functions of the package `board`, which has them loaded when they are needed: `Images` to
    `BootPlan`, and (board, VM, vCPUs, `Lent`) to `Instance`.
    """

    make: Callable[[int, int], Board]
    plan: str
    assemble: str


class Architecture(Record):
    """What a guest of this architecture runs on; the first of *boards* is the default."""

    name: str
    xlen: int
    boards: Mapping[str, BoardKind]


_RISCV_EXTENSIONS = ("i", "m", "a", "f", "d", "c", *_RISCV_COMMON)


def _riscv64_virt(memory_bytes: int, cpus: int) -> RiscvVirt:
    return boards.RiscvVirt(memory_bytes, cpus, 64, _RISCV_EXTENSIONS, "sv48")


def _riscv32_virt(memory_bytes: int, cpus: int) -> RiscvVirt:
    return boards.RiscvVirt(memory_bytes, cpus, 32, _RISCV_EXTENSIONS, "sv32")


def _x86_64_microvm(memory_bytes: int, cpus: int) -> X86Microvm:
    return boards.X86Microvm(memory_bytes, cpus)


_RISCV_FUNCTIONS = ("plan_riscv_virt", "assemble_riscv_virt")
RISCV64_VIRT = BoardKind(_riscv64_virt, *_RISCV_FUNCTIONS)
RISCV32_VIRT = BoardKind(_riscv32_virt, *_RISCV_FUNCTIONS)
X86_MICROVM = BoardKind(_x86_64_microvm, "plan_x86_microvm", "assemble_x86_microvm")

ARCHITECTURES: Mapping[str, Architecture] = {
    "riscv64": Architecture("riscv64", 64, {"riscv-virt": RISCV64_VIRT}),
    "riscv32": Architecture("riscv32", 32, {"riscv-virt": RISCV32_VIRT}),
    "x86_64": Architecture("x86_64", 64, {"x86-microvm": X86_MICROVM}),
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


class BoardChoice(Record):
    """A board of a kind, with so much memory and so many CPUs."""

    kind: BoardKind
    board: Board

    def plan(self, images: Images) -> BootPlan:
        """What it begins with; `BoardError` says what does not fit."""
        plan: BootPlan = getattr(boards, self.kind.plan)(self.board, images)
        return plan

    def settled(self, plan: BootPlan) -> BoardChoice:
        """The board as *plan* has it: some look at what they begin with."""
        return self if plan.board is None else BoardChoice(self.kind, plan.board)

    def assemble(self, vm: Vm, vcpus: Sequence[Vcpu], lent: Lent) -> Instance:
        """The board put together."""
        instance: Instance = getattr(boards, self.kind.assemble)(self.board, vm, vcpus, lent)
        return instance


def choose_board(
    architecture: Architecture, name: str, memory_bytes: int, cpus: int
) -> BoardChoice:
    """The board called *name* (empty: the first) with so much memory and so many CPUs."""
    name = name or next(iter(architecture.boards))
    if name not in architecture.boards:
        raise _known("board", name, architecture.boards)
    kind = architecture.boards[name]
    try:
        return BoardChoice(kind, kind.make(memory_bytes, cpus))
    except BoardError as error:
        raise OptionError(str(error)) from error
