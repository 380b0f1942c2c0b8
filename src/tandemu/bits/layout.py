"""Layouts of structures in memory.

A `Layout` is written once and read by everybody: Python reads and writes the
fields of a live structure through it, generated code takes offsets and widths
from it, and a snapshot is the bytes it describes.

>>> POINT = Layout("Point", x=U32, y=U32, trail=U64[4])
>>> POINT.size, POINT.offset("y"), POINT.offset("trail")
(40, 4, 8)
>>> buffer = bytearray(POINT.size)
>>> point = POINT.over(buffer)
>>> point.y = 7
>>> point.trail[1] = 9
>>> buffer[4], buffer[16]
(7, 9)
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

from tandemu.bits.record import Record


class Scalar(Record):
    """An integer field: its width in bits and whether Python sees it as signed."""

    bits: int
    signed: bool = False

    def __getitem__(self, count: int) -> Array:
        return Array(self, count)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.bits // 8

    @property
    def ctype(self) -> Any:
        """The ctypes type of the field."""
        return getattr(ctypes, f"c_{'' if self.signed else 'u'}int{self.bits}")


class Array(Record):
    """*count* elements of one type, one after another."""

    element: Scalar | Layout
    count: int

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.element.size * self.count

    @property
    def ctype(self) -> Any:
        """The ctypes type of the array."""
        return self.element.ctype * self.count


U8, U16, U32, U64 = Scalar(8), Scalar(16), Scalar(32), Scalar(64)
I64 = Scalar(64, signed=True)

Field = Scalar | Array


class Layout:
    """A structure: named fields in order, each at its natural alignment."""

    def __init__(self, name: str, /, **fields: Scalar | Array | Layout) -> None:
        self.name = name
        self.fields: dict[str, Scalar | Array | Layout] = fields

    @cached_property
    def ctype(self) -> Any:
        """The ctypes type of the structure, made when it is first asked for: few of many are."""
        return type(
            self.name,
            (ctypes.LittleEndianStructure,),
            {"_fields_": [(key, field.ctype) for key, field in self.fields.items()]},
        )

    @cached_property
    def size(self) -> int:
        """Size in bytes."""
        return ctypes.sizeof(self.ctype)

    def __getitem__(self, count: int) -> Array:
        return Array(self, count)

    def __repr__(self) -> str:
        return f"Layout({self.name}, {self.size} bytes)"

    def offset(self, name: str) -> int:
        """Return the byte offset of field *name*; KeyError if there is none."""
        if name not in self.fields:
            raise KeyError(f"{self.name} has no field {name!r}; it has {', '.join(self.fields)}")
        offset: int = getattr(self.ctype, name).offset
        return offset

    def at(self, address: int) -> Any:
        """Return the live structure at host address *address*.

        The caller answers for the lifetime of that memory.
        """
        return self.ctype.from_address(address)

    def over(self, buffer: Any, offset: int = 0) -> Any:
        """Return the live structure over a writable buffer, *offset* bytes in."""
        return self.ctype.from_buffer(buffer, offset)
