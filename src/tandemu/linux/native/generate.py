"""Generating the native system calls: one routine for each row that says how."""

from __future__ import annotations

from collections.abc import Iterable

from tandemu.ir import Function, lower
from tandemu.linux.host import NUMBERS
from tandemu.linux.native import (
    mappings,
    memory_calls,
    path_calls,
    paths,
    process_calls,
    signal_calls,
)
from tandemu.linux.native.guest import GuestAbi, guest_abi
from tandemu.linux.native.marshal import Marshal
from tandemu.linux.native.signals import SET_MASK, build_enter, build_handle_signal, build_settle
from tandemu.linux.native.special import SPECIAL
from tandemu.linux.table import Row
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link

__all__ = [
    "build",
    "functions",
    "memory_calls",
    "path_calls",
    "paths",
    "process_calls",
    "signal_calls",
]


def build_call(row: Row, guest: GuestAbi) -> Function:
    """The routine of one call."""
    m = Marshal(row.name, row.arguments, guest, restarts=row.restarts)
    body = SPECIAL.get(row.name)
    result = m.make(NUMBERS[row.name], m.arguments()) if body is None else body(m)
    if result is not None:
        m.b.Return(result)
    return m.b.finish()


def functions(rows: Iterable[Row], guest: GuestAbi) -> list[Function]:
    """All routines of the image."""
    calls = [build_call(row, guest) for row in rows if row.is_native]
    enter = build_enter(SET_MASK, guest)
    settle = build_settle(SET_MASK, enter, guest)
    return [*calls, build_handle_signal(), settle, enter, SET_MASK, *mappings.ROUTINES]


def build(rows: Iterable[Row], architecture: str) -> bytes:
    """Compile the image for programs of *architecture*."""
    module = lower(functions(rows, guest_abi(architecture)))
    return link(compile_object(module, model=CodeModel.RUNTIME)).to_bytes()
