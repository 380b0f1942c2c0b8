"""The virtqueue routines as native code: compiled once, kept on disk, loaded when first used."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from tandemu.native.made import BASELINE, made_or_built, write_made
from tandemu.slots.routines import make as make_memory_routines

_IMAGE = "virtqueue"
_SOURCES = ("bits", "memory", "ir", "native", "slots", "device/virtqueue")


def _generate() -> bytes:
    from tandemu.device.virtqueue.generate import generate

    return generate()


@cache
def _image() -> Any:
    from tandemu.native import Image, load

    return load(Image.from_bytes(made_or_built(_IMAGE, _generate, _SOURCES)))


def make(package: str) -> None:
    """Compile all that devices need for any x86-64, into the folder *package* of a Tandemu.

    For hosts that have no LLVM (`native.made`).
    """
    from tandemu.device.virtqueue.generate import generate

    make_memory_routines(package)
    write_made(package, _IMAGE, generate(BASELINE), _SOURCES)


@cache
def routine(name: str, arguments: int) -> Any:
    """A routine as a callable of *arguments* 64-bit integers with a signed result."""
    return _image().function(name, ctypes.c_int64, [ctypes.c_uint64] * arguments)
