"""A guest architecture as one value: what an engine may know of it, and where the rest is.

`Isa` is what `isa.catalogue` finds by name. It holds plain numbers (`State`), for a start from a
warm cache needs no more; its other facets are modules that are imported when they are asked for:
`control`, what Python does with a processor at rest, and `guest`, all that code is generated
from (`isa.guest`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from tandemu.bits import Array, Layout, Record, Scalar
from tandemu.isa.errors import IsaError

if TYPE_CHECKING:
    from tandemu.isa.guest import Guest


class RegisterFile(Record):
    """Registers of one kind, an array of the state: *count* of *bits* bits.

    *zero*: the one that is always zero; what is written to it goes to the element *sink* of the
    array, behind the last register. *floating*: compiled regions hold them as doubles. *vector*:
    they are vectors (`ir.types.V`), kept as words of 64 bits, the lowest first.
    """

    name: str
    count: int
    bits: int
    zero: int | None = None
    sink: int | None = None
    floating: bool = False
    vector: bool = False


class Faults(Record):
    """The numbers that `trap_cause` has for what the engine itself finds wrong."""

    load: int
    """Nothing answers where a load goes …"""
    store: int
    """… or a store, or an atomic access."""
    load_misaligned: int
    store_misaligned: int
    fetch: int
    """There is no memory that code could be fetched from."""
    illegal: int
    """No such instruction; `trap_value` holds its bytes."""


class State(Record):
    """The registers of one guest, and the numbers that the translator needs.

    *fields* gives the fields of its structure by name. It has those of every file, `pc`,
    `effects`, `fence_kind`, `fence_address` (`isa.effects`) and what the page walk answers in:
    `walk_physical`, `walk_size`, `walk_leaf`, `walk_permissions` (`isa.guest.Guest`).
    """

    name: str
    address_bits: int
    """Width of addresses, and of the registers of the first file."""
    fields: Callable[[], Mapping[str, Scalar | Array | Layout]]
    files: tuple[RegisterFile, ...]
    """The first one's registers stay in host registers, where a block or a region can."""
    pinned: tuple[int, ...]
    """The registers of the first file that regions hand on in host registers."""
    alignment: int
    """Bytes that the address of every instruction is a multiple of: 1, 2 or 4."""
    longest: int
    """Bytes of the longest instruction."""
    faults: Faults
    large_pages: tuple[int, ...] = ()
    """The log2 of the sizes that an entry of a page table can have, above a page."""
    contexts: int = 1
    """How many contexts code can run in whose addresses mean something else, or whose rights are
    others; a program's is number 0."""
    unpaged: frozenset[int] = frozenset()
    """The contexts in which addresses are physical: jumps go freely between pages there."""
    code_visible_at_once: bool = False
    """Whether what was written is what runs next, without a fence."""
    float_guard: str = ""
    """A field that is not zero while floating-point instructions go to the interpreter."""

    @cached_property
    def main(self) -> RegisterFile:
        """The first file."""
        return self.files[0]

    @cached_property
    def by_file(self) -> Mapping[str, RegisterFile]:
        """The files by name."""
        return {file.name: file for file in self.files}

    @cached_property
    def first(self) -> Mapping[str, int]:
        """The number of each file's first register, where all are counted together."""
        numbers: dict[str, int] = {}
        total = 0
        for file in self.files:
            numbers[file.name] = total
            total += file.count
        return numbers

    @cached_property
    def register_count(self) -> int:
        """How many registers there are in all files."""
        return sum(file.count for file in self.files)

    def file_of(self, register: int) -> RegisterFile:
        """The file of *register*, all being counted together."""
        for file in self.files:
            if register < self.first[file.name] + file.count:
                return file
        raise IsaError(f"register {register}: {self.name} has {self.register_count}")

    def number(self, file: str, index: int) -> int | None:
        """The number of register *index* of *file*, all counted together; None if it is zero."""
        return None if index == self.by_file[file].zero else self.first[file] + index


class ProgramCauses(NamedTuple):
    """What the numbers in `trap_cause` mean where a program is run instead of a machine."""

    call: int
    """The program calls its system."""
    fetch: int
    """No instruction may be fetched there."""
    load: frozenset[int]
    store: frozenset[int]
    """The host refuses an access: the first number of each is what the engine itself notes."""
    misaligned: frozenset[int]
    breakpoint: frozenset[int]


class CallConvention(NamedTuple):
    """Where a program's system call has its number, its arguments and its result."""

    number: int
    arguments: tuple[int, ...]
    """Registers of the first file."""
    result: int
    size: int
    """Bytes of the instruction."""


ChangeInputs = Callable[[int, bool], None]
"""Sets the interrupt inputs with the bits of its first argument, or clears them."""


class Control(Protocol):
    """What Python does with a processor at rest, whose live structure is *view*."""

    causes: ProgramCauses
    call: CallConvention
    clock: str
    """The name of the register that shows the machine's clock."""
    dumped: Sequence[str]
    """The registers that are shown to people."""
    state_names: Sequence[str]
    """All architectural state by name, in an order in which it can be set."""
    load_refused: int
    store_refused: int
    """What `trap_cause` says where the host refuses a program's load, or its store."""

    def reset(self, view: Any, number: int, *, firmware_calls: bool) -> None:
        """The state after reset of processor *number*.

        *firmware_calls*: the engine answers calls of firmware; the state is what that hands over.
        """

    def begin_program(self, view: Any) -> None:
        """The state in which a foreign program's processor begins, all registers zero."""

    def deadline(self, view: Any) -> int:
        """The tick at which its next timer interrupt is due."""

    def is_pending(self, view: Any) -> bool:
        """Whether an interrupt is pending that ends a wait."""

    def context(self, view: Any) -> int:
        """The number of the context that code runs in now."""

    def context_name(self, context: int) -> str:
        """What a person calls it."""

    def get(self, view: Any, register: str) -> int | None:
        """A register whose value stands in the structure as it is; None: ask `Guest`'s."""

    def set(self, view: Any, register: str, value: int, change: ChangeInputs) -> bool:
        """The same to set one; False: ask `Guest`'s registers."""

    def ends_wait(self, register: str) -> bool:
        """Whether setting *register* may end a wait."""


class Isa(Record):
    """A guest architecture."""

    name: str
    state: State
    control_module: str
    """The module whose `control(isa)` gives the `Control`; it loads no generator."""
    guest_module: str
    """The module whose `guest(isa)` gives the `Guest`."""
    revision: str = ""
    """Tells what is generated from this one apart from what an earlier one gave. Not needed below
    `tandemu`, whose source files are all part of the key of what is kept."""

    @cached_property
    def control(self) -> Control:
        """What Python does with a processor at rest."""
        return cast("Control", import_module(self.control_module).control(self))

    @cached_property
    def guest(self) -> Guest:
        """What code is generated from: loads the records and the embedded language."""
        return cast("Guest", import_module(self.guest_module).guest(self))
