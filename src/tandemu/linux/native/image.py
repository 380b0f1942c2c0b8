"""The loaded routines of native system calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from tandemu.linux.native.layout import PROCESS, THREAD
from tandemu.linux.table import Row
from tandemu.native import Image, LoadedImage, load, load_or_build

_SOURCES = ("bits", "ir", "isa", "linux", "native")
_ARGUMENTS = 7


class NativeCalls:
    """The routines of one process, and the structure that its threads share."""

    def __init__(
        self,
        rows: Sequence[Row],
        architecture: str,
        copy_routine: int,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        data = load_or_build(
            f"system-calls-{architecture}",
            ["system-calls", architecture],
            lambda: _generate(rows, architecture),
            notice,
            _SOURCES,
        )
        symbols = {"copy_guest": copy_routine}
        self._image: LoadedImage = load(Image.from_bytes(data), symbols=symbols)
        self._process_memory = ctypes.create_string_buffer(PROCESS.size)
        self.process_address = ctypes.addressof(self._process_memory)
        self.process: Any = PROCESS.at(self.process_address)

    def has(self, name: str) -> bool:
        """Whether there is a routine for call *name*."""
        return f"call_{name}" in self._image.image.exports

    def address(self, name: str) -> int:
        """The host address of the routine for call *name*."""
        return self._image.address(f"call_{name}")

    def routine(self, name: str) -> Callable[..., int]:
        """The routine for call *name*: context and six numbers."""
        function: Callable[..., int] = self._image.function(
            f"call_{name}", ctypes.c_int64, [ctypes.c_uint64] * _ARGUMENTS
        )
        return function

    def helper(self, name: str, arguments: int) -> Callable[..., int]:
        """Another routine of the image, of so many numbers."""
        function: Callable[..., int] = self._image.function(
            name, ctypes.c_int64, [ctypes.c_uint64] * arguments
        )
        return function

    def quick_helper(self, name: str, arguments: int) -> Callable[..., int]:
        """The same for one that never waits: Python's lock is kept, which is cheaper."""
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * arguments)
        function: Callable[..., int] = prototype(self._image.address(name))
        return function

    def helper_address(self, name: str) -> int:
        """The host address of another routine of the image."""
        return self._image.address(name)


def _generate(rows: Sequence[Row], architecture: str) -> bytes:
    # The generator and LLVM are loaded only when something has to be compiled.
    from tandemu.linux.native.generate import build

    return build(rows, architecture)


__all__ = ["PROCESS", "THREAD", "NativeCalls"]
