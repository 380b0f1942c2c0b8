"""The record of one instruction: encoding, operands, assembly text, meaning.

Nothing here knows a particular guest. A record is data that everything else is
made from: the decoder's tables, the disassembler, the assembler, the translator.

>>> I_IMMEDIATE = ImmediateFormat("I", signed=True, pieces=((20, 12, 0),))
>>> hex(I_IMMEDIATE.encode(-2)), I_IMMEDIATE.extract(0xFFE00000)
('0xffe00000', -2)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cached_property
from typing import Any

from tandemu.bits import Record, extract, mask, replace, sign_extend
from tandemu.ir import I64, Constant, Value
from tandemu.isa.errors import IsaError

Semantics = Callable[[Any], None]
"""What an instruction does: run once with a context, it leaves IR behind."""


class Kind(Enum):
    """What a translator must know before it looks at the semantics."""

    STRAIGHT = "straight"
    """Registers in, registers out; control goes to the next instruction."""
    LOAD = "load"
    STORE = "store"
    ATOMIC = "atomic"
    BRANCH = "branch"
    """Goes to a target known from the instruction, or on."""
    JUMP = "jump"
    """Always goes to a target known from the instruction."""
    INDIRECT = "indirect"
    """Goes to a target known only at run time."""
    SYSTEM = "system"
    """May trap, or changes what the following instructions mean."""


class Trait(Enum):
    """What else a translator makes use of; an instruction without traits is translated too."""

    HOT = "hot"
    """Frequent: its sources may come from cached results. Every branch is."""
    CONSTANT = "constant"
    """Its result is its immediate."""
    PC_RELATIVE = "pc relative"
    """Its result is its immediate added to its address."""
    PAGE_RELATIVE = "page relative"
    """Its result is its immediate added to the address of its page of 4 KiB."""
    SUM = "sum"
    """Its result is the sum of two sources, or of one and its immediate: a copy if one is zero."""
    FOLDS_WITH_ZERO = "folds with zero"
    """A branch whose condition is known if its second source is the zero register."""
    EXACT = "exact"
    """A floating-point instruction with a rounding mode that never rounds."""
    RESUMES = "resumes"
    """A system instruction behind which its block goes on."""
    ONLY_READS = "only reads"
    """An atomic instruction that writes nothing."""
    INTERPRETED = "interpreted"
    """It has no stencil: constants in memory, which a stencil has not, or more code than is worth
    it. The interpreter has it, and regions."""
    HOST_ATOMIC = "host atomic"
    """An atomic instruction that is one of the host's."""


class ImmediateFormat(Record):
    """Where the bits of an immediate stand in an instruction.

    *pieces* are (lowest bit in the instruction, width, lowest bit in the
    immediate). Bits of the immediate below or between the pieces are zero.

    *compute* makes the immediate of the word where it is no arrangement of bits (a repeated
    pattern): 64-bit values of the embedded language in and out, for a constant a constant. The
    pieces then only tell which bits it takes. *wide*: it may have more than 32 bits.
    """

    name: str
    signed: bool
    pieces: tuple[tuple[int, int, int], ...]
    compute: Callable[[Value], Value] | None = None
    wide: bool = False

    @property
    def width(self) -> int:
        """Width of the immediate in bits, the zeros below its pieces included."""
        return max(low + width for _, width, low in self.pieces)

    @property
    def instruction_mask(self) -> int:
        """The bits of the instruction that the immediate takes."""
        return sum(mask(width) << low for low, width, _ in self.pieces)

    @property
    def value_mask(self) -> int:
        """The bits of the immediate that can be one."""
        return sum(mask(width) << low for _, width, low in self.pieces)

    def extract(self, word: int) -> int:
        """Return the immediate of the instruction *word*, with its sign if it has one."""
        if self.compute is not None:
            found = self.compute(Constant(I64, word))
            assert isinstance(found, Constant)
            return found.signed if self.signed else found.value
        value = 0
        for instruction_low, width, low in self.pieces:
            value |= extract(word, instruction_low, width) << low
        return sign_extend(value, self.width) if self.signed else value

    def encode(self, value: int) -> int:
        """Return the instruction bits that say *value*; `IsaError` if none can."""
        if self.compute is not None:
            raise IsaError(f"immediate format {self.name} is computed: write the word's fields")
        low = -(1 << (self.width - 1)) if self.signed else 0
        high = low + mask(self.width)
        if not low <= value <= high:
            raise IsaError(f"immediate {value} does not fit format {self.name}: {low} to {high}")
        if value & mask(self.width) & ~self.value_mask:
            raise IsaError(
                f"immediate {value} does not fit format {self.name}: "
                f"only bits {self.value_mask:#x} may be set"
            )
        word = 0
        for instruction_low, width, piece_low in self.pieces:
            word |= extract(value, piece_low, width) << instruction_low
        return word


