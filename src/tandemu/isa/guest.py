"""What code is generated from: the facets of a guest architecture that need the records.

A `Guest` says how instructions are fetched, told apart and traced; a `System` is its privileged
architecture, built for one engine. Their methods that take a builder *b* and the live structure
*cpu* emit what the engine puts at that place; a value they give back is one of the embedded
language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tandemu.bits import Layout
from tandemu.ir import Builder, Evaluator, Function, I, Type, V, Value
from tandemu.isa.architecture import Isa, RegisterFile
from tandemu.isa.decoder import Decoded, Decoder
from tandemu.isa.instruction import Instruction

RESULTS = ("rd", "rd2")
SOURCES = ("rs1", "rs2", "rs3")
"""What the register operands of records are called, by role. A semantic function may read results
and write sources too: what it does is found by tracing (`isa.tracing.trace_operands`)."""


def register_type(file: RegisterFile) -> Type:
    """The type that a register of *file* has in generated code."""
    return V(file.bits) if file.vector else I(file.bits)


class Place(NamedTuple):
    """Where an operand stands in the word of every instruction that has it."""

    low: int
    width: int


class Rounding(NamedTuple):
    """The operand that says how an instruction rounds, and what its values mean."""

    field: str
    place: Place
    dynamic: int
    """As the state says, whose mode is in force in the host."""
    towards_zero: int
    host: frozenset[int]
    """The values that the host can do."""


class Instructions(Protocol):
    """An instruction set with every meaning attached."""

    @property
    def records(self) -> Sequence[Instruction]:
        """Form *n* of the decoder is ``records[n - 1]``."""

    @property
    def decoder(self) -> Decoder: ...


class Fetched(NamedTuple):
    """An instruction in generated code, 64-bit values: *word* holds its operands, *raw* is what
    stands in memory, *length* its bytes."""

    word: Value
    raw: Value
    length: Value


class Fetch(Protocol):
    """How generated code takes instructions from guest memory.

    Where a page ends, what the following one may hold of the instruction has to be found first.
    """

    def near_end(self, within: Value) -> Value:
        """Whether an instruction *within* bytes into its page may go on on the next one."""

    def crosses(self, b: Builder, cpu: Any, place: Value, within: Value) -> Value:
        """Whether the one at host address *place*, for which `near_end` holds, does."""

    def beyond(self, pc: Value) -> Value:
        """The address of its first byte on the following page."""

    def rest(self, b: Builder, place: Value) -> Value:
        """What the following page, at host address *place*, may hold of it: tells it apart."""

    def fetch(self, b: Builder, cpu: Any, place: Value, pc: Value, rest: Value) -> Fetched:
        """The instruction at host address *place*; *rest* is used where the page ends.

        *raw* is what the interpreter is given if there is no such instruction.
        """


class System(Protocol):
    """The privileged architecture, and all that it is asked between instructions."""

    instructions: Instructions
    translate: Function
    """(cpu, virtual, access, size, privilege) -> 0, or what becomes `trap_cause`.

    *access*: 0 to read, 1 to write, 2 to execute *size* bytes. On 0 `walk_physical` holds the
    physical address, `walk_size` the log2 of the size of what the answer holds for, 0 if for this
    address only, `walk_leaf` that of the leaf entry's page, `walk_permissions` bits of 1 << access.
    """

    def fetch_privilege(self, cpu: Any) -> Value:
        """What `translate` takes as the privilege for fetching now."""

    def regime(self, b: Builder, cpu: Any) -> tuple[Value, Value]:
        """The number of the TLB for data now, 0 the one without translation; the privilege."""

    def context(self, b: Builder, cpu: Any) -> Value:
        """The number of the context that code runs in now (`State.contexts`)."""

    def take_trap(self, b: Builder, cpu: Any, cause: Value, value: Value | int) -> None:
        """Enter the guest's handler of a trap at pc."""

    def pending_interrupt(self, b: Builder, cpu: Any) -> Value:
        """The number of the interrupt to take now; negative if there is none."""

    def interrupt_cause(self, number: Value) -> Value:
        """The cause that `take_trap` has for it."""

    def wakes(self, b: Builder, cpu: Any) -> Value:
        """Not zero if a processor that waits has to go on."""

    def update_timers(self, b: Builder, cpu: Any, now: Value) -> None:
        """Bring the timers' interrupts in line with the clock."""

    def set_interrupt(self, b: Builder, cpu: Any, bits: Value, level: Value) -> None:
        """Change interrupt inputs; any thread may."""

    def take_message(self, b: Builder, cpu: Any, number: Value) -> None:
        """Take message *number*, if processors take such themselves; any thread may."""

    def begin_floats(self, b: Builder, cpu: Any) -> Value:
        """Give the guest its floating-point environment; the host's own."""

    def collect_floats(self, b: Builder, cpu: Any) -> None:
        """Bring the state's floating-point part up to date with the host's."""

    def restored_floats(self, b: Builder, cpu: Any) -> None:
        """The state's floating-point part was written by others: make the host's like it."""

    def end_floats(self, b: Builder, cpu: Any, saved: Value) -> None:
        """Put the host's back, *saved* being what `begin_floats` gave."""

    def correct_trap(
        self,
        b: Builder,
        cpu: Any,
        pc: Value,
        length: Value,
        read: Callable[[Callable[[Value], None]], None],
    ) -> None:
        """Correct the trap that an instruction at *pc* of an exit descriptor led to.

        *read* calls its argument with the host address of *pc*, if it can be fetched.
        """

    def registers(self, evaluator: Evaluator) -> Registers:
        """The registers by name."""

    def software_rounding(self, view: Any) -> int:
        """The rounding mode that the evaluator works in, as `ir.softfloat` numbers them."""

    def software_flags(self, view: Any, flags: int) -> None:
        """Add the floating-point exceptions that the evaluator raised."""


