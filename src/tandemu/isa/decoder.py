"""Decoder tables, derived from instruction records.

Two table look-ups and one comparison turn a word into the number of its *form*
(its record): the native translator does so in generated code, `Decoder.form` in
Python, both over the same arrays.

1. `primary[key(word)]`: 0 says illegal, bit 15 set says sub-table, else a form.
2. With a sub-table: `secondary[sub-table << width | field(word)]`: 0 or a form.
3. While ``word & masks[form] != matches[form]``: ``form = general[form]``, the
   next of those that specialise the same one, then that itself; 0 (illegal) if none is left.

Nothing depends on the order of the records: two that overlap are an error,
unless one names the other as what it specialises.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tandemu.bits import extract, mask
from tandemu.isa.errors import IsaError
from tandemu.isa.instruction import Instruction

SUB_TABLE = 0x8000
"""Set in an entry of the primary table that is the number of a sub-table."""


class KeyLayout(NamedTuple):
    """Which bits of a word make the keys of the tables.

    *primary*: pieces (lowest bit in the word, width, lowest bit in the key), as
    in an immediate. *secondary*: lowest bit and width of the sub-tables' key.
    """

    primary: tuple[tuple[int, int, int], ...]
    secondary: tuple[int, int]

    @property
    def entries(self) -> int:
        """Number of entries of the primary table."""
        return 1 << sum(width for _, width, _ in self.primary)

    def key(self, word: int) -> int:
        """Return the primary key of *word* (or of a mask)."""
        return sum(extract(word, low, width) << to for low, width, to in self.primary)

    def word(self, key: int) -> int:
        """Return the bits of a word that *key* stands for."""
        return sum(extract(key, to, width) << low for low, width, to in self.primary)


class Decoded(NamedTuple):
    """A decoded instruction: its record and the word that holds its operands.

    *length* is its size in bytes in guest memory: 2 if *word* is the expansion
    of a compressed one.
    """

    instruction: Instruction
    word: int
    form: int
    length: int = 4

    @property
    def operands(self) -> dict[str, int]:
        """The value of every operand, by name; the immediate is ``imm``."""
        return self.instruction.operands(self.word)


class Decoder:
    """Tables that tell *instructions* apart. Form *n* is ``instructions[n - 1]``."""

    def __init__(self, instructions: Sequence[Instruction], layout: KeyLayout) -> None:
        self.layout = layout
        self.instructions = tuple(instructions)
        self.masks = array("Q", [0, *(one.mask for one in instructions)])
        self.matches = array("Q", [1, *(one.match for one in instructions)])
        """Entry 0 of `masks` and `matches` can never be equal: illegal stays illegal."""
        self.general = array("H", self._generals())
        self.secondary = array("H")
        self.primary = array("H", self._primary())

    def form(self, word: int) -> int:
        """Return the number of the form of *word*, 0 if it is illegal."""
        form = self.primary[self.layout.key(word)]
        if form & SUB_TABLE:
            low, width = self.layout.secondary
            form = self.secondary[(form ^ SUB_TABLE) << width | extract(word, low, width)]
        while form and word & self.masks[form] != self.matches[form]:
            form = self.general[form]
        return form

    def _generals(self) -> Iterable[int]:
        """Yield, for every form, the next that specialises the same one; for the last, that."""
        numbers: dict[str, int] = {}
        for number, one in enumerate(self.instructions, 1):
            if numbers.setdefault(one.name, number) != number:
                raise IsaError(f"instruction {one.name} has two records; remove or rename one")
        yield 0
        parts: dict[int, list[int]] = {}
        for number, one in enumerate(self.instructions, 1):
            general = numbers.get(one.specialises or "", 0)
            for other in (self.instructions[at - 1] for at in parts.get(general, ()) if general):
                if one.overlaps(other):
                    raise IsaError(
                        f"instructions {one.name} and {other.name} overlap, and both "
                        f"specialise {one.specialises}; correct one of the records"
                    )
            if general:
                other = self.instructions[general - 1]
                if not one.overlaps(other) or other.mask & ~one.mask:
                    raise IsaError(
                        f"instruction {one.name} is said to specialise {other.name}, "
                        "but is not a part of it; correct one of the records"
                    )
            parts.setdefault(general, []).append(number)

        def in_order(form: int) -> Iterator[int]:
            for part in parts.get(form, ()):
                yield from in_order(part)
            yield form

        successors = [0] * (len(self.instructions) + 1)
        for form in parts.get(0, ()):
            chain = list(in_order(form))
            for one_form, successor in zip(chain, [*chain[1:], 0], strict=True):
                successors[one_form] = successor
        yield from successors[1:]

    def _primary(self) -> Sequence[int]:
        cells: list[tuple[int, ...]] = [()] * self.layout.entries
        for form, one in enumerate(self.instructions, 1):
            for key in self._keys(one):
                cells[key] += (form,)
        entries = {candidates: self._entry(candidates) for candidates in set(cells)}
        return [entries[candidates] for candidates in cells]

    def _keys(self, one: Instruction) -> list[int]:
        """Return every primary key that a word of instruction *one* can have."""
        fixed = self.layout.key(one.mask)
        keys = [self.layout.key(one.match)]
        bit = 1
        while bit < self.layout.entries:
            if not fixed & bit:
                keys += [key | bit for key in keys]
            bit <<= 1
        covered = self.layout.word(self.layout.entries - 1)
        for field in one.fields:
            if field.reserved:
                if field.instruction_mask & ~covered:
                    raise IsaError(
                        f"instruction {one.name}: reserved values of {field.name} are "
                        "not seen by the primary key; widen the key layout"
                    )
                keys = [
                    key
                    for key in keys
                    if field.extract(self.layout.word(key)) not in field.reserved
                ]
        return keys

    def _entry(self, candidates: tuple[int, ...]) -> int:
        """Return the primary table's entry for a key these forms share."""
        if len(candidates) <= 1:
            return candidates[0] if candidates else 0
        low, width = self.layout.secondary
        number = len(self.secondary) >> width
        for value in range(1 << width):
            bits = value << low
            field = mask(width) << low
            self.secondary.append(
                self._most_special(
                    [
                        form
                        for form in candidates
                        if not (bits ^ self.matches[form]) & self.masks[form] & field
                    ]
                )
            )
        return SUB_TABLE | number

    def _most_special(self, forms: list[int]) -> int:
        """Return the form whose chain of generals holds all of *forms*."""
        if not forms:
            return 0
        for first in forms:
            chain = [first]
            while form := self.general[chain[-1]]:
                chain.append(form)
            if set(forms) <= set(chain):
                return first
        records = [self.instructions[form - 1] for form in forms]
        for index, one in enumerate(records):
            for other in records[index + 1 :]:
                if one.overlaps(other) and not {one.specialises, other.specialises} & {
                    one.name,
                    other.name,
                }:
                    raise IsaError(
                        f"instructions {one.name} and {other.name} overlap: some words fit "
                        "both; correct a record, or let one name what it specialises"
                    )
        names = ", ".join(one.name for one in records)
        raise IsaError(f"the tables cannot tell {names} apart; choose another key layout")
