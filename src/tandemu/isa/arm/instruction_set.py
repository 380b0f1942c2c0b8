"""All A64 instructions that there are here."""

from __future__ import annotations

from tandemu.bits import replace
from tandemu.isa.arm import (
    atomic,
    bitfields,
    branches,
    conditional,
    floating,
    integer,
    memory,
    sources,
    system,
    vector_floats,
    vector_memory,
    vector_moves,
    vector_shifts,
    vector_three,
)
from tandemu.isa.arm.fetch import expand
from tandemu.isa.arm.formats import KEY_LAYOUT
from tandemu.isa.decoder import Decoded, Decoder
from tandemu.isa.instruction import Instruction, Kind, Trait


class InstructionSet:
    """`isa.guest.Instructions`."""

    def __init__(self, records: tuple[Instruction, ...]) -> None:
        self.records = records
        self.decoder = Decoder(records, KEY_LAYOUT)

    def decode(self, code: bytes) -> Decoded | None:
        """The instruction that *code* begins with; None if there is none, or not all of it."""
        if len(code) < 4:
            return None
        word = expand(int.from_bytes(code[:4], "little"))
        form = self.decoder.form(word)
        return Decoded(self.records[form - 1], word, form) if form else None


def _interpreted(records: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """Without stencils, which thousands more of would cost every first start its seconds."""
    return tuple(
        replace(record, traits=record.traits | {Trait.INTERPRETED})
        if record.kind is Kind.STRAIGHT
        else record
        for record in records
    )


RECORDS: tuple[Instruction, ...] = (
    *integer.INSTRUCTIONS,
    *bitfields.INSTRUCTIONS,
    *conditional.INSTRUCTIONS,
    *sources.INSTRUCTIONS,
    *branches.INSTRUCTIONS,
    *memory.INSTRUCTIONS,
    *atomic.INSTRUCTIONS,
    *system.INSTRUCTIONS,
    *_interpreted(floating.INSTRUCTIONS),
    *_interpreted(vector_three.INSTRUCTIONS),
    *_interpreted(vector_floats.INSTRUCTIONS),
    *_interpreted(vector_moves.INSTRUCTIONS),
    *_interpreted(vector_shifts.INSTRUCTIONS),
    *vector_memory.INSTRUCTIONS,
)
A64 = InstructionSet(RECORDS)
