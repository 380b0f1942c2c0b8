"""Where guest code spends its time, as engines that translate it can tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

OPTIMISED = ("translated", "optimised", "optimised twice")
"""What the levels of `HotPlace.level` are called."""
_ADDRESS_DIGITS = 13


class HotPlace(NamedTuple):
    """A guest address at which slices of guest instructions ended."""

    pc: int
    mode: str
    """The guest's mode there, such as ``user``; empty for a program."""
    slices: int
    level: int
    """How far its code has come: an index of `OPTIMISED`."""
    instructions: int
    """Guest instructions that were optimised together; 0 if none were."""
    host_bytes: int
    """Host code made of them."""
    listing: tuple[tuple[int, str], ...]
    """The guest's instructions from there on: address and text. Empty if they are gone."""


class Profile(NamedTuple):
    """The places found, the hottest first, of all *slices* of *slice_length* instructions.

    Each slice is a fixed number of instructions, so shares of slices are shares of
    instructions, and the same in every run. Rare places may be missing.
    """

    slices: int
    slice_length: int
    places: tuple[HotPlace, ...]


def add_profiles(profiles: Iterable[Profile]) -> Profile:
    """The profile of several processors together."""
    slices = length = 0
    places: defaultdict[tuple[int, str], list[HotPlace]] = defaultdict(list)
    for profile in profiles:
        slices += profile.slices
        length = profile.slice_length
        for place in profile.places:
            places[place.pc, place.mode].append(place)
    merged = [
        max(same, key=lambda one: one.level)._replace(slices=sum(one.slices for one in same))
        for same in places.values()
    ]
    return Profile(slices, length, tuple(sorted(merged, key=lambda one: -one.slices)))


def format_profile(
    profile: Profile,
    name: Callable[[int], str | None] = lambda address: None,
    *,
    limit: int = 10,
    lines: int = 8,
) -> str:
    """*profile* as text: the *limit* hottest places with *lines* instructions each.

    *name* gives the symbol of an address, if there is one.

    >>> place = HotPlace(0x10400, "", 3, 1, 5, 60, ((0x10400, "addi a0,a0,-1"),))
    >>> print(format_profile(Profile(4, 65536, (place,)), {0x10400: "main+0x4"}.get))
    4 slices of 65,536 instructions; the hottest places:
     75.0 %  main+0x4 (0x10400): optimised, 5 instructions in 60 bytes
                    10400  addi a0,a0,-1
    """
    if not profile.slices:
        return "too short a run to tell where it spent its time"
    text = [
        f"{profile.slices:,} slices of {profile.slice_length:,} instructions; the hottest places:"
    ]
    for place in profile.places[:limit]:
        symbol = name(place.pc)
        where = f"{symbol} ({place.pc:#x})" if symbol else f"{place.pc:#x}"
        mode = f", {place.mode} mode" if place.mode else ""
        made = f", {place.instructions} instructions in {place.host_bytes} bytes"
        share = 100 * place.slices / profile.slices
        text.append(
            f"{share:5.1f} %  {where}{mode}: {OPTIMISED[place.level]}{made if place.level else ''}"
        )
        text += [
            f"        {address:>{_ADDRESS_DIGITS}x}  {shown}"
            for address, shown in place.listing[:lines]
        ]
    return "\n".join(text)
