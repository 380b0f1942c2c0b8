"""Kernel formats: Linux ``Image`` for RISC-V, compressed images, EFI zboot, ELF.

Sources: Linux Documentation/arch/riscv/boot-image-header.rst; the header in
drivers/firmware/efi/libstub/zboot-header.S; RFC 1952; RFC 8878. Files are
untrusted: an image may not unpack to more than the caller's limit.
"""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import Any

from tandemu.bits import U8, U32, U64, Layout
from tandemu.board import elf
from tandemu.board.errors import LoadError
from tandemu.board.program import Program, Segment, raw

LINUX_IMAGE = Layout(
    "LinuxImage",
    code=U32[2],
    text_offset=U64,
    image_size=U64,
    flags=U64,
    version=U32,
    reserved1=U32,
    reserved2=U64,
    magic=U64,
    magic2=U32,
    reserved3=U32,
)
ZBOOT = Layout(
    "ZbootHeader",
    mz=U8[4],
    zimg=U8[4],
    payload_offset=U32,
    payload_size=U32,
    reserved=U32[2],
    compression=U8[32],
)
IMAGE_MAGIC = b"RSC\x05"
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BIG_ENDIAN = 1

_PE_POINTER, _COFF_HEADER_SIZE, _SECTION_SIZE, _SECTION_LIMIT = 0x3C, 24, 40, 96

_FOREIGN = (
    (0x202, b"HdrS", "a Linux kernel for x86"),
    (56, b"ARM\x64", "a Linux kernel for AArch64"),
    (0x24, b"\x18\x28\x6f\x01", "a Linux kernel for ARM"),
    (0, b"!<arch>\n", "a Debian package or an archive; take the kernel out of it"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or a FIT image"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image; take the kernel out of it"),
    (0, b"070701", "an initramfs; give it with --initrd"),
)


def parse_kernel(
    data: memoryview, name: str, *, xlen: int, limit_bytes: int, allow_raw: bool = False
) -> Program:
    """Read a kernel of any known format, unpacking it first if need be.

    With *allow_raw* a file of no known format is a raw binary.
    """
    if not data:
        raise LoadError(f"{name} is empty; give a kernel image")
    for _ in range(3):
        unpacked = _unpacked(data, name, limit_bytes)
        if unpacked is None:
            break
        data = unpacked
    if bytes(data[:4]) == elf.MAGIC:
        return elf.parse(data, name, xlen=xlen)
    if bytes(data[56:60]) == IMAGE_MAGIC:
        return _linux(data, name, xlen)
    for offset, magic, what in _FOREIGN:
        if bytes(data[offset : offset + len(magic)]) == magic:
            raise LoadError(f"{name} is {what}, but this board needs a RISC-V kernel")
    if allow_raw:
        return raw(data, name)
    raise LoadError(
        f"{name} is no kernel this board can boot: must be a RISC-V Linux Image (plain, gzip or"
        f" EFI zboot) or an ELF file; it begins with {bytes(data[:8]).hex(' ')}"
    )


def _linux(data: memoryview, name: str, xlen: int) -> Program:
    if len(data) < LINUX_IMAGE.size:
        raise LoadError(f"{name} is truncated: {len(data)} bytes are not even an Image header")
    header = LINUX_IMAGE.over(bytearray(data[: LINUX_IMAGE.size]))
    if header.flags & _BIG_ENDIAN:
        raise LoadError(f"{name} is a big-endian kernel; the board is little-endian")
    needed = _file_size(data)
    if needed > len(data):
        raise LoadError(
            f"{name} is truncated: its sections end at {needed} bytes, the file at {len(data)};"
            " copy or download it again"
        )
    default = 0x20_0000 if xlen == 64 else 0x40_0000
    offset = header.text_offset if header.image_size else default
    size = max(header.image_size, len(data))
    return Program(name, "Linux Image", (Segment(0, data, size),), 0, movable=True, offset=offset)


def _file_size(data: memoryview) -> int:
    """How long the PE header of an EFI-capable Image says the file is; 0 without one.

    Microsoft PE format, "COFF File Header" and "Section Table". The checksum and
    the layout in memory are the kernel's own affair.
    """
    start = int.from_bytes(data[_PE_POINTER : _PE_POINTER + 4], "little")
    if bytes(data[:2]) != b"MZ" or bytes(data[start : start + 4]) != b"PE\0\0":
        return 0
    sections = int.from_bytes(data[start + 6 : start + 8], "little")
    optional = int.from_bytes(data[start + 20 : start + 22], "little")
    first = start + _COFF_HEADER_SIZE + optional
    end = 0
    for number in range(min(sections, _SECTION_LIMIT)):
        place = first + number * _SECTION_SIZE
        size = int.from_bytes(data[place + 16 : place + 20], "little")
        end = max(end, size + int.from_bytes(data[place + 20 : place + 24], "little"))
    return end


def _unpacked(data: memoryview, name: str, limit_bytes: int) -> memoryview | None:
    """One layer of packing removed; None if there is none."""
    if bytes(data[:2]) == GZIP_MAGIC:
        return _gunzip(data, name, limit_bytes)
    if bytes(data[:4]) == ZSTD_MAGIC:
        return _unzstd(data, name, limit_bytes)
    if bytes(data[:2]) == b"MZ" and bytes(data[4:8]) == b"zimg":
        return _zboot(data, name)
    return None


def _zboot(data: memoryview, name: str) -> memoryview:
    if len(data) < ZBOOT.size:
        raise LoadError(f"{name} is truncated: {len(data)} bytes are not even a zboot header")
    header = ZBOOT.over(bytearray(data[: ZBOOT.size]))
    end = header.payload_offset + header.payload_size
    if end > len(data) or not header.payload_size:
        raise LoadError(f"{name} is truncated: its payload ends at {end}, the file at {len(data)}")
    compression = bytes(header.compression).split(b"\0")[0].decode("ascii", "replace")
    if compression not in ("gzip", "zstd", "zstd22"):
        raise LoadError(
            f"{name} is an EFI zboot image packed with {compression!r}: must be gzip or zstd;"
            " unpack the kernel first"
        )
    return data[header.payload_offset : end]


def _gunzip(data: memoryview, name: str, limit_bytes: int) -> memoryview:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        result = unpacker.decompress(data, limit_bytes + 1)
    except zlib.error as error:
        raise LoadError(f"{name}: its gzip data is damaged: {error}") from None
    if len(result) > limit_bytes:
        raise LoadError(
            f"{name} unpacks to more than the {limit_bytes >> 20} MiB of guest memory; give the"
            " machine more with --memory"
        )
    if not unpacker.eof:
        raise LoadError(f"{name} is truncated: its gzip data ends early")
    return memoryview(result)


def _unzstd(data: memoryview, name: str, limit_bytes: int) -> memoryview:
    try:
        # An optional library that few kernels need.
        zstandard: Any = import_module("zstandard")
    except ImportError:
        raise LoadError(
            f"{name} is packed with zstd, which needs the Python package zstandard: install it"
            " or unpack the kernel first"
        ) from None
    reader = zstandard.ZstdDecompressor().stream_reader(data)
    try:
        result: bytes = reader.read(limit_bytes + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise LoadError(f"{name}: its zstd data is damaged: {error}") from None
    if len(result) > limit_bytes:
        raise LoadError(
            f"{name} unpacks to more than the {limit_bytes >> 20} MiB of guest memory; give the"
            " machine more with --memory"
        )
    return memoryview(result)
