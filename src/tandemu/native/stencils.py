"""Stencils: machine code with holes, packed for a native translator.

`extractor.extract` cuts them out of an object. A stencil that *falls through*
runs on into whatever is copied behind it.

Packed form: *code* holds the stencils one after another at multiples of
`CODE_ALIGNMENT`, followed by `CODE_OVERRUN` bytes so that a copy may read in
wide steps past the end; *descriptors* holds one `STENCIL` record for each. A
hole takes, at *offset* of the copied stencil (S symbol's value, A addend, P
address of the hole; AMD64 supplement, table 4.9):

=============  =====  ==========
kind           bytes  value
=============  =====  ==========
ABSOLUTE_32    4      S + A
ABSOLUTE_64    8      S + A
RELATIVE_32    4      S + A - P
ABSOLUTE_8     1      S + A
=============  =====  ==========
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from tandemu.bits import U8, U16, U32, Layout, Scalar, align_up
from tandemu.native import container
from tandemu.native.errors import NativeError

CODE_ALIGNMENT = 16
CODE_OVERRUN = 256
SIZE_LIMIT = 512
HOLE_LIMIT = 16
SYMBOL_LIMIT = 256

HOLE = Layout("Hole", offset=U16, symbol=U8, kind=U8, addend=Scalar(32, signed=True))
STENCIL = Layout("Stencil", code=U32, size=U16, hole_count=U8, flags=U8, holes=HOLE[HOLE_LIMIT])
FALLS_THROUGH = 1
"""Flag of a stencil whose final jump to the next symbol was dropped."""

_KIND = "stencils"


class HoleKind(IntEnum):
    """What is written into a hole; see the module's table."""

    ABSOLUTE_32 = 0
    ABSOLUTE_64 = 1
    RELATIVE_32 = 2
    ABSOLUTE_8 = 3

    @property
    def size(self) -> int:
        """Width in bytes."""
        return (4, 8, 4, 1)[self]


class Hole(NamedTuple):
    """A place in a stencil that receives a value derived from symbol number *symbol*."""

    offset: int
    symbol: int
    addend: int
    kind: HoleKind


class Stencil(NamedTuple):
    """One stencil, for Python's use (the native translator reads the packed form)."""

    name: str
    code: bytes
    holes: tuple[Hole, ...]
    falls_through: bool

    def filled(self, address: int, values: Sequence[int]) -> bytes:
        """Return the code for host address *address* with the symbols' *values* filled in.

        NativeError if a relative target is too far or a value does not fit its hole.
        """
        code = bytearray(self.code)
        for hole in self.holes:
            value = values[hole.symbol] + hole.addend
            bits = 8 * hole.kind.size
            if hole.kind is HoleKind.RELATIVE_32:
                value -= address + hole.offset
                fits = -(1 << bits - 1) <= value < 1 << bits - 1
            else:
                fits = -(1 << bits - 1) <= value < 1 << bits
            if not fits:
                raise NativeError(
                    f"stencil {self.name}: {value:#x} does not fit the {bits}-bit hole "
                    f"at {hole.offset}"
                )
            data = (value & (1 << bits) - 1).to_bytes(hole.kind.size, "little")
            code[hole.offset : hole.offset + hole.kind.size] = data
        return bytes(code)


class StencilTable:
    """Stencils in packed form; a stencil's number is its place in *names*. Not to be changed."""

    def __init__(
        self, names: Sequence[str], symbols: Sequence[str], code: bytes, descriptors: bytes
    ) -> None:
        if len(descriptors) != len(names) * STENCIL.size:
            raise NativeError(
                f"stencil table is damaged: {len(descriptors)} bytes of descriptors for "
                f"{len(names)} stencils"
            )
        self.names = tuple(names)
        self.symbols = tuple(symbols)
        self.code = code
        self.descriptors = descriptors
        self._numbers = {name: number for number, name in enumerate(names)}

    def __repr__(self) -> str:
        return f"StencilTable({len(self.names)} stencils, {len(self.code)} bytes of code)"

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: str) -> int:
        """Return the number of stencil *name*; NativeError if there is none."""
        try:
            return self._numbers[name]
        except KeyError:
            raise NativeError(f"there is no stencil {name!r}") from None

    def __getitem__(self, which: str | int) -> Stencil:
        """Return a stencil, by name or number."""
        number = self.number(which) if isinstance(which, str) else which
        record: Any = STENCIL.ctype.from_buffer_copy(self.descriptors, number * STENCIL.size)
        holes = tuple(
            Hole(hole.offset, hole.symbol, hole.addend, HoleKind(hole.kind))
            for hole in record.holes[: record.hole_count]
        )
        code = self.code[record.code : record.code + record.size]
        return Stencil(self.names[number], code, holes, bool(record.flags & FALLS_THROUGH))

    @classmethod
    def packed(cls, stencils: Sequence[Stencil], symbols: Sequence[str]) -> StencilTable:
        """Pack *stencils*, whose holes name *symbols* by number."""
        code = bytearray()
        descriptors = bytearray(STENCIL.size * len(stencils))
        for number, stencil in enumerate(stencils):
            record: Any = STENCIL.over(descriptors, number * STENCIL.size)
            record.code = len(code)
            record.size = len(stencil.code)
            record.hole_count = len(stencil.holes)
            record.flags = FALLS_THROUGH if stencil.falls_through else 0
            for index, hole in enumerate(stencil.holes):
                slot: Any = record.holes[index]
                slot.offset, slot.symbol = hole.offset, hole.symbol
                slot.kind, slot.addend = hole.kind, hole.addend
            code += stencil.code
            code += bytes(align_up(len(code), CODE_ALIGNMENT) - len(code))
        code += bytes(CODE_OVERRUN)
        names = [stencil.name for stencil in stencils]
        return cls(names, symbols, bytes(code), bytes(descriptors))

    def to_bytes(self) -> bytes:
        """Return the table as bytes for `from_bytes`."""
        names = "\n".join(self.names).encode()
        return container.pack(
            _KIND,
            {"symbols": list(self.symbols), "record": STENCIL.size},
            {"names": names, "code": self.code, "descriptors": self.descriptors},
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> StencilTable:
        """Read what `to_bytes` made; NativeError if it is anything else."""
        header, blobs = container.unpack(_KIND, data)
        try:
            if header["record"] != STENCIL.size:
                raise ValueError(f"records of {header['record']} bytes")
            names = blobs["names"].decode().split("\n") if blobs["names"] else []
            return cls(names, header["symbols"], blobs["code"], blobs["descriptors"])
        except (KeyError, TypeError, ValueError) as error:
            raise NativeError(f"not a stored stencil table: {error}") from error
