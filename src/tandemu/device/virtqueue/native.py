"""The virtqueue routines as native code: compiled once, kept on disk, loaded when first used."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_IMAGE = "virtqueue"
_SOURCES = ("bits", "memory", "ir", "native", "slots", "device/virtqueue")


def _generate() -> bytes:
    from tandemu.device.virtqueue.generate import generate

    return generate()


@cache
def _image() -> Any:
    from tandemu.native import Image, load, load_or_build

    return load(Image.from_bytes(load_or_build(_IMAGE, [_IMAGE], _generate, packages=_SOURCES)))


@cache
def routine(name: str, arguments: int) -> Any:
    """A routine as a callable of *arguments* 64-bit integers with a signed result."""
    return _image().function(name, ctypes.c_int64, [ctypes.c_uint64] * arguments)
