"""How A64 instructions are taken from memory: four bytes, at multiples of four.

The word that all others see has 64 bits: in BL the immediate stands in the upper half, and X30,
which it writes, where other instructions have their result.
"""

from __future__ import annotations

from typing import Any

from tandemu.ir import I1, I32, I64, Builder, Constant, Value
from tandemu.isa.arm.state import LINK
from tandemu.isa.guest import Fetched

_CALL, _CALL_MASK = 0x94000000, 0xFC000000
_IMMEDIATE = 0x3FFFFFF


def expand(word: int) -> int:
    """The word of the 32 bits that stand in memory."""
    if word & _CALL_MASK == _CALL:
        return (word & _IMMEDIATE) << 32 | _CALL | LINK
    return word


class WordFetch:
    """`isa.guest.Fetch` of A64: nothing crosses pages."""

    def near_end(self, within: Value) -> Value:
        return Constant(I1, 0)

    def crosses(self, b: Builder, cpu: Any, place: Value, within: Value) -> Value:
        return Constant(I1, 0)

    def beyond(self, pc: Value) -> Value:
        return pc

    def rest(self, b: Builder, place: Value) -> Value:
        return Constant(I64, 0)

    def fetch(self, b: Builder, cpu: Any, place: Value, pc: Value, rest: Value) -> Fetched:
        raw = b.load(place.to_pointer(), I32).zext(I64)
        call = ((raw & _IMMEDIATE) << 32) | (_CALL | LINK)
        word = b.select((raw & _CALL_MASK) == _CALL, call, raw)
        return Fetched(word, raw, Constant(I64, 4))
