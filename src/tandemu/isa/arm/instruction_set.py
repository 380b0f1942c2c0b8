"""All A64 instructions that there are here."""

from __future__ import annotations

from tandemu.isa.arm import (
    atomic,
    bitfields,
    branches,
    conditional,
    integer,
    memory,
    sources,
    system,
)
from tandemu.isa.arm.fetch import expand
from tandemu.isa.arm.formats import KEY_LAYOUT
from tandemu.isa.decoder import Decoded, Decoder
from tandemu.isa.instruction import Instruction


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


RECORDS: tuple[Instruction, ...] = (
    *integer.INSTRUCTIONS,
    *bitfields.INSTRUCTIONS,
    *conditional.INSTRUCTIONS,
    *sources.INSTRUCTIONS,
    *branches.INSTRUCTIONS,
    *memory.INSTRUCTIONS,
    *atomic.INSTRUCTIONS,
    *system.INSTRUCTIONS,
)
A64 = InstructionSet(RECORDS)
