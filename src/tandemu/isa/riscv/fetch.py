"""How generated code takes RISC-V instructions from memory: parcels of two bytes.

RISC-V Unprivileged ISA, "Expanded Instruction-Length Encoding": the lowest two bits of the first
parcel are ones in an instruction of four bytes. One of two bytes is decoded and kept as its
expansion; bit 0 of what is kept says which it was, for in every expansion that is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandemu.ir import I16, I32, I64, Builder, Constant, Local, Value
from tandemu.isa.guest import Fetched, Find

_PARCEL = 2
_PAGE = 4096


class ParcelFetch:
    """`isa.guest.Fetch` of RISC-V."""

    def near_end(self, within: Value) -> Value:
        return within == _PAGE - _PARCEL

    def crosses(self, b: Builder, place: Value) -> Value:
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
            expansion = (cpu.expansion + (half << 2)).to_pointer()
            word.value = b.load(expansion, I32).zext(I64)
        return Fetched(word.value, raw.value, length.value)

    def fetch_one(
        self, b: Builder, cpu: Any, pc: Value, find: Find
    ) -> tuple[Local, Callable[[], Fetched]]:
        page, place = find(pc)
        fetched = b.variable(page.type, page)
        word, length = b.variable(I64, 0), b.variable(I64, 2)
        within = pc & (_PAGE - 1)
        with b.If(page.from_pointer() != 0):
            word.value = b.load(place().to_pointer(), I16).zext(I64)
            with b.If((word.value & 3) == 3):
                length.value = 4
                with b.If(within == _PAGE - _PARCEL):
                    following, other = find(pc + _PARCEL)
                    fetched.value = following
                    with b.If(following.from_pointer() != 0):
                        high = b.load(other().to_pointer(), I16).zext(I64)
                        word.value = word.value | (high << 16)
                with b.Else():
                    word.value = b.load(place().to_pointer(), I32).zext(I64)

        def expand() -> Fetched:
            raw = word.value
            with b.If(length.value == 2):
                expansion = (cpu.expansion + (word.value << 2)).to_pointer()
                word.value = b.load(expansion, I32).zext(I64)
            return Fetched(word.value, raw, length.value)

        return fetched, expand

    def pack(self, b: Builder, word: Value, length: Value, form: Value | None) -> Value:
        short = length == 2
        if form is not None:
            short = short & (form != 0)
        return word ^ b.select(short, Constant(I64, 1), Constant(I64, 0))

    def pack_known(self, word: int, length: int) -> int:
        return word ^ (1 if length == 2 else 0)

    def unpack(self, b: Builder, packed: Value, form: Callable[[], Value]) -> Fetched:
        compressed = (packed & 1) == 0
        raw = packed.zext(I64)
        # An illegal instruction is kept as it stands in memory; no other has bit 0 clear.
        length = b.select(compressed & (form() != 0), Constant(I64, 2), Constant(I64, 4))
        return Fetched(raw | 1, raw, length)
