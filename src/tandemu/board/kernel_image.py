"""Kernel formats: Linux ``Image`` for RISC-V, ELF, either of them packed (`board.packed`).

Source: Linux Documentation/arch/riscv/boot-image-header.rst. Files are untrusted.
"""

from __future__ import annotations

from tandemu.bits import U32, U64, Layout
from tandemu.board import elf
from tandemu.board.errors import LoadError
from tandemu.board.packed import unpack
from tandemu.board.program import Program, Segment, raw
from tandemu.board.riscv_parts import RAM_BASE

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
IMAGE_MAGIC = b"RSC\x05"
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
        unpacked = unpack(data, name, limit_bytes)
        if unpacked is None:
            break
        data = unpacked
    if bytes(data[:4]) == elf.MAGIC:
        return elf.parse(data, name, xlen=xlen, lowest=RAM_BASE)
    if bytes(data[56:60]) == IMAGE_MAGIC:
        return _linux(data, name, xlen)
    for offset, magic, what in _FOREIGN:
        if bytes(data[offset : offset + len(magic)]) == magic:
            raise LoadError(f"{name} is {what}, but this board needs a RISC-V kernel")
    if allow_raw:
        return raw(data, name)
    raise LoadError(
        f"{name} is no kernel this board can boot: must be a RISC-V Linux Image or an ELF file,"
        " plain or packed (gzip, xz, lzma, bzip2, zstd, EFI zboot);"
        f" it begins with {bytes(data[:8]).hex(' ')}"
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
