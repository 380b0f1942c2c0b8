"""Link one relocatable object into an `Image`.

Sections follow each other by kind: code, stubs for external functions, read-only
data, address slots, then, on a page of their own so that stores never hit a
line that is being executed, data and zeroed data. What an address inside the
image needs is known here, up to the load address. Relocation arithmetic:
AMD64 supplement, table 4.9. Left out: several objects, thread-local storage,
constructors, unwind tables (generated code does not unwind).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tandemu.bits import align_up, sign_extend
from tandemu.native.elf_object import (
    ABSOLUTE,
    COMMON,
    LOCAL,
    SECTION_SYMBOL,
    UNDEFINED,
    ElfObject,
    Relocation,
    RelocationKind,
    Section,
    SectionFlag,
    SectionKind,
    Symbol,
)
from tandemu.native.errors import NativeError
from tandemu.native.image import Image

_PAGE = 4096
_SLOT_SIZE = 8
_CODE_ALIGNMENT = 64
_JUMP_INDIRECT = b"\xff\x25"  # jmp *disp32(%rip)
_STUB_SIZE = 8
_IMAGE_LIMIT = 1 << 30

_PC_RELATIVE = (RelocationKind.PC_32, RelocationKind.PLT_32)
_THROUGH_SLOT = (
    RelocationKind.GOT_PC_32,
    RelocationKind.GOT_PC_32_RELAXABLE,
    RelocationKind.REX_GOT_PC_32_RELAXABLE,
)
_FORBIDDEN = (
    SectionKind.INIT_ARRAY,
    SectionKind.FINI_ARRAY,
    SectionKind.PREINIT_ARRAY,
)


def link(object_bytes: bytes) -> Image:
    """Link the object of a `CodeModel.RUNTIME` compilation; NativeError for what cannot be."""
    return _Linker(ElfObject.parse(object_bytes)).link()


def _kept(section: Section) -> bool:
    if not section.flags & SectionFlag.ALLOCATE or section.name.startswith(".eh_frame"):
        return False
    if section.flags & SectionFlag.THREAD_LOCAL or section.kind in _FORBIDDEN:
        raise NativeError(
            f"section {section.name}: thread-local data and constructors are not "
            "supported in generated code; keep such state in the CPU structure"
        )
    return section.kind != SectionKind.NOTE


def _rank(section: Section) -> int:
    if section.flags & SectionFlag.EXECUTE:
        return 0
    if not section.flags & SectionFlag.WRITE:
        return 1
    return 3 if section.kind == SectionKind.NOBITS else 2


def _external(symbol: Symbol) -> bool:
    return symbol.section == UNDEFINED


def _calls_external(relocation: Relocation) -> bool:
    return relocation.kind == RelocationKind.PLT_32 and _external(relocation.symbol)


@dataclass
class _Linker:
    elf: ElfObject
    places: dict[int, int] = field(default_factory=dict)  # section number → offset
    common: dict[str, int] = field(default_factory=dict)
    stubs: dict[str, int] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)  # externals
    local_slots: dict[int, int] = field(default_factory=dict)  # offset in the image → slot
    rebases: list[int] = field(default_factory=list)
    absolutes: list[tuple[int, str, int]] = field(default_factory=list)
    blob: bytearray = field(default_factory=bytearray)

    def link(self) -> Image:
        kept = [i for i, section in enumerate(self.elf.sections) if _kept(section)]
        relocations = [(i, r) for i in kept for r in self.elf.relocations.get(i, ())]
        size, alignment = self._place(kept, relocations)
        for index in kept:
            data = self.elf.sections[index].data
            self.blob[self.places[index] : self.places[index] + len(data)] = data
        for index, relocation in relocations:
            self._relocate(self.places[index] + relocation.offset, relocation)
        for name, stub in self.stubs.items():
            displacement = self.slots[name] - (stub + len(_JUMP_INDIRECT) + 4)
            code = _JUMP_INDIRECT + struct.pack("<i", displacement)
            self.blob[stub : stub + len(code)] = code
        for target, slot in self.local_slots.items():
            struct.pack_into("<Q", self.blob, slot, target)
            self.rebases.append(slot)
        exports = {
            symbol.name: self._offset(symbol)
            for symbol in self.elf.symbols
            if symbol.binding != LOCAL
            and symbol.kind != SECTION_SYMBOL
            and (symbol.section in self.places or symbol.section == COMMON)
        }
        image = Image(
            blob=bytes(self.blob),
            size=size,
            alignment=alignment,
            exports=exports,
            externals=self.slots,
            rebases=tuple(sorted(self.rebases)),
            absolutes=tuple(self.absolutes),
        )
        image.check()
        return image

    def _place(self, kept: list[int], relocations: list[tuple[int, Relocation]]) -> tuple[int, int]:
        """Give sections, stubs and slots their offsets; return total size and alignment."""
        sections = self.elf.sections
        position, alignment = 0, _CODE_ALIGNMENT

        def place(rank: int) -> None:
            nonlocal position, alignment
            for index in kept:
                section = sections[index]
                if _rank(section) == rank:
                    position = align_up(position, section.alignment)
                    self.places[index] = position
                    position += section.size
                    alignment = max(alignment, section.alignment)

        place(0)
        position = align_up(position, _STUB_SIZE)
        for _, relocation in relocations:
            name = relocation.symbol.name
            if _calls_external(relocation) and name not in self.stubs:
                self.stubs[name] = position
                position += _STUB_SIZE
        position = align_up(position, _CODE_ALIGNMENT)
        place(1)
        # Common symbols have to be placed before slots can point to them, and
        # count as data; slots are few, so data gets its page after them.
        slot_at = align_up(position, _SLOT_SIZE)
        wanted = [
            relocation.symbol
            for _, relocation in relocations
            if relocation.kind in _THROUGH_SLOT or _calls_external(relocation)
        ]
        position = slot_at + _SLOT_SIZE * len({(s.section, s.value, s.name) for s in wanted})
        commons = [symbol for symbol in self.elf.symbols if symbol.section == COMMON]
        if commons or any(_rank(sections[index]) > 1 for index in kept):
            position = align_up(position, _PAGE)
            alignment = max(alignment, _PAGE)
        place(2)
        stored = position
        place(3)
        for symbol in commons:
            position = align_up(position, max(symbol.value, 1))
            self.common[symbol.name] = position
            position += symbol.size
        if position > _IMAGE_LIMIT:
            raise NativeError(f"image of {position} bytes: the limit is {_IMAGE_LIMIT}")
        for symbol in wanted:
            if _external(symbol):
                if symbol.name not in self.slots:
                    self.slots[symbol.name] = slot_at
                    slot_at += _SLOT_SIZE
            elif (target := self._offset(symbol)) not in self.local_slots:
                self.local_slots[target] = slot_at
                slot_at += _SLOT_SIZE
        self.blob = bytearray(stored)
        return position, alignment

    def _offset(self, symbol: Symbol) -> int:
        """Return where in the image *symbol* is."""
        if symbol.section == COMMON:
            return self.common[symbol.name]
        if symbol.section in self.places:
            return self.places[symbol.section] + symbol.value
        raise NativeError(f"symbol {symbol.name!r} is in no section of the image")

    def _relocate(self, place: int, relocation: Relocation) -> None:
        kind, symbol, addend = relocation.kind, relocation.symbol, relocation.addend
        external = _external(symbol)
        width = 4
        if kind in _THROUGH_SLOT:
            slot = self.slots[symbol.name] if external else self.local_slots[self._offset(symbol)]
            value = slot + addend - place
        elif _calls_external(relocation):
            value = self.stubs[symbol.name] + addend - place
        elif kind in _PC_RELATIVE and not external and symbol.section != ABSOLUTE:
            value = self._offset(symbol) + addend - place
        elif kind == RelocationKind.PC_64 and not external and symbol.section != ABSOLUTE:
            value, width = self._offset(symbol) + addend - place, 8
        elif kind == RelocationKind.ABSOLUTE_64:
            value, width = self._absolute(place, symbol, addend), 8
        else:
            raise NativeError(
                f"relocation {relocation.kind_name} against {symbol.name!r} cannot be linked: "
                "compile for CodeModel.RUNTIME, and do not mark external data dso_local"
            )
        if not -(1 << 8 * width - 1) <= value < 1 << 8 * width - 1:
            raise NativeError(f"relocation against {symbol.name!r} is out of range: {value:#x}")
        if place + width > len(self.blob):
            raise NativeError(f"relocation against {symbol.name!r} lies in zeroed data")
        self.blob[place : place + width] = value.to_bytes(width, "little", signed=True)

    def _absolute(self, place: int, symbol: Symbol, addend: int) -> int:
        if _external(symbol):
            self.absolutes.append((place, symbol.name, addend))
            return 0
        if symbol.section == ABSOLUTE:
            return sign_extend(symbol.value + addend, 64)
        self.rebases.append(place)
        return self._offset(symbol) + addend
