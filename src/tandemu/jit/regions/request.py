"""What a vCPU asks of the region compiler, and what comes back.

Both travel between processes and the latter is kept on disk, so they are made of
integers, bytes and tuples; `marshal` packs them.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from typing import Any, NamedTuple

from tandemu.memory.layout import PAGE_SIZE
from tandemu.native import NativeError

HOT, VERY_HOT = 1, 2
"""Levels of effort: for hot code, and for the very hottest."""


class RegionKind(NamedTuple):
    """What, besides the guest's code, decides what a region's code is."""

    isa: str
    """The name of the guest's architecture."""
    flat: bool
    """A program in a window of the host's memory, not a machine with a TLB."""
    context: int
    """Who runs there (`isa.architecture.State.contexts`)."""
    precise: bool = True
    """Whether a program sees its registers when the host refuses an access: if it has no
    handler for that it ends, and they need not be in memory."""

    @property
    def watched(self) -> bool:
        """Whether somebody may look at the registers where an access is refused."""
        return self.precise or not self.flat

    @property
    def stores_first(self) -> bool:
        """Whether memory is brought up to date before each access."""
        return self.flat and self.precise


class RegionRequest(NamedTuple):
    """Compile what is reached from *pc*; *pages* holds the guest code around, by address."""

    kind: RegionKind
    pc: int
    level: int
    """`HOT` or `VERY_HOT`: LLVM's effort, and how large the region may be."""
    pages: dict[int, bytes]


class RegionSite(NamedTuple):
    """An instruction that may leave the region: becomes a `layout.SITE`."""

    pc: int
    word: int
    length: int
    """Bytes of the instruction."""
    form: int
    remaining: int
    """Instructions of its block from this one on."""
    places: tuple[int, ...]
    """Offsets of host instructions that the host may refuse (a program's accesses)."""
    size: int = 0
    """If not 0, it stands for so many bytes of host code from there on, whose accesses are not
    told apart; control never goes there from it."""


class RegionRelocation(NamedTuple):
    """A hole: *offset* takes 32 bits of *symbol* + *addend*, from there on if *relative*."""

    offset: int
    symbol: str
    addend: int
    relative: bool


_RECORD_SIZE = 200
"""Bytes that Python takes for one of a region's records."""


class Region(NamedTuple):
    """A compiled region."""

    kind: RegionKind
    pc: int
    level: int
    instructions: int
    """Guest instructions in it."""
    extents: tuple[tuple[int, bytes], ...]
    """The guest code it was made from: address and bytes."""
    code: bytes
    relocations: tuple[RegionRelocation, ...]
    exits: tuple[int, ...]
    """Guest addresses that symbols `EXIT_0`, `EXIT_1` … stand for."""
    sites: tuple[RegionSite, ...]
    nanoseconds: int
    """What compiling it took."""

    def pages(self) -> set[int]:
        """The pages that its guest code lies on."""
        return {
            page
            for start, code in self.extents
            for page in range(start & -PAGE_SIZE, start + len(code), PAGE_SIZE)
        }

    def memory(self) -> int:
        """About how many bytes it takes in a process that has it."""
        records = len(self.sites) + len(self.relocations) + len(self.extents)
        return len(self.code) + _RECORD_SIZE * records

    def fits_page(self, page: int, content: bytes) -> bool:
        """Whether its guest code on *page* is what *content* has."""
        for start, code in self.extents:
            first, last = max(start, page), min(start + len(code), page + PAGE_SIZE)
            there = code[max(first - start, 0) : max(last - start, 0)]
            if there and content[first - page : last - page] != there:
                return False
        return True

    def fits(self, pages: Mapping[int, bytes]) -> bool:
        """Whether the guest's code in *pages*, by address, is what it was made from."""
        for start, expected in self.extents:
            position = 0
            while position < len(expected):
                address = start + position
                offset = address & (PAGE_SIZE - 1)
                part = expected[position : position + PAGE_SIZE - offset]
                page = pages.get(address - offset)
                if page is None or page[offset : offset + len(part)] != part:
                    return False
                position += len(part)
        return True


class Refusal(NamedTuple):
    """Why there is no region at *pc*."""

    kind: RegionKind
    pc: int
    reason: str


def pack(value: RegionRequest | Region | Refusal) -> bytes:
    """As bytes, for a process of the same version."""
    return marshal.dumps((type(value).__name__, _plain(value)))


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def unpack(data: bytes) -> RegionRequest | Region | Refusal:
    """What `pack` packed; NativeError if it is not that."""
    try:
        name, fields = marshal.loads(data)
        if name == "RegionRequest":
            return RegionRequest(RegionKind(*fields[0]), *fields[1:])
        if name == "Refusal":
            return Refusal(RegionKind(*fields[0]), *fields[1:])
        region = Region(RegionKind(*fields[0]), *fields[1:])
        return region._replace(
            relocations=tuple(RegionRelocation(*one) for one in region.relocations),
            sites=tuple(RegionSite(*one) for one in region.sites),
        )
    except (EOFError, ValueError, TypeError) as error:
        raise NativeError(f"not a region: {error}") from error
