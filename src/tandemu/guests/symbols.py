"""Names of addresses: symbol tables of ELF files, and lists such as ``System.map``.

ELF: System V ABI, chapter 4, "Sections" and "Symbol Table". Lists: lines of an address in
hexadecimal, a letter for the type and a name, as nm(1) and /proc/kallsyms print them.
Files are not trusted.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from tandemu.guests.errors import GuestError

_MAGIC = b"\x7fELF"
_SYMTAB, _DYNSYM = 2, 11
_CODE, _DATA = (0, 2), (1,)
"""Types of symbols: none and function; object."""
_UNDEFINED = 0
_ABSOLUTE = 0xFFF1
_SYMBOL_LIMIT = 1 << 22
_NAME_LIMIT = 512
_LINE = re.compile(rb"^([0-9a-fA-F]{1,16}) ([a-zA-Z]) (\S+)", re.MULTILINE)
_CODE_TYPES, _DATA_TYPES = b"tTwW", b"dDbBrRvV"


class Symbol(NamedTuple):
    """A name of *size* bytes (0: up to the next one) from *address* on."""

    address: int
    size: int
    name: str


class SymbolTable:
    """Symbols by address.

    >>> table = SymbolTable([Symbol(0x100, 0x10, "main"), Symbol(0x120, 0, "end")])
    >>> table.name(0x104), table.name(0x110), table.name(0x130)
    ('main+0x4', None, 'end+0x10')
    """

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        # Of several names for one address, one with a size, and the shortest.
        ordered = sorted(symbols, key=lambda one: (one.address, one.size > 0, -len(one.name)))
        self._symbols = ordered
        self._addresses = [one.address for one in ordered]

    def __len__(self) -> int:
        return len(self._symbols)

    def address(self, name: str) -> int | None:
        """Where the symbol called *name* begins."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {one.name: one.address for one in reversed(self._symbols)}

    def name(self, address: int) -> str | None:
        """The symbol *address* lies in, with the distance from its start."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        one = self._symbols[index]
        distance = address - one.address
        if one.size and distance >= one.size:
            return None
        return f"{one.name}+{distance:#x}" if distance else one.name


def read_symbols(path: str, *, data: bool = False) -> SymbolTable:
    """The functions that the file at *path* names, with *data* its variables too.

    `GuestError` if it names none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not os.fstat(descriptor).st_size:
                raise GuestError(f"{path} is empty: it holds no symbols")
            with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as file:
                found = (
                    _elf_symbols(file, (*_CODE, *(_DATA if data else ())))
                    if file[:4] == _MAGIC
                    else _listed_symbols(file, _CODE_TYPES + (_DATA_TYPES if data else b""))
                )
                table = SymbolTable(found)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise GuestError(f"{path} cannot be read: {error.strerror}") from error
    except (struct.error, OverflowError) as error:
        raise GuestError(f"{path} is cut short or damaged: its symbols cannot be read") from error
    if not len(table):
        raise GuestError(
            f"{path} holds no symbols of functions: give an ELF file that is not stripped, or a "
            "list like System.map or what the guest's /proc/kallsyms says"
        )
    return table


def _listed_symbols(data: mmap.mmap, types: bytes) -> Iterator[Symbol]:
    for number, found in enumerate(_LINE.finditer(data)):
        if number >= _SYMBOL_LIMIT:
            return
        if found[2] in types and len(found[3]) < _NAME_LIMIT:
            yield Symbol(int(found[1], 16), 0, found[3].decode("utf-8", "replace"))


def _elf_symbols(data: mmap.mmap, types: Collection[int]) -> Iterator[Symbol]:
    wide, little = data[4] == 2, data[5] == 1
    order = "<" if little else ">"
    if wide:
        sections_at, entry_size, count = struct.unpack_from(order + "40xQ10xHH", data)[0:3]
    else:
        sections_at, entry_size, count = struct.unpack_from(order + "32xI10xHH", data)[0:3]
    header = struct.Struct(order + ("4xI16xQQI" if wide else "4xI8xIII"))
    symbol = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))

    def section(number: int) -> tuple[int, int, int, int]:
        kind, offset, size, link = header.unpack_from(data, sections_at + number * entry_size)
        return kind, offset, size, link

    tables = [section(number) for number in range(count)]
    # The full table holds what the dynamic linker's does.
    for wanted in (_SYMTAB, _DYNSYM):
        for kind, offset, size, link in tables:
            if kind != wanted or link >= count:
                continue
            _, names_at, names_size, _ = tables[link]
            for place in range(min(size // symbol.size, _SYMBOL_LIMIT)):
                fields = symbol.unpack_from(data, offset + place * symbol.size)
                if wide:
                    name, info, _, where, value, length = fields
                else:
                    name, value, length, info, _, where = fields
                if where in (_UNDEFINED, _ABSOLUTE) or info & 15 not in types:
                    continue
                start = names_at + name
                end = data.find(b"\0", start, min(start + _NAME_LIMIT, names_at + names_size))
                # Names with $ mark where code and data begin.
                if end > start and data[start : start + 1] != b"$":
                    yield Symbol(value, length, data[start:end].decode("utf-8", "replace"))
            return
