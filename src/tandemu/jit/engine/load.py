"""The native code of an engine, loaded; compiled first if the cache does not have it.

A start from a warm cache takes a few milliseconds and imports neither LLVM nor
the programs that the code was made from.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from tandemu.bits import Layout
from tandemu.isa.architecture import Isa
from tandemu.isa.catalogue import find_isa
from tandemu.jit.shared.layout import cpu_layout
from tandemu.native import (
    ExecutableMemory,
    Image,
    LoadedImage,
    StencilTable,
    container,
    load,
    load_or_build,
)

ENGINE_KIND = "engine"
_IMAGE_SLACK = 1 << 16


class Engine:
    """Loaded native code of one instruction set; the VMs of a process share it."""

    def __init__(self, isa: Isa, data: bytes, symbols: Mapping[str, int] | None = None) -> None:
        _, blobs = container.unpack(ENGINE_KIND, data)
        self.isa = isa
        self.layout: Layout = cpu_layout(isa.state)
        image = blobs["image"]
        memory = ExecutableMemory(len(image) + _IMAGE_SLACK)
        self.image: LoadedImage = load(Image.from_bytes(image), memory, symbols=symbols)
        table = StencilTable.from_bytes(blobs["stencils"])
        contents = {
            **{name: blob for name, blob in blobs.items() if name not in ("image", "stencils")},
            "stencils": table.descriptors,
            "stencil_code": table.code,
        }
        self._tables = {
            name: ctypes.create_string_buffer(bytes(blob), max(len(blob), 1))
            for name, blob in contents.items()
        }
        self.addresses = {name: ctypes.addressof(t) for name, t in self._tables.items()}
        """Host addresses of what generated code reads, by the CPU field that holds each."""
        self._routines: dict[str, Any] = {}

    def exports(self, name: str) -> bool:
        """Whether the image has a routine called *name*."""
        return name in self.image.image.exports

    def routine(self, name: str, arguments: int) -> Any:
        """A routine of the image as a callable of *arguments* 64-bit integers."""
        known = self._routines.get(name)
        if known is None:
            known = self.image.function(name, ctypes.c_uint64, [ctypes.c_uint64] * arguments)
            self._routines[name] = known
        return known


def _generate(isa: Isa, flat: bool) -> bytes:
    # The generator and LLVM are loaded only when something has to be compiled.
    from tandemu.jit.engine.generate import Program, generate
    from tandemu.jit.engine.user_program import UserProgram

    return generate(UserProgram(isa) if flat else Program(isa))


def engine_code(isa: Isa, *, flat: bool, notice: Callable[[str], None] | None) -> bytes:
    """The native code of an engine, from the cache or made now; *notice* is told of that.

    *flat*: for a program in a window of the host's memory, instead of a machine.
    """
    name = f"{isa.name}-program" if flat else isa.name
    return load_or_build(name, [name, isa.revision], lambda: _generate(isa, flat), notice)


@cache
def load_engine(name: str, notice: Callable[[str], None] | None = None) -> Engine:
    """Load the engine of machines of the architecture *name*; once in a process."""
    isa = find_isa(name)
    return Engine(isa, engine_code(isa, flat=False, notice=notice))
