"""Types of the embedded language: integers of 1 to 128 bits, floats, vectors, host pointers."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class IrError(TypeError):
    """A program of the embedded language is put together wrongly."""


class Type(NamedTuple):
    """A value's type; two types are the same when kind and width are."""

    kind: str
    bits: int

    def __str__(self) -> str:
        return "ptr" if self.kind == "ptr" else f"{self.kind}{self.bits}"

    @property
    def is_integer(self) -> bool:
        return self.kind == "i"

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_vector(self) -> bool:
        return self.kind == "v"

    @property
    def size(self) -> int:
        """Size in memory, bytes."""
        return (self.bits + 7) // 8


@cache
def I(bits: int) -> Type:  # noqa: E743 - the field's own name for an integer type
    """Return the integer type of *bits* bits.

    >>> str(I(64))
    'i64'
    """
    if not 1 <= bits <= 128:
        raise IrError(f"an integer of {bits} bits: must be 1 to 128")
    return Type("i", bits)


@cache
def V(bits: int) -> Type:
    """Return the type of vectors of *bits* bits, a multiple of 64. Operations say what lanes
    they see: a vector's value is that of all its bits, lane 0 the lowest.

    >>> str(V(128))
    'v128'
    """
    if bits % 64 or not 64 <= bits <= 512:
        raise IrError(f"a vector of {bits} bits: must be 64 to 512, a multiple of 64")
    return Type("v", bits)


I1, I8, I16, I32, I64, I128 = (I(bits) for bits in (1, 8, 16, 32, 64, 128))
F32, F64 = Type("f", 32), Type("f", 64)
PTR = Type("ptr", 64)
