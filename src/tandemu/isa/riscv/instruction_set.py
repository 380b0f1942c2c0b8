"""A RISC-V instruction set: the records of some extensions at one XLEN.

The one place where records and the semantics that live apart from them are
joined: those of floating point here, those of the privileged architecture, which
are made for one kind of hart, through `InstructionSet.joined`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from tandemu.bits import Record, replace
from tandemu.isa.decoder import Decoded, Decoder
from tandemu.isa.errors import IsaError
from tandemu.isa.instruction import Instruction, Semantics
from tandemu.isa.riscv import (
    atomic,
    base,
    bitmanip,
    cache,
    compressed,
    conditional,
    double,
    floating,
    multiply,
    single,
    system,
    traits,
    zicsr,
)
from tandemu.isa.riscv.compression import Compressed, CompressedTable
from tandemu.isa.riscv.formats import KEY_LAYOUT

RECORDS: tuple[Instruction, ...] = (
    *base.INSTRUCTIONS,
    *system.INSTRUCTIONS,
    *zicsr.INSTRUCTIONS,
    *multiply.INSTRUCTIONS,
    *atomic.INSTRUCTIONS,
    *bitmanip.INSTRUCTIONS,
    *conditional.INSTRUCTIONS,
    *cache.INSTRUCTIONS,
    *single.INSTRUCTIONS,
    *double.INSTRUCTIONS,
)
"""Every record there is, for every XLEN."""

_OPCODE = 0x7F
_REMEMBERED = 1 << 16
"""Words whose meaning is remembered."""

EXTENSIONS = frozenset(record.extension for record in RECORDS) | {"C"}
"""Every extension there is; ``priv`` is the privileged architecture's instructions."""

ATTACHED: Mapping[str, Semantics] = floating.SEMANTICS
"""Semantics that live apart from their records and are the same for every hart, by mnemonic."""


class InstructionSet(Record):
    """The records of *extensions* at *xlen*, and what is made from them.

    *semantics* are joined to the records of those names. Raises `IsaError` if an
    extension or a name does not exist, or, when a table is first asked for, if
    two records overlap.
    """

    xlen: int
    extensions: frozenset[str]
    semantics: Mapping[str, Semantics]

    def __post_init__(self) -> None:
        unknown = self.extensions - EXTENSIONS
        if unknown or self.xlen not in (32, 64):
            raise IsaError(
                f"no RV{self.xlen} with {', '.join(sorted(unknown)) or 'these extensions'}: "
                f"XLEN must be 32 or 64, extensions of {', '.join(sorted(EXTENSIONS))}"
            )
        nameless = set(self.semantics) - {record.name for record in RECORDS}
        if nameless:
            raise IsaError(
                f"semantics for {', '.join(sorted(nameless))}: no instruction has that name; "
                "correct it, or add the instruction's record"
            )

    def joined(self, semantics: Mapping[str, Semantics]) -> InstructionSet:
        """Return this set with *semantics* joined too; they replace what is there."""
        return replace(self, semantics={**self.semantics, **semantics})

    @cached_property
    def records(self) -> tuple[Instruction, ...]:
        """The 32-bit instructions. Form *n* of the decoder is ``records[n - 1]``."""
        chosen = [
            record
            for record in RECORDS
            if self.xlen in record.xlens and record.extension in self.extensions
        ]
        return tuple(
            replace(
                record,
                semantics=self.semantics.get(record.name, record.semantics),
                traits=traits.traits(record.name),
            )
            for record in chosen
        )

    @cached_property
    def compressed_records(self) -> tuple[Compressed, ...]:
        """The 16-bit instructions; none without the C extension."""
        if "C" not in self.extensions:
            return ()
        return tuple(record for record in compressed.INSTRUCTIONS if self.xlen in record.xlens)

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """The 32-bit instructions by mnemonic."""
        return {record.name: record for record in self.records}

    @cached_property
    def decoder(self) -> Decoder:
        """The tables for 32-bit instructions."""
        return Decoder(self.records, KEY_LAYOUT)

    @cached_property
    def compressed(self) -> CompressedTable:
        """The tables for 16-bit instructions."""
        return CompressedTable(self.compressed_records, self.by_name)

    def decode(self, word: int) -> Decoded | None:
        """Return what *word* says; None if it is illegal.

        *word* holds the 32 bits at the program counter; only the low 16 are
        looked at if they are a compressed instruction. Made from the records, and
        remembered: whoever decodes some words does not wait for the tables.
        """
        word &= 0xFFFFFFFF if word & 3 == 3 else 0xFFFF
        known = self._decoded
        if word not in known:
            if len(known) >= _REMEMBERED:
                known.clear()
            known[word] = self._find(word) if word & 3 == 3 else self._find_compressed(word)
        return known[word]

    @cached_property
    def _decoded(self) -> dict[int, Decoded | None]:
        return {}

    @cached_property
    def _by_opcode(self) -> Mapping[int, Sequence[int]]:
        """The forms by their lowest bits, which all of them fix."""
        forms: dict[int, list[int]] = {}
        for form, one in enumerate(self.records, 1):
            assert one.mask & _OPCODE == _OPCODE, one.name
            forms.setdefault(one.match & _OPCODE, []).append(form)
        return forms

    def _find(self, word: int) -> Decoded | None:
        forms = self._by_opcode.get(word & _OPCODE, ())
        fitting = {form: one for form in forms if (one := self.records[form - 1]).matches(word)}
        form = _most_special(fitting)
        return Decoded(fitting[form], word, form) if form is not None else None

    def _find_compressed(self, half: int) -> Decoded | None:
        fitting = {
            number: one
            for number, one in enumerate(self.compressed_records)
            if one.expands_to in self.by_name and one.matches(half)
        }
        number = _most_special(fitting)
        if number is None:
            return None
        short = fitting[number]
        found = self._find(short.expand(half, self.by_name[short.expands_to]))
        return None if found is None else found._replace(length=2)

    def encode(self, name: str, operands: Mapping[str, int]) -> int:
        """Return the word of instruction *name*, compressed if its name says so.

        Operands left out are zero. Raises `IsaError` for a name or operand that
        does not exist, or a value that does not fit.
        """
        record = self.by_name.get(name)
        if record is not None:
            return record.encode(operands)
        for short in self.compressed.records:
            if short.name == name:
                return short.encode(operands)
        raise IsaError(
            f"no instruction {name!r} in this RV{self.xlen} set: "
            "check the spelling and the extensions it was made with"
        )


def _most_special(fitting: Mapping[int, Instruction] | Mapping[int, Compressed]) -> int | None:
    """The key of the record that no other one specialises; None if there is no record."""
    general = {one.specialises for one in fitting.values()}
    return next((key for key, one in fitting.items() if one.name not in general), None)


def instruction_set(
    xlen: int, extensions: Iterable[str], semantics: Mapping[str, Semantics] = ATTACHED
) -> InstructionSet:
    """Return the set of *extensions* at *xlen* with the project's semantics."""
    return InstructionSet(xlen, frozenset(extensions), semantics)


_COMMON = (
    *("I", "M", "A", "C", "Zicsr", "Zifencei", "Zihintpause"),
    *("Zba", "Zbb", "Zbs", "Zicbom", "Zicbop", "Zicboz", "Zicond", "Svinval", "priv"),
)

RV64GC = instruction_set(64, (*_COMMON, "F", "D"))
RV32GC = instruction_set(32, (*_COMMON, "F", "D"))
RV32IMAC = instruction_set(32, _COMMON)

BY_XLEN = {64: RV64GC, 32: RV32GC}
"""What the translator's harts execute. Forms are numbered by these sets."""
