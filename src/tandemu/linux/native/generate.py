"""Generating the native system calls: one routine for each row that says how."""

from __future__ import annotations

from collections.abc import Iterable

from tandemu.ir import Function, lower
from tandemu.linux.host import NUMBERS
from tandemu.linux.native import mappings, memory_calls, path_calls, paths, signal_calls
from tandemu.linux.native.marshal import Marshal
from tandemu.linux.native.signals import ENTER, SET_MASK, SETTLE, build_handle_signal
from tandemu.linux.native.special import SPECIAL
from tandemu.linux.table import Row
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link

__all__ = ["build", "functions", "memory_calls", "path_calls", "paths", "signal_calls"]


def build_call(row: Row) -> Function:
    """The routine of one call."""
    m = Marshal(row.name, row.arguments, restarts=row.restarts)
    body = SPECIAL.get(row.name)
    result = m.make(NUMBERS[row.name], m.arguments()) if body is None else body(m)
    if result is not None:
        m.b.Return(result)
    return m.b.finish()


def functions(rows: Iterable[Row]) -> list[Function]:
    """All routines of the image."""
    calls = [build_call(row) for row in rows if row.is_native]
    return [*calls, build_handle_signal(), SETTLE, ENTER, SET_MASK, *mappings.ROUTINES]


def build(rows: Iterable[Row]) -> bytes:
    """Compile the image."""
    module = compile_object(lower(functions(rows)), model=CodeModel.RUNTIME)
    return link(module).to_bytes()
