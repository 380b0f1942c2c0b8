"""What a program's code is called: symbols of the files that are mapped where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tandemu.guests.errors import GuestError
from tandemu.guests.symbols import SymbolTable, link_offset, read_symbols
from tandemu.linux.memory import Mapping


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

    def _name_in(self, mapping: Mapping, address: int) -> str:
        path, in_file = mapping.name, address - mapping.start + mapping.offset
        if path not in self._tables:
            try:
                self._tables[path] = read_symbols(path)
            except GuestError:  # stripped: common, and no news
                self._tables[path] = None
        table = self._tables[path]
        file = os.path.basename(path)
        try:
            more = link_offset(path, in_file)
        except OSError:
            more = None
        symbol = table.name(in_file + more) if table is not None and more is not None else None
        return f"{symbol} in {file}" if symbol else f"{file}+{in_file:#x}"
