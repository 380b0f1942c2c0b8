"""Compiling the virtqueue routines."""

from __future__ import annotations

from tandemu.device.virtqueue import packed, split
from tandemu.device.virtqueue.areas import build_shared
from tandemu.ir import lower
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link


def generate(processor: str = "") -> bytes:
    """The routines as a stored `native.Image`, for *processor* (default: this host's)."""
    shared = build_shared()
    functions = [
        program(shared)
        for program in (split.build_pop, split.build_push, packed.build_pop, packed.build_push)
    ]
    text = lower(functions)
    return link(compile_object(text, model=CodeModel.RUNTIME, processor=processor)).to_bytes()
