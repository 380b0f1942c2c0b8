"""qcow2 against QEMU: what its tools make is read here, what is made here passes its checks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tandemu.host.disk import DiskError, Image, open_image
from tandemu.host.disk.qcow2 import manage
from tandemu.host.disk.qcow2.check import check
from tandemu.host.disk.qcow2.create import Qcow2Options, preallocate
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.storage import HostFile
from tests.host.disk.images import KIB, MIB, make_qcow2, needs_qemu, pattern, tool

pytestmark = [pytest.mark.guest, needs_qemu]
SIZE = 6 * MIB + 512

QEMU_OPTIONS = [
    "compat=1.1",
    "compat=0.10",
    "compat=1.1,lazy_refcounts=on",
    "cluster_size=512",
    "cluster_size=2M",
    "cluster_size=4k,refcount_bits=1",
    "refcount_bits=64",
    "refcount_bits=8,cluster_size=1k",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k",
    "preallocation=metadata",
    "preallocation=falloc",
    "preallocation=full",
    "extended_l2=on,preallocation=metadata",
    "data_file=data",
    "data_file=data,data_file_raw=on",
]
PACKED_OPTIONS = [
    "compression_type=zlib", "compression_type=zstd", "cluster_size=512",
    "compression_type=zstd,extended_l2=on", "compat=0.10", "cluster_size=2M",
]  # fmt: skip


def qemu_check(path: str | Path) -> None:
    tool("qemu-img", "check", path)


def same(path: str | Path, data: bytes | bytearray, folder: Path) -> None:
    """QEMU finds *data* in the image at *path*."""
    raw = folder / "expected.raw"
    raw.write_bytes(data)
    tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw)


def opened(path: str | Path, **options: bool) -> Qcow2Image:
    image = open_image(str(path), **options)
    assert isinstance(image, Qcow2Image)
    return image


def write_randomly(image: Image, data: bytearray, seed: int, times: int = 60) -> None:
    """Change the image and *data* alike."""
    random = Random(seed)
    for _ in range(times):
        offset = random.randrange(len(data) // 512) * 512
        length = min(random.choice((512, 4096, 66048, 300 * KIB)), len(data) - offset)
        if random.random() < 0.7:
            new = random.randbytes(length)
            image.write(offset, new)
        else:
            new = bytes(length)
            image.write_zeroes(offset, length, random.random() < 0.5)
        data[offset : offset + length] = new


@pytest.mark.parametrize("options", QEMU_OPTIONS)
def test_qemus_images_are_read_and_written(tmp_path: Path, options: str) -> None:
    data = pattern(SIZE)
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(data)
    options = options.replace("data_file=data", f"data_file={tmp_path}/data")
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    with opened(path) as image:
        assert image.read(0, SIZE) == data
        write_randomly(image, data, seed=len(options))
        assert image.read(0, SIZE) == data
        assert check(image.storage, image.header).error_count == 0
    qemu_check(path)
    same(path, data, tmp_path)
    if "data_file_raw" in options:
        assert (tmp_path / "data").read_bytes()[:SIZE] == data


@pytest.mark.parametrize("options", PACKED_OPTIONS)
def test_compressed_images(tmp_path: Path, options: str) -> None:
    if "zstd" in options:
        pytest.importorskip("zstandard")
    data = pattern(SIZE)
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(data)
    tool("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    with opened(path, read_only=True) as image:
        assert image.read(0, SIZE) == data
        assert image.read(70_000 // 512 * 512, 512) == data[69632 : 69632 + 512]
        assert any(one.packed for one in image.extents(0, SIZE))
    with opened(path) as image:
        write_randomly(image, data, seed=3)
    qemu_check(path)
    same(path, data, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        Qcow2Options(),
        Qcow2Options(version=2),
        Qcow2Options(cluster_bytes=512, refcount_bits=2),
        Qcow2Options(cluster_bytes=2 * MIB, lazy_refcounts=True),
        Qcow2Options(extended_l2=True, refcount_bits=32),
        Qcow2Options(compression="zstd"),
    ],
)
def test_our_images_are_written_by_both(tmp_path: Path, options: Qcow2Options) -> None:
    path = make_qcow2(tmp_path / "disk.qcow2", SIZE, options)
    qemu_check(path)
    data = bytearray(SIZE)
    for turn in range(3):
        with opened(path) as image:
            write_randomly(image, data, seed=turn, times=20)
        commands = []
        random = Random(turn)
        for number in range(20):
            offset = random.randrange(SIZE // 512) * 512
            length = min(random.choice((512, 65536)), SIZE - offset)
            commands += ["-c", f"write -P {number + 1} {offset} {length}"]
            data[offset : offset + length] = bytes([number + 1]) * length
        tool("qemu-io", "-f", "qcow2", *commands, path)
        qemu_check(path)
        same(path, data, tmp_path)
    with opened(path) as image:
        assert image.read(0, SIZE) == data


def test_snapshots_are_shared_with_qemu(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk.qcow2", SIZE, Qcow2Options(cluster_bytes=4096))
    data = bytearray(SIZE)
    states: dict[str, bytes] = {}
    for turn in range(4):
        with opened(path) as image:
            write_randomly(image, data, seed=turn, times=15)
            if turn % 2:
                manage.create_snapshot(image, f"s{turn}")
        if not turn % 2:
            tool("qemu-img", "snapshot", "-c", f"s{turn}", path)
        states[f"s{turn}"] = bytes(data)
        qemu_check(path)
    for name, then in states.items():
        with open_image(path, read_only=True, snapshot=name) as old:
            assert old.read(0, SIZE) == then
        out = tmp_path / "out.raw"
        tool("qemu-img", "convert", "-l", f"snapshot.name={name}", "-O", "raw", path, out)
        assert out.read_bytes() == then
    with opened(path) as image:
        assert [one.name for one in manage.list_snapshots(image)] == list(states)
        manage.apply_snapshot(image, "s2")
        assert image.read(0, SIZE) == states["s2"]
        manage.delete_snapshot(image, "s0")
        image.write(0, b"new" + bytes(509))
    qemu_check(path)
    tool("qemu-img", "snapshot", "-a", "s1", path)
    with opened(path) as image:
        assert image.read(0, SIZE) == states["s1"]
        for name in ("s1", "s2", "s3"):
            manage.delete_snapshot(image, name)
    qemu_check(path)


def test_chains_are_read_through_and_written_on_top(tmp_path: Path) -> None:
    base, middle, top = (tmp_path / name for name in ("base.raw", "middle.qcow2", "top.qcow2"))
    below = pattern(3 * MIB)
    base.write_bytes(below)
    tool("qemu-img", "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", middle, "4M")
    data = below + bytes(MIB)
    with opened(middle) as image:
        assert image.read(0, 4 * MIB) == data
        write_randomly(image, data, seed=1, times=10)
    data += bytes(SIZE - 4 * MIB)
    make_qcow2(top, SIZE, Qcow2Options(backing="middle.qcow2", backing_format="qcow2"))
    with opened(top) as image:
        write_randomly(image, data, seed=2, times=10)
        assert image.read(0, SIZE) == data
    qemu_check(middle)
    qemu_check(top)
    same(top, data, tmp_path)
    assert base.read_bytes() == below


def test_bitmaps_stay_true(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    tool("qemu-img", "create", "-f", "qcow2", path, "8M")
    tool("qemu-img", "bitmap", "--add", path, "kept")
    tool("qemu-img", "bitmap", "--add", "-g", "4096", path, "fine")
    tool("qemu-img", "bitmap", "--add", "--disable", path, "still")
    tool("qemu-io", "-c", "write 1M 64k", path)
    with opened(path) as image:
        image.write(5 * MIB, bytes(512))
        image.write(0, b"x" * 512)
        manage.create_snapshot(image, "one")
        image.write(3 * MIB, b"y" * 512)
    qemu_check(path)
    shown = json.loads(tool("qemu-img", "info", "--output=json", path))
    bitmaps = shown["format-specific"]["data"]["bitmaps"]
    assert {one["name"]: one["flags"] for one in bitmaps} == {
        "kept": ["auto"], "fine": ["auto"], "still": []
    }  # fmt: skip
    for name, unit in (("kept", 65536), ("fine", 4096)):
        dirty = _dirty_bytes(path, name)
        expected = {place // unit for place in (0, 3 * MIB, 5 * MIB)}
        expected |= set(range(MIB // unit, (MIB + 65536) // unit))
        assert dirty == len(expected) * unit
    assert _dirty_bytes(path, "still") == 0
    with opened(path) as image, pytest.raises(DiskError, match="has bitmaps"):
        manage.resize(image, 16 * MIB)


def _dirty_bytes(path: Path, name: str) -> int:
    """How much of the image its bitmap says is dirty, as QEMU reads it."""
    with opened(path, read_only=True) as image:
        one = next(one for one in image.bitmaps.found if one.name == name)
        image.bitmaps._read(image.storage, one)
        assert one.bits is not None
        return sum(byte.bit_count() for byte in one.bits) << one.granularity_bits


@pytest.mark.parametrize("size", [2 * MIB + 512, 100 * MIB, 40 * MIB + 1024])
def test_another_size(tmp_path: Path, size: int) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(pattern(12 * MIB))
    path = make_qcow2(
        tmp_path / "disk.qcow2", SIZE,
        Qcow2Options(backing="base.raw", backing_format="raw", cluster_bytes=4096),
    )  # fmt: skip
    data = bytearray(base.read_bytes()[:SIZE])
    with opened(path) as image:
        write_randomly(image, data, seed=9)
        manage.resize(image, size)
        data = data[:size] + bytes(max(0, size - SIZE))
        assert image.size_bytes == size
        assert image.read(0, size) == data
        image.write(size - 512, b"e" * 512)
        data[-512:] = b"e" * 512
    qemu_check(path)
    same(path, data, tmp_path)


def test_an_image_that_was_not_closed_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    tool("qemu-img", "create", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "8M")
    tool("qemu-io", "-c", "write -P 7 1M 64k", "-c", "flush", "-c", "abort", path, status=None)
    with opened(path, read_only=True) as image:
        assert image.describe().facts["not closed"]
        assert image.read(MIB, 64 * KIB) == b"\7" * 64 * KIB
    with opened(path) as image:
        assert image.read(MIB, 64 * KIB) == b"\7" * 64 * KIB
    qemu_check(path)


def test_damage_is_found_and_mended(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk.qcow2", SIZE)
    data = pattern(SIZE)
    with opened(path) as image:
        image.write(0, data)
        header = image.header
    block_at = 0
    with open(path, "r+b") as file:
        file.seek(header.refcount_offset)
        block_at = int.from_bytes(file.read(8), "big")
        file.seek(block_at + 2 * 6)
        file.write(bytes(8))  # four clusters are counted no more
        file.seek(block_at + 2 * 500)
        file.write(b"\0\1")  # and one is that nobody uses
    with opened(path, read_only=True) as image:
        report = check(image.storage, image.header)
        assert (report.error_count, report.leaks) == (4, 1)
    with opened(path) as image:
        manage.repair(image)
    qemu_check(path)
    same(path, data, tmp_path)


def test_another_backing_file_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c" * 200):
        (tmp_path / name).write_bytes(name[0].encode() * MIB)
    path = make_qcow2(tmp_path / "disk.qcow2", MIB, Qcow2Options(backing="a", backing_format="raw"))
    for name in ("b", "c" * 200, "a", ""):
        with opened(path) as image:
            manage.set_backing(image, name, "raw")
        with opened(path, read_only=True) as image:
            assert image.read(0, 512) == (name[:1].encode() or b"\0") * 512
        shown = json.loads(tool("qemu-img", "info", "--output=json", path))
        assert shown.get("backing-filename", "") == name
        qemu_check(path)


@pytest.mark.parametrize("how", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("extended", [False, True])
def test_places_given_beforehand(tmp_path: Path, how: str, extended: bool) -> None:
    path = make_qcow2(tmp_path / "disk.qcow2", SIZE, Qcow2Options(extended_l2=extended))
    with opened(path) as image:
        assert isinstance(image.storage, HostFile)
        preallocate(image, how, image.storage)
        assert image.read(0, SIZE) == bytes(SIZE)
        end = Path(path).stat().st_size
        data = pattern(SIZE)
        image.write(0, data)
    assert Path(path).stat().st_size == end
    qemu_check(path)
    same(path, data, tmp_path)


_WRITER = """
import sys
from random import Random
from tandemu.host.disk import open_image
random = Random(int(sys.argv[2]))
with open_image(sys.argv[1]) as image:
    turn = 0
    while True:
        turn += 1
        for _ in range(8):
            # Each sector says which turn wrote it, and never goes back.
            offset = random.randrange(image.size_bytes // 4096 - 8) * 4096
            image.write(offset, turn.to_bytes(8, "little") * (512 * random.randint(1, 8)))
        image.flush()
        print(turn, flush=True)
"""


@pytest.mark.parametrize("lazy", [False, True])
def test_a_process_that_is_killed_leaves_a_whole_image(tmp_path: Path, lazy: bool) -> None:
    path = make_qcow2(
        tmp_path / "disk.qcow2", 8 * MIB, Qcow2Options(cluster_bytes=4096, lazy_refcounts=lazy)
    )
    for seed in range(6):
        command = [sys.executable, "-c", _WRITER, path, str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(seed * 3 + 1):
                assert writer.stdout.readline()
            writer.kill()
        # Reading says what is there; opening for writing mends lazy counts.
        with opened(path) as image:
            image.read(0, image.size_bytes)
            report = check(image.storage, image.header)
            assert not report.errors, report.errors
        tool("qemu-img", "check", "-r", "leaks", path)
        qemu_check(path)
