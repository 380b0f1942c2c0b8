"""Files that are no programs: an error that says what is the matter, never a traceback."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tandemu.linux import LinuxError, Process
from tandemu.linux.elf import HEADER, PROGRAM_HEADER, ElfFile

RISCV = 243


def elf(
    *segments: tuple[int, ...], kind: int = 2, machine: int = RISCV, ident: bytes = b"\2\1\1"
) -> bytes:
    header = HEADER.pack(
        b"\x7fELF" + ident.ljust(12, b"\0"), kind, machine, 1, 0x10000, 64, 0, 0, 64, 56,
        len(segments), 0, 0, 0,
    )  # fmt: skip
    return header + b"".join(PROGRAM_HEADER.pack(*segment) for segment in segments) + bytes(64)


LOAD = (1, 5, 0, 0x10000, 0, 120, 120, 4096)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an ELF"),
        (b"\x7fELF\2\1", "truncated"),
        (b"hello world, I am text", "not an ELF"),
        (elf(LOAD, ident=b"\1\1\1"), "32-bit little"),
        (elf(LOAD, ident=b"\2\2\1"), "big-endian"),
        (elf(LOAD, machine=62), "x86-64"),
        (elf(LOAD, machine=9999), "machine 9999"),
        (elf(LOAD, kind=1), "object file"),
        (elf(LOAD, kind=4), "core dump"),
        (elf(), "program headers"),
        (elf(LOAD)[:70], "truncated"),
        (elf((1, 5, 0, 0x10000, 0, 4000, 4000, 4096)), "a segment ends"),
        (elf((1, 5, 0, 0x10000, 0, 120, 100, 4096)), "larger in the file"),
        (elf((1, 5, 8, 0x10000, 0, 8, 100, 4096)), "does not match"),
        (elf((1, 5, 0, 1 << 62, 0, 8, 100, 4096)), "out of reach"),
        (elf(LOAD, LOAD), "ascending"),
        (elf((6, 4, 0, 0, 0, 0, 0, 8)), "nothing to load"),
        (elf(LOAD, (3, 4, 0, 0, 0, 1 << 40, 0, 1)), "interpreter"),
    ],
)
def test_reasons(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    with pytest.raises(LinuxError, match=reason):
        Process([str(path)]).become()


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(LinuxError, match="No such file") as caught:
        Process([str(tmp_path / "none")]).become()
    assert caught.value.code == 2
    with pytest.raises(LinuxError, match="directory"):
        Process([str(tmp_path)]).become()
    with pytest.raises(LinuxError, match="sysroot"):
        Process(["/bin/true"], sysroot=str(tmp_path / "none")).become()
    with pytest.raises(LinuxError, match="no program"):
        Process([])


def test_random_damage_is_reported(tmp_path: Path) -> None:
    good = elf(LOAD, (3, 4, 64, 0, 0, 20, 20, 1))
    path = tmp_path / "program"
    for place in range(len(good) - 64):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
            descriptor = os.open(path, os.O_RDONLY)
            try:
                ElfFile(descriptor, "damaged")
            except LinuxError:
                pass
            finally:
                os.close(descriptor)


def test_layout_sizes() -> None:
    assert (HEADER.size, PROGRAM_HEADER.size, struct.calcsize("<Q")) == (64, 56, 8)
