"""What a program's code is called: symbols of the files that are mapped where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tandemu.guests.errors import GuestError
from tandemu.guests.symbols import SymbolTable, read_symbols
from tandemu.linux.elf import ElfFile
from tandemu.linux.errors import LinuxError
from tandemu.linux.mappings import Mapping


class CodeNames:
    """Names by address, from the files that *mappings* show; each file is read once."""

    def __init__(self, mappings: Sequence[Mapping]) -> None:
        self._mappings = [one for one in mappings if one.name[:1] == "/"]
        self._tables: dict[str, SymbolTable | None] = {}

    def name(self, address: int) -> str | None:
        """The symbol that guest address *address* lies in, and its file."""
        for one in self._mappings:
            if one.start <= address < one.end:
                return self._name_in(one, address)
        return None

    def _name_in(self, mapping: Mapping, running: int) -> str:
        path, in_file = mapping.name, running - mapping.start + mapping.offset
        if path not in self._tables:
            try:
                self._tables[path] = read_symbols(path)
            except GuestError:  # stripped: common, and no news
                self._tables[path] = None
        table = self._tables[path]
        file = os.path.basename(path)
        address = _link_address(path, in_file) if table is not None else None
        symbol = table.name(address) if table is not None and address is not None else None
        return f"{symbol} in {file}" if symbol else f"{file}+{in_file:#x}"


def _link_address(path: str, in_file: int) -> int | None:
    """The link-time address of what stands *in_file* bytes from the start of a program's file."""
    try:
        with open(path, "rb") as file:
            segments = ElfFile(file.fileno(), path).segments
    except (OSError, LinuxError):
        return None
    for one in segments:
        if one.offset <= in_file < one.offset + one.file_size:
            return one.address + in_file - one.offset
    return None