class Registers(Protocol):
    """Reading and writing the registers of a processor at rest by their names."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every register, each by one name."""

    def read_register(self, view: Any, name: str) -> int:
        """Return register *name* of the live structure *view*; `IsaError` if there is none."""

    def write_register(self, view: Any, name: str, value: int) -> None:
        """Write it; what that asks of the engine is left in `effects`."""


Source = Callable[[Builder, Any], Value]
"""Emits the reading of a counter: (builder, cpu) -> 64 bits."""


class Guest(Protocol):
    """How instructions are fetched, told apart and traced."""

    isa: Isa

    instructions: Instructions
    """Without the privileged meanings, which `System` has too. Forms are numbered alike."""
    fetch: Fetch
    places: Mapping[str, Place]
    """By operand, of registers."""
    word_bits: int
    relative_to_end: bool
    """Whether the immediates of jumps count from the next instruction, not from this one."""
    rounding: Rounding | None
    tables: Mapping[str, bytes]
    """What `fetch` looks into, by the field of the structure that holds its address."""

    def system(self, layout: Layout, time: Source, retired: Source, ram: Function) -> System:
        """The privileged architecture over the structure *layout*.

        *time*: ticks of the machine's clock; *retired*: instructions; *ram*: (cpu, physical, size)
        -> host pointer, null if that is not RAM.
        """

    def bind(self, context: type) -> type:
        """A class of contexts, as what this guest's semantics ask for (`isa.tracing`)."""

    def begin_interpreted(self, context: Any, instruction: Instruction) -> None:
        """What the interpreter does before an instruction."""

    def decode(self, code: bytes) -> Decoded | None:
        """The instruction that *code* begins with; None if there is none, or not all of it."""

    def disassemble(self, code: bytes, pc: int) -> tuple[str, int]:
        """The same as text, and its length; an illegal one has a length too."""

    def is_call(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        """Whether it jumps to a known function, and says where that returns to."""

    def is_return(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        """Whether it goes back to where a call came from."""

    def settle(self, ir: Builder, value: Value, unsettled: Value | None = None) -> Value:
        """What a double that arithmetic gave is in a register (a canonical NaN).

        *unsettled*: whether it is such a double at all, should that be known only when it runs.
        """
