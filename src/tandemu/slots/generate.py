"""Compiling the image of `routines`."""

from __future__ import annotations

from tandemu.ir import Function, lower
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link
from tandemu.slots import emitters


def functions() -> list[Function]:
    """All routines for Python and for native device code."""
    log_code, slot_at = emitters.build_log_code(), emitters.build_slot_at()
    return [
        emitters.build_note_pages(log_code),
        emitters.build_note_written(slot_at, log_code),
        emitters.build_gather(slot_at),
        emitters.build_take_dirty(),
    ]


def generate(processor: str = "") -> bytes:
    """The image, for *processor* (default: this host's)."""
    text = lower(functions())
    return link(compile_object(text, model=CodeModel.RUNTIME, processor=processor)).to_bytes()
