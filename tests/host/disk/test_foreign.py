"""VDI, VHD, VHDX and VMDK as qemu-img writes them, and as nobody should."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import pytest

from tandemu.cli.main import main
from tandemu.host.disk import Content, DiskError, open_image
from tandemu.host.disk.foreign.vhdx import crc32c
from tests.host.disk.images import KIB, MIB, needs_qemu, pattern, tool
from tests.long import LONG

SIZE = 9 * MIB

WRITTEN = [
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vpc", ""),
    ("vpc", "force_size=on"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vhdx", ""),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "block_size=1M,log_size=2M"),
    ("vhdx", "block_state_zero=off"),
    ("vmdk", ""),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "subformat=streamOptimized"),
    ("vmdk", "zeroed_grain=on"),
    ("vmdk", "compat6=on"),
]


@pytest.mark.guest
@needs_qemu
@pytest.mark.parametrize(("form", "options"), WRITTEN)
def test_what_qemu_writes_is_read(tmp_path: Path, form: str, options: str) -> None:
    data = pattern(SIZE)
    data[2 * MIB : 5 * MIB] = bytes(3 * MIB)
    raw, path, copy = tmp_path / "disk.raw", tmp_path / f"disk.{form}", tmp_path / "copy.qcow2"
    raw.write_bytes(data)
    words = ["-o", options] if options else []
    tool("qemu-img", "convert", "-f", "raw", "-O", form, *words, raw, path)
    told = form if "fixed" in options and form == "vpc" else None
    with open_image(str(path), told, read_only=True) as image:
        assert image.format == form.replace("vpc", "vhd")
        assert image.size_bytes >= SIZE
        found = image.read(0, image.size_bytes)
        assert found[:SIZE] == data
        assert not any(found[SIZE:])
        assert sum(one.length for one in image.extents(0, image.size_bytes)) == image.size_bytes
        image.describe()
    with pytest.raises(DiskError, match="only read"):
        open_image(str(path), form)
    assert main(["disk", "convert", "-f", form, "-O", "qcow2", str(path), str(copy)]) == 0
    tool("qemu-img", "compare", "-f", form, "-F", "qcow2", path, copy)


@pytest.mark.guest
@needs_qemu
def test_a_large_disk_of_several_files(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    tool("qemu-img", "create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", path, "5G")
    tool("qemu-io", "-f", "vmdk", "-c", "write -P 7 2147418112 128k", "-c", "write -P 8 5G-64k 64k"
         .replace("5G-64k", str((5 << 30) - 65536)), path)  # fmt: skip
    with open_image(str(path), read_only=True) as image:
        assert image.size_bytes == 5 << 30
        assert image.read((2 << 30) - 65536, 128 * KIB) == b"\7" * 128 * KIB
        assert image.read((5 << 30) - 65536, 64 * KIB) == b"\x08" * 64 * KIB
        data = [one for one in image.extents(0, 5 << 30) if one.content is Content.DATA]
        assert sum(one.length for one in data) == 192 * KIB


@pytest.mark.guest
@needs_qemu
def test_a_vmdk_on_another(tmp_path: Path) -> None:
    base, top = tmp_path / "base.vmdk", tmp_path / "top.vmdk"
    tool("qemu-img", "create", "-f", "vmdk", base, "8M")
    tool("qemu-io", "-f", "vmdk", "-c", "write -P 1 0 1M", base)
    tool("qemu-img", "create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", top)
    tool("qemu-io", "-f", "vmdk", "-c", "write -P 2 64k 64k", top)
    with open_image(str(top), read_only=True) as image:
        assert image.read(0, 192 * KIB) == b"\1" * 64 * KIB + b"\2" * 64 * KIB + b"\1" * 64 * KIB
        assert {one.depth for one in image.extents(0, 8 * MIB)} == {0, 1}
    base.unlink()
    with pytest.raises(DiskError, match="which is not there"):
        open_image(str(top), read_only=True)


def _read_all(path: Path, form: str) -> None:
    with open_image(str(path), form, read_only=True) as image:
        for offset in range(0, min(image.size_bytes, 16 * MIB), 256 * KIB):
            image.read(offset, min(256 * KIB, image.size_bytes - offset))
        for count, _ in enumerate(image.extents(0, min(image.size_bytes, 1 << 30))):
            assert count < 1 << 21


@pytest.mark.guest
@needs_qemu
@pytest.mark.parametrize(
    ("form", "options"),
    [("vdi", ""), ("vpc", ""), ("vhdx", ""), ("vmdk", ""), ("vmdk", "subformat=streamOptimized")],
)
def test_mutated_images_give_errors_or_data_and_nothing_else(
    tmp_path: Path, form: str, options: str
) -> None:
    raw, good, bad = (tmp_path / name for name in ("raw", "good", "bad"))
    raw.write_bytes(b"".join(bytes([n + 1]) * 65536 for n in range(12)))
    words = ["-o", options] if options else []
    tool("qemu-img", "convert", "-f", "raw", "-O", form, *words, raw, good)
    original = good.read_bytes()
    random = Random(5)
    # Where headers and tables stand: wherever the file differs from zeros, the data aside.
    places = [
        at
        for at in range(0, len(original) - 8, 4)
        if any(word := original[at : at + 4]) and not (word[0] == word[1] == word[2] == word[3])
    ]
    refused = 0
    for _ in range(600 if LONG else 25):
        data = bytearray(original)
        at = random.choice(places)
        value = random.choice((0, 1, (1 << 32) - 1, 1 << 31, random.getrandbits(32)))
        data[at : at + 4] = value.to_bytes(4, random.choice(("little", "big")))
        if form == "vhdx":
            _sign_vhdx(data)
        bad.write_bytes(data)
        try:
            _read_all(bad, form)
        except DiskError:
            refused += 1
        assert bad.read_bytes() == data
    assert refused
    for length in (0, 3, 100, 600, 5000, len(original) // 8):
        bad.write_bytes(original[:length])
        with pytest.raises(DiskError):
            _read_all(bad, form)


def _sign_vhdx(data: bytearray) -> None:
    """Give what was changed a right checksum, so that it is looked at (the small parts)."""
    for at in (64 * KIB, 128 * KIB):
        data[at + 4 : at + 8] = bytes(4)
        struct.pack_into("<I", data, at + 4, crc32c(bytes(data[at : at + 4096])))


def _flat(folder: Path, extents: str) -> Path:
    path = folder / "disk.vmdk"
    path.write_text(f'# Disk DescriptorFile\ncreateType="twoGbMaxExtentFlat"\n{extents}\n')
    return path


def test_a_descriptor_opens_only_what_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 4096)
    (tmp_path / "sub").mkdir()
    for name in ("../secret", str(tmp_path / "secret"), "..", ""):
        path = _flat(tmp_path / "sub", f'RW 8 FLAT "{name}" 0')
        with pytest.raises(DiskError):
            open_image(str(path), read_only=True)
    path = _flat(tmp_path, 'RW 4 FLAT "secret" 2\nRW 8 ZERO\nRW 2 FLAT "secret" 0')
    with open_image(str(path), read_only=True) as image:
        assert image.read(0, 14 * 512) == b"s" * 2048 + bytes(4096) + b"s" * 1024
    for extents, says in (
        ("", "names no extents"),
        ('RW 4 SESPARSE "secret"', "none that is known"),
        ('RW 8 SPARSE "secret"', "no sparse VMDK"),
        ('RW 99999999999999999999 FLAT "secret" 0', "its extent"),
        ('RW 8 FLAT "disk.vmdk" 0', "in a circle"),
        ('NOACCESS 8 FLAT "secret" 0', "its extent"),
    ):
        with pytest.raises(DiskError, match=says):
            open_image(str(_flat(tmp_path, extents)), read_only=True)
    path = _flat(tmp_path, 'RW 80 FLAT "secret" 0')
    with (
        open_image(str(path), read_only=True) as image,
        pytest.raises(DiskError, match="not in the file"),
    ):
        image.read(8 * 512, 512)
