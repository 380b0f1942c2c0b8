"""What a context that instructions are traced with offers, whatever the guest.

The engine has one class of contexts for each thing that it makes of an instruction
(`jit.translate.contexts`, `jit.regions.context`). `Guest.bind` gives each the names that the
guest's semantics use: a mixin whose properties come down to what stands here.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from tandemu.bits import Layout
from tandemu.ir import F64, I1, I64, PTR, Builder, Constant, I, Type, V, Value
from tandemu.isa.architecture import Isa, RegisterFile
from tandemu.isa.guest import register_type
from tandemu.isa.instruction import Instruction


class OperandContext(Protocol):
    """One instruction being traced."""

    ir: Builder
    hart: Any
    """The live structure."""
    xlen: int
    """Width of addresses and of the registers of the first file."""
    native: bool
    """Whether this becomes machine code, which rounds in the host's modes only."""
    interprets: bool
    """Whether what is left to software here goes to Python: so the code may be long."""
    keeps_unsettled: bool
    """Whether `unsettled` and `write_unsettled` are there."""
    has_constants: bool
    """Whether its code may refer to constants in memory: a stencil has none."""
    answers_firmware: bool
    """Whether `firmware_call` is there, for machines whose firmware is the engine's."""

    def read(self, operand: str) -> Value:
        """A source register, by the name of the operand."""

    def write(self, operand: str, value: Value | int) -> None:
        """A result. Nothing may be written before the last access to memory."""

    def read_next(self, operand: str, places: int) -> Value:
        """The register so many places after an operand's, the first following the last."""

    def write_next(self, operand: str, places: int, value: Value) -> None:
        """The same of a result. An instruction that has such registers is in no region."""

    def register(self, file: str, index: int) -> Value:
        """A source that no field names: flags, a stack pointer."""

    def set_register(self, file: str, index: int, value: Value | int) -> None:
        """The same of a result."""

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

    def load_vector(self, address: Value, bits: int) -> Value:
        """The same as a vector of 64 or 128 bits, in one access where the host has one."""

    def store(self, address: Value, value: Value) -> None:
        """Write *value* to memory at the virtual *address*."""

    def atomic(self, kind: str, address: Value, value: Value, bits: int) -> Value:
        """Combine memory with *value* in one piece (`ir.operations`); the old value."""

    def exchange_if(self, address: Value, expected: Value, new: Value) -> Value:
        """Store *new* if *expected* is there, in one piece; the old value."""

    def load_reserved(self, address: Value, bits: int) -> Value:
        """Load, and note address and value for `store_conditional`."""

    def store_conditional(self, address: Value, value: Value, bits: int) -> Value:
        """Store if the value noted for that address is still there; whether it was."""

    def store_zeros(self, address: Value, size: int) -> None:
        """Clear *size* bytes at an address that is a multiple of it."""

    def fence(self) -> None:
        """Order all accesses before with all after."""

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


class TracedOperands(NamedTuple):
    """What an instruction does, by its semantics."""

    read: frozenset[str]
    """Operands whose registers it reads …"""
    written: frozenset[str]
    """… and writes."""
    registers_read: frozenset[tuple[str, int]]
    """Registers that no field names: file and index."""
    registers_written: frozenset[tuple[str, int]]
    accesses: int
    """How often it accesses memory."""


_TRACED: dict[tuple[str, str], TracedOperands] = {}


def trace_operands(isa: Isa, record: Instruction) -> TracedOperands:
    """What *record*, which has semantics, reads and writes, of all that it may do."""
    key = isa.name, record.name
    known = _TRACED.get(key)
    if known is None:
        assert record.semantics is not None, record.name
        recorder = isa.guest.bind(_Recorder)(isa, record)
        record.semantics(recorder)
        known = _TRACED[key] = recorder.found()
    return known


class _Recorder:
    """Traces an instruction to see what it asks for; what it leaves behind is dropped."""

    native = True
    interprets = False
    has_constants = True
    keeps_unsettled = True
    answers_firmware = False

    def __init__(self, isa: Isa, record: Instruction) -> None:
        self.ir = Builder("recorder", [("cpu", PTR)])
        self.xlen = isa.state.address_bits
        self._state, self._record = isa.state, record
        self.hart: Any = self.ir.struct(Layout("Recorded", **isa.state.fields()), self.ir.cpu)
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._registers_read: set[tuple[str, int]] = set()
        self._registers_written: set[tuple[str, int]] = set()
        self._accesses = 0

    def found(self) -> TracedOperands:
        """What it has asked for."""
        return TracedOperands(
            frozenset(self._read),
            frozenset(self._written),
            frozenset(self._registers_read),
            frozenset(self._registers_written),
            self._accesses,
        )

    def _some(self, type: Type) -> Value:
        return self.ir.variable(type, Constant(type, 0)).value

    def _file(self, operand: str) -> RegisterFile:
        return self._state.by_file[self._record.file(operand) or self._state.main.name]

    def read(self, operand: str) -> Value:
        # One that the record has not: a function shared by several asks for it and drops it.
        if self._record.file(operand) is not None:
            self._read.add(operand)
        return self._some(register_type(self._file(operand)))

    def write(self, operand: str, value: Value | int) -> None:
        self._written.add(operand)

    def unsettled(self, operand: str) -> Value:
        self._read.add(operand)
        return self._some(F64)

    def write_unsettled(self, operand: str, value: Value) -> None:
        self._written.add(operand)

    def register(self, file: str, index: int) -> Value:
        self._registers_read.add((file, index))
        return self._some(register_type(self._state.by_file[file]))

    def set_register(self, file: str, index: int, value: Value | int) -> None:
        self._registers_written.add((file, index))

    def field(self, name: str) -> Value:
        return self._some(I64)

    @property
    def imm(self) -> Value:
        return self._some(I(self.xlen))

    pc = next_pc = imm

    @property
    def word(self) -> Value:
        return self._some(I64)

    def load(self, address: Value, bits: int) -> Value:
        self._accesses += 1
        return self._some(I(bits))

    def load_vector(self, address: Value, bits: int) -> Value:
        self._accesses += 1
        return self._some(V(bits))

    def store(self, address: Value, value: Value) -> None:
        self._accesses += 1

    def store_zeros(self, address: Value, size: int) -> None:
        self._accesses += 1

    def read_next(self, operand: str, places: int) -> Value:
        return self._some(register_type(self._file(operand)))

    def write_next(self, operand: str, places: int, value: Value) -> None:
        """Only instructions that are in no region write these."""

    def atomic(self, kind: str, address: Value, value: Value, bits: int) -> Value:
        return self.load(address, bits)

    def exchange_if(self, address: Value, expected: Value, new: Value) -> Value:
        return self.load(address, new.type.bits)

    def load_reserved(self, address: Value, bits: int) -> Value:
        return self.load(address, bits)

    def store_conditional(self, address: Value, value: Value, bits: int) -> Value:
        self._accesses += 1
        return self._some(I1)

    def _nothing(self, *_: object) -> None:
        """Goes nowhere, and shows nothing."""

    fence = branch = jump = raise_exception = software = firmware_call = _nothing
