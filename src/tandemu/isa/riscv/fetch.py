"""How generated code takes RISC-V instructions from memory: parcels of two bytes.

RISC-V Unprivileged ISA, "Expanded Instruction-Length Encoding": the lowest two bits of the first
parcel are ones in an instruction of four bytes. The word of one of two bytes is its expansion.
"""

from __future__ import annotations

from typing import Any

from tandemu.ir import I16, I32, I64, Builder, Value
from tandemu.isa.guest import Fetched

_PARCEL = 2
_PAGE = 4096


class ParcelFetch:
    """`isa.guest.Fetch` of RISC-V."""

    def near_end(self, within: Value) -> Value:
        return within == _PAGE - _PARCEL

    def crosses(self, b: Builder, cpu: Any, place: Value, within: Value) -> Value:
        return (b.load(place.to_pointer(), I16) & 3) == 3

    def beyond(self, pc: Value) -> Value:
        return pc + _PARCEL

    def rest(self, b: Builder, place: Value) -> Value:
        return b.load(place.to_pointer(), I16).zext(I64)

    def fetch(self, b: Builder, cpu: Any, place: Value, pc: Value, rest: Value) -> Fetched:
        half = b.load(place.to_pointer(), I16).zext(I64)
        word, raw = b.variable(I64, half), b.variable(I64, half)
        length = b.variable(I64, 2)
        with b.If((half & 3) == 3):
            length.value = 4
            left = _PAGE - (pc & (_PAGE - 1))
            with b.If(left.uge(4)):
                word.value = b.load(place.to_pointer(), I32).zext(I64)
            with b.Else():
                word.value = half | (rest << 16)
            raw.value = word.value
        with b.Else():
            expansion = (cpu.fetch_table + (half << 2)).to_pointer()
            word.value = b.load(expansion, I32).zext(I64)
        return Fetched(word.value, raw.value, length.value)
