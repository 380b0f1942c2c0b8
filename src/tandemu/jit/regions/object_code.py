"""Taking a region out of the object file that LLVM made of it."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from typing import NamedTuple

from tandemu.bits import align_up
from tandemu.ir.llvm import MARKS
from tandemu.jit.regions.context import OWN_STORE
from tandemu.jit.regions.request import RegionRelocation
from tandemu.native.elf_object import UNDEFINED, ElfObject, RelocationKind, SectionFlag
from tandemu.native.errors import NativeError

REGION_NAME = "region"
"""What the function of a region is called."""
_SIZE_LIMIT = 1 << 18
_EXTERNAL = {
    RelocationKind.PC_32: True,
    RelocationKind.PLT_32: True,
    RelocationKind.ABSOLUTE_32_SIGNED: False,
    RelocationKind.ABSOLUTE_32: False,
}


class CutRegion(NamedTuple):
    """What is taken from an object."""

    code: bytes
    """With the constants behind it."""
    relocations: tuple[RegionRelocation, ...]
    marks: dict[int, list[int]]
    """Offsets of marked instructions, by mark."""
    functions: dict[str, tuple[tuple[int], int]]
    """Where the functions are, and their sizes."""


def cut_region(object_bytes: bytes) -> CutRegion:
    elf = ElfObject.parse(object_bytes)
    places: dict[int, int] = {}
    blob = bytearray()
    for executable in (True, False):
        for index, section in enumerate(elf.sections):
            flags = section.flags
            if not flags & SectionFlag.ALLOCATE or section.name.startswith((".eh_frame", MARKS)):
                continue
            if bool(flags & SectionFlag.EXECUTE) == executable and section.size:
                if flags & SectionFlag.WRITE:
                    raise NativeError(f"a region with data of its own ({section.name})")
                blob += bytes(align_up(len(blob), max(section.alignment, 1)) - len(blob))
                places[index] = len(blob)
                blob += section.data
    if len(blob) > _SIZE_LIMIT:
        raise NativeError(f"{len(blob)} bytes of code: the limit is {_SIZE_LIMIT}")
    entry = next(s for s in elf.symbols if s.name == REGION_NAME)
    if places[entry.section] + entry.value:
        raise NativeError("a region must begin with its function")
    holes: list[RegionRelocation] = []
    for index, start in places.items():
        for one in elf.relocations.get(index, ()):
            offset = start + one.offset
            relative = _EXTERNAL.get(RelocationKind(one.kind))
            if relative is None:
                raise NativeError(f"a region with a relocation {one.kind_name}")
            if one.symbol.section == UNDEFINED:
                holes.append(RegionRelocation(offset, one.symbol.name, one.addend, relative))
            elif relative and one.symbol.section in places:
                value = places[one.symbol.section] + one.symbol.value + one.addend - offset
                struct.pack_into("<i", blob, offset, value)
            else:
                raise NativeError(f"a region with an address of its own ({one.kind_name})")
    functions = {
        one.name: ((places[one.section] + one.value,), one.size)
        for one in elf.symbols
        if one.name and one.section in places
    }
    return CutRegion(bytes(blob), tuple(holes), _marks(elf, places), functions)


_ACCESS = re.compile(r"^.* (?:load|store|atomicrmw|cmpxchg)\b.* volatile .*$", re.MULTILINE)
_OF_ACCESS = re.compile(r", !pcsections !(\d+)")
_MARK = re.compile(rf'^!(\d+) = !\{{!"{re.escape(MARKS)}", !(\d+)\}}$', re.MULTILINE)
_NUMBER = re.compile(r"^!(\d+) = !\{i32 (\d+)\}$", re.MULTILINE)


def told_apart(llvm_ir: str, marks: Collection[int]) -> bool:
    """Whether each access that is left in *llvm_ir* has a mark of its own, and is in *marks*."""
    numbers = {found[1]: int(found[2]) for found in _NUMBER.finditer(llvm_ir)}
    names = {found[1]: numbers.get(found[2]) for found in _MARK.finditer(llvm_ir)}
    for access in _ACCESS.finditer(llvm_ir):
        found = _OF_ACCESS.search(access[0])
        number = names.get(found[1]) if found else None
        if number is None or (number != OWN_STORE and number not in marks):
            return False
    return True


def _marks(elf: ElfObject, places: Mapping[int, int]) -> dict[int, list[int]]:
    marks: dict[int, list[int]] = {}
    for index, section in enumerate(elf.sections):
        if section.name != MARKS:
            continue
        for one in elf.relocations.get(index, ()):
            (number,) = struct.unpack_from("<I", section.data, one.offset + 4)
            place = places[one.symbol.section] + one.symbol.value + one.addend
            marks.setdefault(number, []).append(place)
    return marks
