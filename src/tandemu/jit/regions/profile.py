"""What the samples of a code cache say about where its guest spends its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tandemu.accel.profile import HotPlace, Profile
from tandemu.isa.architecture import Isa
from tandemu.isa.instruction import Kind
from tandemu.jit.regions.installer import GuestCode
from tandemu.jit.regions.request import Region
from tandemu.jit.shared.tags import block_tag, tag_address, tag_context

_PLACES = 64
"""So many places are looked at closely."""
_LISTED = 32
_ENDS = (Kind.JUMP, Kind.INDIRECT)

Code = Mapping[int, bytes]
"""Guest code by its address."""


def take_profile(
    cache: Any,
    slice_length: int,
    guest: GuestCode,
    installed: Mapping[int, Region],
    isa: Isa,
    flat: bool,
) -> Profile:
    """The profile of those who run the code in *cache*, a `layout.CODE_CACHE`.

    *installed*: its regions by tag. *guest*: how one of them sees the code. *flat*: it is a
    program's, which has no modes.
    """
    samples = [(one.count, one.tag) for one in cache.samples if one.count]
    places: list[HotPlace] = []
    for count, tag in sorted(samples, reverse=True)[:_PLACES]:
        pc = tag_address(tag)
        mode = isa.control.context_name(tag_context(tag))
        region = installed.get(tag)
        code: Code = {}
        if region is not None:
            code = dict(region.extents)
        elif (place := guest.place(pc)) is not None and block_tag(place.kind.context, pc) == tag:
            code = guest.code(place)
        level, instructions, size = (
            (0, 0, 0) if region is None else (region.level, region.instructions, len(region.code))
        )
        listing = tuple(_listing(isa, pc, code))
        places.append(HotPlace(pc, "" if flat else mode, count, level, instructions, size, listing))
    return Profile(cache.slices, slice_length, tuple(places))


def _listing(isa: Isa, pc: int, code: Code) -> Iterator[tuple[int, str]]:
    """The instructions from *pc* to the next jump, at most."""
    guest = isa.guest
    for _ in range(_LISTED):
        data = _bytes(code, pc, isa.state.longest)
        if len(data) < isa.state.alignment:
            return
        text, length = guest.disassemble(data, pc)
        if len(data) < length:
            return
        yield pc, text
        decoded = guest.decode(data)
        if decoded is None or decoded.instruction.kind in _ENDS:
            return
        pc += length


def _bytes(code: Code, address: int, size: int) -> bytes:
    """Up to *size* bytes at *address*: as many as there are in one piece, or in two."""
    found = b""
    for _ in range(2):
        here = address + len(found)
        for start, data in code.items():
            if start <= here < start + len(data):
                found += data[here - start : here - start + size - len(found)]
                break
    return found
