"""Removing the packing of a kernel: gzip, xz, lzma, bzip2, zstd, and EFI zboot around one of them.

Sources: RFC 1952; the .xz file format 1.2; RFC 8878; drivers/firmware/efi/libstub/zboot-header.S.
What is packed is untrusted: nothing unpacks to more than the caller's limit. zstd needs the package
``zstandard``; Python's own library has the others. Left out: LZ4 and LZO.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple, Protocol

from tandemu.bits import U8, U32, Layout
from tandemu.board.errors import LoadError

ZBOOT = Layout(
    "ZbootHeader",
    mz=U8[4],
    zimg=U8[4],
    payload_offset=U32,
    payload_size=U32,
    reserved=U32[2],
    compression=U8[32],
)
_LZMA_DICTIONARIES = frozenset(b"\0\0" + bytes((n >> 16 & 0xFF, n >> 24)) for n in
                               (1 << power for power in range(16, 31)))  # fmt: skip
_OTHERS = ((b"\x02\x21\x4c\x18", "LZ4"), (b"\x04\x22\x4d\x18", "LZ4"), (b"\x89LZO", "LZO"))


class Unpacker(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the packed data was seen."""

    def decompress(self, data: memoryview, max_length: int, /) -> bytes:
        """Unpack so many bytes at most."""


class Packing(NamedTuple):
    """A way to pack: its name, and the module and the class that unpack it.

    The module is imported when something is packed so. *argument* is the class's, *error* what
    the module raises.
    """

    name: str
    module: str
    maker: str
    argument: tuple[int, ...] = ()
    error: str = "OSError"


_FORMAT_XZ, _FORMAT_ALONE = 1, 2
"""Of the module lzma."""
_GZIP = Packing("gzip", "zlib", "decompressobj", (31,), "error")
_XZ = Packing("xz", "lzma", "LZMADecompressor", (_FORMAT_XZ,), "LZMAError")
_LZMA = Packing("lzma", "lzma", "LZMADecompressor", (_FORMAT_ALONE,), "LZMAError")
_BZIP2 = Packing("bzip2", "bz2", "BZ2Decompressor")
_ZSTD = Packing("zstd", "zstandard", "ZstdDecompressor", (), "ZstdError")
_ZBOOT = {
    "gzip": _GZIP, "xzkern": _XZ, "xz": _XZ, "lzma": _LZMA, "bzip2": _BZIP2, "zstd": _ZSTD,
    "zstd22": _ZSTD,
}  # fmt: skip


def packing_of(data: memoryview) -> Packing | None:
    """How *data* is packed by its first bytes; None if it is not."""
    head = bytes(data[:13])
    if head[:2] == b"\x1f\x8b":
        return _GZIP
    if head[:6] == b"\xfd7zXZ\0":
        return _XZ
    if head[:3] == b"BZh" and head[3:4].isdigit():
        return _BZIP2
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return _ZSTD
    # The old format has no magic: properties, a power of two, a size that may be unknown.
    if head[:1] == b"\x5d" and head[1:5] in _LZMA_DICTIONARIES and len(head) == 13:
        return _LZMA
    return None


def unpack(data: memoryview, name: str, limit_bytes: int) -> memoryview | None:
    """One layer of packing removed; None if there is none. LoadError for what is damaged."""
    if bytes(data[:2]) == b"MZ" and bytes(data[4:8]) == b"zimg":
        payload, packing = _zboot(data, name)
        return _unpacked(payload, name, packing, limit_bytes)
    for magic, other in _OTHERS:
        if bytes(data[: len(magic)]) == magic:
            raise LoadError(f"{name} is packed with {other}, which is not known: unpack it first")
    packing_found = packing_of(data)
    return None if packing_found is None else _unpacked(data, name, packing_found, limit_bytes)


def _zboot(data: memoryview, name: str) -> tuple[memoryview, Packing]:
    """The payload of an EFI zboot image and its packing."""
    if len(data) < ZBOOT.size:
        raise LoadError(f"{name} is truncated: {len(data)} bytes are not even a zboot header")
    header = ZBOOT.over(bytearray(data[: ZBOOT.size]))
    end = header.payload_offset + header.payload_size
    if end > len(data) or not header.payload_size:
        raise LoadError(f"{name} is truncated: its payload ends at {end}, the file at {len(data)}")
    compression = bytes(header.compression).split(b"\0")[0].decode("ascii", "replace")
    if compression not in _ZBOOT:
        raise LoadError(
            f"{name} is an EFI zboot image packed with {compression!r}: must be one of "
            f"{', '.join(_ZBOOT)}; unpack the kernel first"
        )
    return data[header.payload_offset : end], _ZBOOT[compression]


def _unpacked(data: memoryview, name: str, packing: Packing, limit_bytes: int) -> memoryview:
    if packing is _ZSTD:
        result = _unzstd(data, name, limit_bytes)
    else:
        library = import_module(packing.module)
        unpacker: Unpacker = getattr(library, packing.maker)(*packing.argument)
        try:
            result = unpacker.decompress(data, limit_bytes + 1)
        except (getattr(library, packing.error, OSError), OSError, ValueError, EOFError) as error:
            raise LoadError(f"{name}: its {packing.name} data is damaged: {error}") from None
        except MemoryError:
            raise LoadError(
                f"{name}: unpacking its {packing.name} data takes more memory than there is"
            ) from None
        if len(result) <= limit_bytes and not unpacker.eof:
            raise LoadError(f"{name} is truncated: its {packing.name} data ends early")
    if len(result) > limit_bytes:
        raise LoadError(
            f"{name} unpacks to more than the {limit_bytes >> 20} MiB of guest memory; give the"
            " machine more with --memory"
        )
    return memoryview(result)


def _unzstd(data: memoryview, name: str, limit_bytes: int) -> bytes:
    try:
        # An optional library that few kernels need.
        zstandard: Any = import_module("zstandard")
    except ImportError:
        raise LoadError(
            f"{name} is packed with zstd, which needs the Python package zstandard: run "
            "'pip install zstandard' (or install tandemu[zstd]), or unpack the kernel first"
        ) from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            result: bytes = reader.read(limit_bytes + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise LoadError(f"{name}: its zstd data is damaged: {error}") from None
    if not result:
        raise LoadError(f"{name} is truncated: its zstd data ends early")
    return result
