"""What the semantics of an instruction may ask: the contract with a translator.

A semantic function is run once with a context. Reading a register, immediate or
memory gives values of the embedded language; writing leaves operations behind.
Traps of memory accesses (alignment, translation, protection) are the context's
affair: a semantic function is written as if they could not happen, and so must
not write `rd` before its last access to memory.
"""

from __future__ import annotations

from typing import Protocol

from tandemu.ir import Builder, Value


class Context(Protocol):
    """One instruction being traced. Register values are `xlen` bits wide."""

    @property
    def xlen(self) -> int:
        """Width of the integer registers in bits: 32 or 64."""

    @property
    def ir(self) -> Builder:
        """The builder that operations go to."""

    @property
    def rs1(self) -> Value:
        """The first source register."""

    @property
    def rs2(self) -> Value:
        """The second source register."""

    @property
    def rd(self) -> Value:
        """The destination register: to be written only. A write to x0 is lost."""

    @rd.setter
    def rd(self, value: Value | int) -> None: ...

    @property
    def imm(self) -> Value:
        """The immediate, sign-extended to `xlen` bits if its format is signed."""

    @property
    def pc(self) -> Value:
        """Address of this instruction."""

    @property
    def next_pc(self) -> Value:
        """Address of the instruction after it in memory."""

    def load(self, address: Value, bits: int) -> Value:
        """Return *bits* bits of memory at the virtual *address*."""

    def store(self, address: Value, value: Value) -> None:
        """Write *value* to memory at the virtual *address*."""

    def atomic(self, kind: str, address: Value, value: Value, bits: int) -> Value:
        """Combine memory with *value* atomically; the old value, *bits* bits wide.

        *kind*: ``add``, ``xchg``, ``xor``, ``and``, ``or``, ``min``, ``max``,
        ``umin`` or ``umax``. Sequentially consistent.
        """

    def load_reserved(self, address: Value, bits: int) -> Value:
        """Load and register a reservation."""

    def store_conditional(self, address: Value, value: Value, bits: int) -> Value:
        """Store if the reservation stands; 1-bit: whether it did."""

    def fence(self) -> None:
        """Order all memory accesses before with all after."""

    def branch(self, condition: Value, target: Value) -> None:
        """Continue at *target* if *condition*, else with the next instruction."""

    def jump(self, target: Value) -> None:
        """Continue at *target*."""
