"""What the samples of one vCPU say about where its guest spends its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tandemu.accel.profile import HotPlace, Profile
from tandemu.bits import mask
from tandemu.isa.instruction import Kind
from tandemu.isa.riscv.disassembler import disassemble
from tandemu.isa.riscv.instruction_set import BY_XLEN
from tandemu.jit.regions.installer import GuestCode
from tandemu.jit.regions.request import Region
from tandemu.jit.regions.service import block_tag

_PLACES = 64
"""So many places are looked at closely."""
_LISTED = 32
_ENDS = (Kind.JUMP, Kind.INDIRECT)
_USER_BIT = 1

Code = Mapping[int, bytes]
"""Guest code by its address."""


def take_profile(
    cpu: Any, guest: GuestCode, installed: Mapping[int, Region], xlen: int, flat: bool
) -> Profile:
    """The profile of the processor whose structure is *cpu*, which is at rest.

    *installed*: its regions by tag. *flat*: it runs a program, which has no modes.
    """
    samples = [(one.count, one.tag) for one in cpu.samples if one.count]
    places: list[HotPlace] = []
    for count, tag in sorted(samples, reverse=True)[:_PLACES]:
        machine = tag >> 62 == 1
        pc = tag & ~_USER_BIT & (mask(62) if machine else mask(64))
        mode = "machine" if machine else "user" if tag & _USER_BIT else "supervisor"
        region = installed.get(tag)
        code: Code = {}
        if region is not None:
            code = dict(region.extents)
        elif (place := guest.place(pc)) is not None and block_tag(place.kind, pc) == tag:
            code = guest.code(place)
        level, instructions, size = (
            (0, 0, 0) if region is None else (region.level, region.instructions, len(region.code))
        )
        listing = tuple(_listing(xlen, pc, code))
        places.append(HotPlace(pc, "" if flat else mode, count, level, instructions, size, listing))
    return Profile(cpu.slices, cpu.slice_length, tuple(places))


def _listing(xlen: int, pc: int, code: Code) -> Iterator[tuple[int, str]]:
    """The instructions from *pc* to the next jump, at most."""
    for _ in range(_LISTED):
        low = _half(code, pc)
        high = _half(code, pc + 2) if low is not None and low & 3 == 3 else 0
        if low is None or high is None:
            return
        word = low | high << 16
        yield pc, disassemble(word, pc, xlen)
        decoded = BY_XLEN[xlen].decode(word)
        if decoded is None or decoded.instruction.kind in _ENDS:
            return
        pc += 4 if low & 3 == 3 else 2


def _half(code: Code, address: int) -> int | None:
    for start, data in code.items():
        if start <= address <= start + len(data) - 2:
            return int.from_bytes(data[address - start : address - start + 2], "little")
    return None