class Field(Record):
    """An operand that stands in one place of the instruction.

    *file* names the register file if the operand is a register (RISC-V: ``x``
    integer, ``f`` floating); None says the operand is a number. Values in
    *reserved* make the instruction illegal. *instead*: a number that stands for a register beyond
    what the field can hold, and that register's number.
    """

    name: str
    low: int
    width: int
    file: str | None = None
    reserved: tuple[int, ...] = ()
    instead: tuple[int, int] | None = None

    @property
    def instruction_mask(self) -> int:
        """The bits of the instruction that the field takes."""
        return mask(self.width) << self.low

    def extract(self, word: int) -> int:
        """Return the field of the instruction *word*."""
        value = extract(word, self.low, self.width)
        return self.instead[1] if self.instead is not None and value == self.instead[0] else value

    def encode(self, value: int) -> int:
        """Return the instruction bits that say *value*; `IsaError` if none can."""
        if self.instead is not None and value == self.instead[1]:
            return self.instead[0] << self.low
        if not 0 <= value <= mask(self.width):
            raise IsaError(f"operand {self.name} = {value}: must be 0 to {mask(self.width)}")
        if value in self.reserved:
            raise IsaError(f"operand {self.name} = {value}: this value is reserved")
        return value << self.low


class Instruction(Record):
    """One instruction. Fixed bits, operands and immediate make up its *bits*."""

    name: str
    """Assembly mnemonic, without suffixes that are operands (RISC-V: ``.aq``, ``.rl``)."""
    extension: str
    """The part of the architecture that brings it."""
    xlens: frozenset[int]
    """Register widths at which this encoding exists."""
    mask: int
    """The bits that are fixed …"""
    match: int
    """… and their values."""
    fields: tuple[Field, ...]
    immediate: ImmediateFormat | None
    syntax: str
    """Operands in assembly order; each word is a field, or a way to show the immediate."""
    kind: Kind
    floating: bool = False
    """Whether it uses the floating-point registers or flags."""
    access: int = 0
    """Bytes of memory it reads or writes; 0 if none."""
    semantics: Semantics | None = None
    specialises: str | None = None
    """The record that this one takes encodings from; overlap is an error otherwise."""
    traits: frozenset[Trait] = frozenset()
    bits: int = 32
    """Width of the word that holds its operands, the lowest byte first in memory."""

    def __post_init__(self) -> None:
        taken = self.mask
        parts: list[Field | ImmediateFormat] = list(self.fields)
        if self.immediate is not None:
            parts.append(self.immediate)
        for part in parts:
            if taken & part.instruction_mask:
                raise IsaError(
                    f"instruction {self.name}: {part.name} overlaps other bits "
                    f"{taken & part.instruction_mask:#010x}; correct its record"
                )
            taken |= part.instruction_mask
        if taken != mask(self.bits) or self.match & ~self.mask:
            raise IsaError(
                f"instruction {self.name}: bits {taken ^ mask(self.bits):#010x} belong to nothing, "
                f"or match {self.match:#010x} leaves mask {self.mask:#010x}; correct its record"
            )

    def field(self, name: str) -> Field | None:
        """Return the field called *name*, or None if the instruction has none."""
        return next((field for field in self.fields if field.name == name), None)

    @cached_property
    def _files(self) -> Mapping[str, str | None]:
        return {field.name: field.file for field in self.fields}

    def file(self, name: str) -> str | None:
        """Return the register file of operand *name*; None if there is no such register."""
        return self._files.get(name)

    def matches(self, word: int) -> bool:
        """Say whether *word* is this instruction (or one that specialises it)."""
        return word & self.mask == self.match and not any(
            field.extract(word) in field.reserved for field in self.fields if field.reserved
        )

    def overlaps(self, other: Instruction) -> bool:
        """Say whether some word fits the fixed bits of both."""
        return not (self.match ^ other.match) & self.mask & other.mask

    def operands(self, word: int) -> dict[str, int]:
        """Return the value of every operand in *word*; the immediate is ``imm``."""
        values = {field.name: field.extract(word) for field in self.fields}
        if self.immediate is not None:
            values["imm"] = self.immediate.extract(word)
        return values

    def encode(self, operands: Mapping[str, int]) -> int:
        """Return the word with these *operands*; those left out are zero.

        Raises `IsaError` for an operand that does not exist or does not fit.
        """
        word = self.match
        known = {field.name: field for field in self.fields}
        for name, value in operands.items():
            part = self.immediate if name == "imm" else known.get(name)
            if part is None:
                names = [*known, *(("imm",) if self.immediate else ())]
                raise IsaError(
                    f"instruction {self.name} has no operand {name!r}: "
                    f"it has {', '.join(names) or 'none'}"
                )
            word |= part.encode(value)
        return word

    def meaning(self, semantics: Semantics) -> Instruction:
        """Return this record with its *semantics* filled in."""
        return replace(self, semantics=semantics)
