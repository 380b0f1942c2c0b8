"""Compiling the virtqueue routines."""

from __future__ import annotations

from tandemu.device.virtqueue import packed, split
from tandemu.device.virtqueue.areas import build_shared
from tandemu.ir import lower
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link


def generate() -> bytes:
    """The routines as a stored `native.Image`."""
    shared = build_shared()
    functions = [
        program(shared)
        for program in (split.build_pop, split.build_push, packed.build_pop, packed.build_push)
    ]
    return link(compile_object(lower(functions), model=CodeModel.RUNTIME)).to_bytes()
