"""Linked run-time code: one flat block of bytes that runs wherever it is put.

An `Image` is a value that can be stored; `load` copies it into executable
memory, adds the base address where absolute addresses stand and fills in the
addresses of external functions. `linker.link` makes images from objects.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tandemu.native import container
from tandemu.native.errors import NativeError
from tandemu.native.executable import ExecutableMemory

_KIND = "image"
_POINTER_SIZE = 8
# The C library first; compiler run-time functions (128-bit division) last.
_LIBRARIES = (None, "libc.so.6", "libm.so.6", "libgcc_s.so.1")


class Image(NamedTuple):
    """Position-independent code and data.

    *blob* is followed by zeroes up to *size*. *exports* and *externals* map
    names to offsets; the 8 bytes at an external's offset receive its address.
    *rebases* are offsets of 8-byte values to which the load address is added.
    *absolutes* are (offset, external name, addend) of further 8-byte addresses.
    """

    blob: bytes
    size: int
    alignment: int
    exports: Mapping[str, int]
    externals: Mapping[str, int]
    rebases: tuple[int, ...] = ()
    absolutes: tuple[tuple[int, str, int], ...] = ()

    def check(self) -> None:
        """Raise NativeError if a place or symbol lies outside the image."""
        places = [*self.externals.values(), *self.rebases, *(a[0] for a in self.absolutes)]
        if places and not 0 <= min(places) <= max(places) <= len(self.blob) - _POINTER_SIZE:
            raise NativeError("image is damaged: an address to fill in lies outside its bytes")
        if self.size < len(self.blob) or any(
            not 0 <= offset <= self.size for offset in self.exports.values()
        ):
            raise NativeError("image is damaged: a symbol or its bytes lie outside its size")
        if self.alignment < 1 or self.alignment & (self.alignment - 1):
            raise NativeError(f"image is damaged: alignment {self.alignment}")

    def to_bytes(self) -> bytes:
        """Return the image as bytes for `from_bytes`."""
        header = {
            "size": self.size,
            "alignment": self.alignment,
            "exports": dict(self.exports),
            "externals": dict(self.externals),
            "rebases": list(self.rebases),
            "absolutes": [list(item) for item in self.absolutes],
        }
        return container.pack(_KIND, header, {"blob": self.blob})

    @classmethod
    def from_bytes(cls, data: bytes) -> Image:
        """Read what `to_bytes` made; NativeError if it is anything else."""
        header, blobs = container.unpack(_KIND, data)
        try:
            image = cls(
                blob=blobs["blob"],
                size=header["size"],
                alignment=header["alignment"],
                exports=header["exports"],
                externals=header["externals"],
                rebases=tuple(header["rebases"]),
                absolutes=tuple((o, name, addend) for o, name, addend in header["absolutes"]),
            )
            image.check()
        except (KeyError, TypeError, ValueError) as error:
            raise NativeError(f"not a stored image: {error}") from error
        return image


class LoadedImage(NamedTuple):
    """An image in memory: *memory* holds it from *offset* and must outlive every call."""

    image: Image
    memory: ExecutableMemory
    offset: int

    @property
    def base(self) -> int:
        """Host address of the image's first byte."""
        return self.memory.address + self.offset

    def address(self, name: str) -> int:
        """Return the host address of exported symbol *name*."""
        try:
            return self.base + self.image.exports[name]
        except KeyError:
            known = ", ".join(sorted(self.image.exports)) or "nothing"
            raise NativeError(f"image exports no {name!r}; it exports {known}") from None

    def function(self, name: str, restype: Any, argtypes: Sequence[Any]) -> Any:
        """Return exported function *name* as a ctypes callable, which releases the GIL."""
        return ctypes.CFUNCTYPE(restype, *argtypes)(self.address(name))


def load(
    image: Image,
    memory: ExecutableMemory | None = None,
    *,
    offset: int = 0,
    symbols: Mapping[str, int] | None = None,
) -> LoadedImage:
    """Put *image* into *memory* at *offset* (default: low memory of its own) and make it runnable.

    *symbols* gives host addresses of externals by name; the others are looked
    up in the C library. NativeError for one that is nowhere to be found.
    """
    fresh = memory is None
    if memory is None:
        memory = ExecutableMemory(image.size)
    base = memory.address + offset
    if base % image.alignment:
        raise NativeError(f"image at {base:#x} is not aligned to {image.alignment} bytes")
    if offset < 0 or offset + image.size > memory.size:
        raise NativeError(f"image of {image.size} bytes at {offset} does not fit {memory.size}")
    given = {} if symbols is None else symbols
    names = set(image.externals) | {name for _, name, _ in image.absolutes}
    addresses = {name: given[name] if name in given else _library(name) for name in names}

    blob = bytearray(image.blob)

    def put(where: int, value: int) -> None:
        blob[where : where + _POINTER_SIZE] = (value & (1 << 64) - 1).to_bytes(8, "little")

    for where in image.rebases:
        put(where, int.from_bytes(blob[where : where + _POINTER_SIZE], "little") + base)
    for name, where in image.externals.items():
        put(where, addresses[name])
    for where, name, addend in image.absolutes:
        put(where, addresses[name] + addend)
    memory.write(offset, blob)
    if not fresh:  # a fresh mapping is zero already, and untouched pages cost nothing
        memory.write(offset + len(blob), bytes(image.size - len(blob)))
    return LoadedImage(image, memory, offset)


def _library(name: str) -> int:
    for library in _LIBRARIES:
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (OSError, AttributeError):
            continue
        address = ctypes.cast(function, ctypes.c_void_p).value
        if address:
            return address
    raise NativeError(
        f"generated code calls {name!r}, which no system library has; "
        "define it in the module or pass its address"
    )
