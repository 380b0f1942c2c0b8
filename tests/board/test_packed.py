"""Kernels unpack whatever they are packed with, within bounds, and damage is told."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tandemu.board.errors import LoadError
from tandemu.board.kernel_image import parse_kernel
from tandemu.board.packed import unpack

CONTENT = bytes(range(256)) * 300


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    result: bytes = zstandard.ZstdCompressor().compress(data)
    return result


def xz(data: bytes) -> bytes:
    return lzma.compress(data, check=lzma.CHECK_CRC32)  # as the kernel's make rules do


def old_lzma(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


PACKERS = {
    "gzip": gzip.compress,
    "xzkern": xz,
    "lzma": old_lzma,
    "bzip2": bz2.compress,
    "zstd": zstd,
}


def zboot(name: str, payload: bytes) -> bytes:
    header = b"MZ\0\0zimg" + struct.pack("<II8x32s", 64, len(payload), name.encode())
    return header.ljust(64, b"\0") + payload


def unpacked(data: bytes, limit: int = 1 << 20) -> bytes | None:
    result = unpack(memoryview(data), "k", limit)
    return None if result is None else bytes(result)


@pytest.mark.parametrize("name", PACKERS)
def test_it_unpacks_plain_and_inside_of_zboot(name: str) -> None:
    packed = PACKERS[name](CONTENT)
    assert unpacked(packed) == CONTENT
    assert unpacked(zboot(name, packed)) == CONTENT
    assert unpacked(packed, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("name", PACKERS)
def test_what_is_too_large_or_damaged_is_told(name: str) -> None:
    packed = PACKERS[name](CONTENT)
    with pytest.raises(LoadError, match="more than the 0 MiB of guest memory"):
        unpacked(packed, len(CONTENT) - 1)
    damaged = bytearray(PACKERS[name](bytes(range(256)) * 4))
    for place in range(len(damaged) // 3, len(damaged)):
        damaged[place] ^= 0x5A
    for data in (packed[: len(packed) // 2], bytes(damaged)):
        try:
            assert unpacked(data) != CONTENT
        except LoadError as error:
            assert "damaged" in str(error) or "ends early" in str(error)


def test_what_cannot_be_unpacked_is_told() -> None:
    for data, complaint in (
        (b"\x02\x21\x4c\x18" + bytes(20), "packed with LZ4"),
        (zboot("lz4", b"x"), "packed with 'lz4': must be one of gzip"),
        (zboot("gzip", b""), "truncated"),
    ):
        with pytest.raises(LoadError, match=complaint):
            unpacked(data)
    for plain in (b"", b"MZ", CONTENT, b"\x7fELF"):
        assert unpacked(plain) is None


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(LoadError, match=r"pip install zstandard.*tandemu\[zstd\]"):
        unpacked(b"\x28\xb5\x2f\xfd" + bytes(20))


@pytest.mark.guest
@pytest.mark.parametrize(
    "options",
    [["-Wl,-Ttext=0x80000000"], ["-Wl,-Ttext=0x80000000", "-Wl,-n"],
     ["-Wl,-Ttext=0x80000000", "-Wl,-z,max-page-size=65536"]],
    ids=["text alone", "not aligned", "large pages"],
)  # fmt: skip
def test_a_program_linked_to_the_start_of_ram_loads(tmp_path: Path, options: list[str]) -> None:
    compiler = "riscv64-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source, program = tmp_path / "p.S", tmp_path / "p"
    source.write_text(".globl _start\n_start: li a0, 1\n j _start\n.data\n.quad 7\n")
    build: Callable[..., object] = subprocess.run
    build(
        [compiler, "-nostdlib", "-static", "-no-pie", *options, source, "-o", program],
        check=True,
        capture_output=True,
    )
    loaded = parse_kernel(
        memoryview(program.read_bytes()), "p", xlen=64, limit_bytes=1 << 20, allow_raw=False
    )
    assert loaded.start >= 0x8000_0000
    assert loaded.entry == 0x8000_0000
    first = next(one for one in loaded.segments if one.address <= loaded.entry < one.end)
    assert bytes(first.data[loaded.entry - first.address :][:2]) == b"\x05\x45"  # c.li a0, 1
