"""How a compressed instruction stands for a 32-bit one, and the table of all.

A record says where the operands of the 32-bit instruction stand in the 16-bit
one. Each bit of a compressed instruction sets bits of the expansion on its own
(registers, pieces of immediates and their signs all do), so that the table of
65,536 expansions is built by exclusive or, a few milliseconds for all.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tandemu.bits import Record, extract, mask
from tandemu.isa.errors import IsaError
from tandemu.isa.instruction import ImmediateFormat, Instruction

ENTRIES = 1 << 16


class Register(Record):
    """A register operand: *low* and *width* of its field; *base* is number zero's register."""

    low: int
    width: int
    base: int = 0

    @property
    def instruction_mask(self) -> int:
        """The bits of the instruction that the field takes."""
        return mask(self.width) << self.low

    def extract(self, half: int) -> int:
        """Return the register's number in the compressed instruction *half*."""
        # The base (8) has no bit in common with a field of three bits.
        return self.base | extract(half, self.low, self.width)

    def encode(self, value: int) -> int:
        """Return the instruction bits that say register *value*; `IsaError` if none can."""
        if not self.base <= value <= self.base + mask(self.width):
            raise IsaError(
                f"register {value} does not fit: only registers {self.base} to "
                f"{self.base + mask(self.width)} can be named here"
            )
        return (value - self.base) << self.low


Source = Register | ImmediateFormat | int
"""Where an operand of the expansion comes from; an int is the operand itself."""


class Compressed(Record):
    """One compressed instruction."""

    name: str
    mask: int
    match: int
    expands_to: str
    """Name of the 32-bit instruction; without it in the set, this one is not either."""
    operands: Mapping[str, Source] = MappingProxyType({})
    """Operand of the 32-bit instruction: where it comes from."""
    syntax: str = ""
    """As in `Instruction`, in terms of the expansion's operands."""
    xlens: frozenset[int] = frozenset({32, 64})
    nonzero: tuple[int, ...] = ()
    """Masks of which each must leave a one: encodings with zero there are not this one."""
    specialises: str | None = None

    def __post_init__(self) -> None:
        taken = self.mask
        for name, source in self.operands.items():
            # Several operands may come from one field (c.addi: rd is rs1).
            if not isinstance(source, int):
                if self.mask & source.instruction_mask:
                    raise IsaError(f"{self.name}: operand {name} overlaps fixed bits")
                taken |= source.instruction_mask
        if taken != mask(16) or self.match & ~self.mask:
            raise IsaError(
                f"instruction {self.name}: bits {taken ^ mask(16):#06x} belong to nothing, "
                f"or match {self.match:#06x} leaves mask {self.mask:#06x}; correct its record"
            )

    def matches(self, half: int) -> bool:
        """Say whether *half* is this instruction (or one that specialises it)."""
        return half & self.mask == self.match and all(half & bits for bits in self.nonzero)

    def expand(self, half: int, target: Instruction) -> int:
        """Return the 32-bit word of *target*, what this expands to, that *half* stands for."""
        return target.encode(
            {
                name: source if isinstance(source, int) else source.extract(half)
                for name, source in self.operands.items()
            }
        )

    def encode(self, operands: Mapping[str, int]) -> int:
        """Return the 16-bit word with the *operands* of the expansion that it leaves free.

        Raises `IsaError` for an operand that does not exist, does not fit, or
        makes the encoding a reserved one or another instruction.
        """
        half = self.match
        for name, value in operands.items():
            source = self.operands.get(name)
            if source is None:
                raise IsaError(
                    f"instruction {self.name} has no operand {name!r}: "
                    f"it has {', '.join(self.operands) or 'none'}"
                )
            if isinstance(source, int):
                if value != source:
                    raise IsaError(f"{self.name}: operand {name} is always {source}, not {value}")
            else:
                half |= source.encode(value)
        if not self.matches(half):
            raise IsaError(f"{self.name}: operands {dict(operands)} may not be zero")
        return half


class CompressedTable:
    """What each 16-bit value is: `expansion` and `form`, 65,536 entries each.

    *instructions* are all 32-bit records of the set, by name. Entries are zero
    for what is illegal or the beginning of a longer instruction; ``form`` *n*
    is ``records[n - 1]``.
    """

    def __init__(
        self, records: Sequence[Compressed], instructions: Mapping[str, Instruction]
    ) -> None:
        self.records = tuple(record for record in records if record.expands_to in instructions)
        self.expansion = array("I", bytes(4 * ENTRIES))
        self.form = array("H", bytes(2 * ENTRIES))
        for number, record in enumerate(self.records, 1):
            self._add(number, record, instructions[record.expands_to])

    def _add(self, number: int, record: Compressed, target: Instruction) -> None:
        first = record.expand(record.match, target)
        words = [(record.match, first)]
        for position in range(16):
            bit = 1 << position
            if not record.mask & bit:
                change = record.expand(record.match | bit, target) ^ first
                words += [(half | bit, word ^ change) for half, word in words]
        for bits in record.nonzero:
            words = [(half, word) for half, word in words if half & bits]
        for half, word in words:
            other = self.form[half]
            if other:
                taken = self.records[other - 1]
                if taken.specialises == record.name:
                    continue
                if record.specialises != taken.name:
                    raise IsaError(
                        f"instructions {record.name} and {taken.name} overlap at {half:#06x}; "
                        "correct a record, or let one name what it specialises"
                    )
            self.expansion[half] = word
            self.form[half] = number
