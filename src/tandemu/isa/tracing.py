"""What a context that instructions are traced with offers, whatever the guest.

The engine has one class of contexts for each thing that it makes of an instruction
(`jit.translate.contexts`, `jit.regions.context`). `Guest.bind` gives each the names that the
guest's semantics use: a mixin whose properties come down to what stands here.
"""

from __future__ import annotations

from typing import Any, Protocol

from tandemu.ir import Builder, Value


class OperandContext(Protocol):
    """One instruction being traced."""

    ir: Builder
    hart: Any
    """The live structure."""
    xlen: int
    """Width of addresses and of the registers of the first file."""
    native: bool
    """Whether this becomes machine code, which rounds in the host's modes only."""
    keeps_unsettled: bool
    """Whether `unsettled` and `write_unsettled` are there."""
    answers_firmware: bool
    """Whether `firmware_call` is there, for machines whose firmware is the engine's."""

    def read(self, operand: str) -> Value:
        """A source register, by the name of the operand."""

    def write(self, operand: str, value: Value | int) -> None:
        """A result. Nothing may be written before the last access to memory."""

    def field(self, name: str) -> Value:
        """The number in a field, 64 bits."""

    def unsettled(self, operand: str) -> Value:
        """A floating source as a double for arithmetic, to which all NaNs are the same."""

    def write_unsettled(self, operand: str, value: Value) -> None:
        """A floating result as arithmetic gave it; `Guest.settle` says what it is when seen."""

    @property
    def imm(self) -> Value:
        """The immediate, as wide as an address."""

    @property
    def pc(self) -> Value:
        """Address of this instruction."""

    @property
    def next_pc(self) -> Value:
        """Address of the instruction after it in memory."""

    @property
    def word(self) -> Value:
        """The instruction as it stands in memory, 64 bits."""

    def load(self, address: Value, bits: int) -> Value:
        """Return *bits* bits of memory at the virtual *address*."""

    def store(self, address: Value, value: Value) -> None:
        """Write *value* to memory at the virtual *address*."""

    def branch(self, condition: Value, target: Value) -> None:
        """Continue at *target* if *condition*, else with the next instruction."""

    def jump(self, target: Value) -> None:
        """Continue at *target*."""

    def raise_exception(self, cause: Value | int, value: Value | int) -> None:
        """Trap; nothing may follow in the block."""

    def firmware_call(self) -> None:
        """End here: have the engine answer."""

    def software(self) -> None:
        """Leave the instruction to the evaluator; nothing may follow in the block."""
