"""Reader of relocatable ELF64 objects for x86-64 (System V ABI, chapters 4; AMD64 supplement 4.4).

Turns the bytes LLVM emits into values, checked for consistency. Left out:
other classes and machines, section groups, extended section numbering, `REL`
relocations, debugging information.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import NamedTuple

from tandemu.native.errors import NativeError


class SectionKind(IntEnum):
    """`sh_type`, the values of interest; others stay plain integers."""

    PROGBITS = 1
    SYMBOL_TABLE = 2
    STRING_TABLE = 3
    RELA = 4
    NOTE = 7
    NOBITS = 8
    REL = 9
    INIT_ARRAY = 14
    FINI_ARRAY = 15
    PREINIT_ARRAY = 16


class SectionFlag(IntFlag):
    """`sh_flags`, the bits of interest."""

    WRITE = 0x1
    ALLOCATE = 0x2
    EXECUTE = 0x4
    THREAD_LOCAL = 0x400


class RelocationKind(IntEnum):
    """`R_X86_64_*`, those that can be met here."""

    ABSOLUTE_64 = 1
    PC_32 = 2
    PLT_32 = 4
    GOT_PC_32 = 9
    ABSOLUTE_32 = 10
    ABSOLUTE_32_SIGNED = 11
    ABSOLUTE_16 = 12
    ABSOLUTE_8 = 14
    PC_64 = 24
    GOT_PC_32_RELAXABLE = 41
    REX_GOT_PC_32_RELAXABLE = 42


UNDEFINED = 0
"""Section number of a symbol that another object defines."""
ABSOLUTE = 0xFFF1
"""Section number of a symbol whose value is not an address."""
COMMON = 0xFFF2
"""Section number of an uninitialised symbol; its value is its alignment."""
_RESERVED = 0xFF00

LOCAL = 0
"""Binding of a symbol that only its own object sees."""
SECTION_SYMBOL = 3
"""Kind of the symbol that names a section."""


class Section(NamedTuple):
    """A section; *data* is empty for one without contents in the file."""

    name: str
    kind: int
    flags: int
    size: int
    alignment: int
    data: bytes


class Symbol(NamedTuple):
    """A symbol: *value* is an offset into section number *section*."""

    name: str
    section: int
    value: int
    size: int
    binding: int
    kind: int


class Relocation(NamedTuple):
    """A place to fill in: *kind* says what is written at *offset* of its section."""

    offset: int
    kind: int
    symbol: Symbol
    addend: int

    @property
    def kind_name(self) -> str:
        """The kind's name, or its number."""
        try:
            return RelocationKind(self.kind).name
        except ValueError:
            return f"R_X86_64 #{self.kind}"


class ElfObject(NamedTuple):
    """A relocatable object: sections, symbols, and relocations by number of their section."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: Mapping[int, tuple[Relocation, ...]]

    @classmethod
    def parse(cls, data: bytes) -> ElfObject:
        """Read an object file; NativeError says what is wrong with it."""
        try:
            return _parse(data)
        except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise NativeError(f"object file is damaged: {error}") from error


_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_RELOCATABLE, _X86_64 = 1, 62


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    if offset > len(table) or end < 0:
        raise NativeError(f"object file is damaged: no string at {offset}")
    return table[offset:end].decode()


def _parse(data: bytes) -> ElfObject:
    header = _HEADER.unpack_from(data)
    magic, elf_class, order, _, _, kind, machine = header[:7]
    if magic != b"\x7fELF" or (elf_class, order) != (2, 1):
        raise NativeError("object file is not little-endian ELF64")
    if (kind, machine) != (_RELOCATABLE, _X86_64):
        raise NativeError(f"ELF type {kind} for machine {machine}: want an x86-64 object (1, 62)")
    table, entry_size, count, names_index = header[10], header[15], header[16], header[17]
    if entry_size != _SECTION.size or not 0 < count < _RESERVED:
        raise NativeError(f"object file has {count} sections of {entry_size} bytes: not supported")

    raw = [_SECTION.unpack_from(data, table + index * entry_size) for index in range(count)]

    def contents(index: int) -> bytes:
        _, section_kind, _, _, offset, size, *_ = raw[index]
        if section_kind in (0, SectionKind.NOBITS):
            return b""
        if offset + size > len(data):
            raise NativeError(f"object file is cut off: section {index} ends past the file")
        return data[offset : offset + size]

    section_names = contents(names_index)
    sections = tuple(
        Section(_string(section_names, r[0]), r[1], r[2], r[5], max(r[8], 1), contents(index))
        for index, r in enumerate(raw)
    )
    if any(section.alignment & (section.alignment - 1) for section in sections):
        raise NativeError("object file is damaged: an alignment is no power of two")
    symbols: tuple[Symbol, ...] = ()
    for index, section in enumerate(sections):
        if section.kind == SectionKind.SYMBOL_TABLE:
            strings = sections[raw[index][6]].data
            symbols = tuple(
                _symbol(fields, strings, sections) for fields in _SYMBOL.iter_unpack(section.data)
            )
    relocations: dict[int, tuple[Relocation, ...]] = {}
    for index, section in enumerate(sections):
        if section.kind == SectionKind.REL:
            raise NativeError(f"section {section.name} holds REL relocations: not supported")
        if section.kind == SectionKind.RELA:
            target = raw[index][7]
            limit = sections[target].size
            found = [
                Relocation(offset, info & 0xFFFFFFFF, symbols[info >> 32], addend)
                for offset, info, addend in _RELA.iter_unpack(section.data)
            ]
            if any(relocation.offset >= limit for relocation in found):
                raise NativeError(f"section {section.name} relocates past its target's end")
            found.sort(key=lambda relocation: relocation.offset)
            relocations[target] = tuple(found)
    return ElfObject(sections, symbols, relocations)


def _symbol(
    fields: tuple[int, int, int, int, int, int], strings: bytes, sections: tuple[Section, ...]
) -> Symbol:
    name_offset, info, _, section, value, size = fields
    name = _string(strings, name_offset)
    if section < _RESERVED:
        home = sections[section]
        if section != UNDEFINED and value + size > home.size:
            raise NativeError(f"symbol {name!r} lies outside section {home.name}")
        if info & 0xF == SECTION_SYMBOL:
            name = home.name
    elif section not in (ABSOLUTE, COMMON):
        raise NativeError(f"symbol {name!r} is in reserved section {section:#x}: not supported")
    return Symbol(name, section, value, size, info >> 4, info & 0xF)
