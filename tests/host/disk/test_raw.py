"""Raw images, the file below every image, and the locks that QEMU and Tandemu share."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tandemu.host.disk import Content, DiskError, open_image
from tandemu.host.disk.storage import HostFile
from tests.host.disk.images import MIB, needs_qemu


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(MIB)
    return path


def test_what_is_written_from_pieces_is_read_into_pieces(disk: Path) -> None:
    data = bytes(range(256)) * 16
    with open_image(str(disk)) as image:
        assert (image.format, image.size_bytes, image.read_only) == ("raw", MIB, False)
        image.writev(512, [memoryview(data)[:1000], memoryview(data)[1000:]])
        image.flush()
        back = bytearray(len(data))
        image.readv(512, [memoryview(back)[:7], memoryview(back)[7:2000], memoryview(back)[2000:]])
        assert back == data
        assert disk.read_bytes()[512 : 512 + len(data)] == data


def test_more_pieces_than_the_kernel_takes_at_once(disk: Path) -> None:
    data = bytearray(i * 7 & 255 for i in range(3000))
    with open_image(str(disk), "raw") as image:
        image.writev(0, [memoryview(data)[i : i + 1] for i in range(3000)])
        back = bytearray(3000)
        image.readv(0, [memoryview(back)[i : i + 1] for i in range(3000)])
    assert back == data


def test_requests_outside_and_writes_to_what_is_read_only_are_refused(disk: Path) -> None:
    with open_image(str(disk)) as image:
        for offset in (-512, MIB, MIB - 256, 1 << 70):
            with pytest.raises(DiskError, match="outside the image") as caught:
                image.read(offset, 512)
            assert caught.value.errno == errno.EINVAL
            with pytest.raises(DiskError, match="outside the image"):
                image.write(offset, bytes(512))
            with pytest.raises(DiskError, match="outside the image"):
                image.discard(offset, 512)
    with open_image(str(disk), read_only=True) as image:
        for change in (
            lambda: image.write(0, b"x"),
            lambda: image.discard(0, 512),
            lambda: image.write_zeroes(0, 512),
        ):
            with pytest.raises(DiskError, match="reading only") as caught:
                change()
            assert caught.value.errno == errno.EROFS


def test_a_size_that_is_no_whole_sector_is_rounded_up(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(b"x" * 700)
    with open_image(str(path)) as image:
        assert image.size_bytes == 1024
        assert image.read(512, 512) == b"x" * 188 + bytes(324)
        image.write(512, b"y" * 512)
    assert path.read_bytes() == b"x" * 512 + b"y" * 512


def test_holes_are_seen_and_made(disk: Path) -> None:
    with open_image(str(disk)) as image:
        image.write(0, b"x" * MIB)
        assert [one.content for one in image.extents(0, MIB)] == [Content.DATA]
        image.discard(256 << 10, 256 << 10)
        image.write_zeroes(0, 65536, may_unmap=False)
        assert image.read(0, 65537) == bytes(65536) + b"x"
        assert image.read(256 << 10, 256 << 10) == bytes(256 << 10)
        holes = [one for one in image.extents(0, MIB) if one.content is Content.ZERO]
        assert any((one.offset, one.length) == (256 << 10, 256 << 10) for one in holes)
        assert sum(one.length for one in image.extents(0, MIB)) == MIB


@pytest.mark.parametrize(
    "head", [b"QFI\xfb\0\0\0\3", b"KDMV", b"# Disk DescriptorFile", b"vhdxfile", b"conectix"]
)
def test_a_guest_cannot_turn_its_disk_into_another_format(disk: Path, head: bytes) -> None:
    with open_image(str(disk)) as image:
        image.write(0, head[:2])
        with pytest.raises(DiskError, match="format was guessed") as caught:
            image.write(2, head[2:])
        assert caught.value.errno == errno.EPERM
    with open_image(str(disk), "raw") as image:
        image.write(2, head[2:])


def test_what_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="No such file"):
        open_image(str(tmp_path / "none"))
    with pytest.raises(DiskError, match="a folder"):
        open_image(str(tmp_path), read_only=True)
    with pytest.raises(DiskError, match="no file that holds data"):
        open_image("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DiskError, match="no file that holds data"):
        open_image(str(tmp_path / "pipe"), read_only=True)
    (tmp_path / "qed").write_bytes(b"QED\0" + bytes(508))
    with pytest.raises(DiskError, match="is a qed image"):
        open_image(str(tmp_path / "qed"))
    with pytest.raises(DiskError, match="no format of images"):
        open_image(str(tmp_path / "none"), "floppy")
    with pytest.raises(DiskError, match="null"):
        open_image("a\0b")


def test_a_new_file_replaces_none_unless_told(tmp_path: Path, disk: Path) -> None:
    with pytest.raises(DiskError, match="exists already"):
        HostFile(str(disk), create=True)
    HostFile(str(disk), create=True, replace=True).close()
    assert disk.stat().st_size == 0


def test_an_image_has_one_writer_or_many_readers(disk: Path) -> None:
    with open_image(str(disk)):
        for read_only in (True, False):
            with pytest.raises(DiskError, match="locked") as caught:
                open_image(str(disk), read_only=read_only)
            assert caught.value.errno == errno.EBUSY
        open_image(str(disk), read_only=True, share=True).close()
    with (
        open_image(str(disk), read_only=True),
        open_image(str(disk), read_only=True),
        pytest.raises(DiskError, match="another program uses it"),
    ):
        open_image(str(disk))
    open_image(str(disk)).close()


@pytest.mark.guest
@needs_qemu
def test_qemu_and_tandemu_see_each_others_locks(disk: Path) -> None:
    def qemu(mode: str, order: str) -> str:
        words = ["qemu-io", *mode.split(), "-f", "raw", "-c", order, str(disk)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    for read_only in (False, True):
        with open_image(str(disk), read_only=read_only):
            assert 'Failed to get "write" lock' in qemu("", "write 0 512")
    with open_image(str(disk), read_only=True):
        assert "read 512/512" in qemu("-r", "read 0 512")
    # This qemu-io holds the image until its input ends.
    other = subprocess.Popen(
        ["qemu-io", "-f", "raw", str(disk)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write("read 0 512\n")
    other.stdin.flush()
    while "read 512/512" not in other.stdout.readline():
        pass
    with pytest.raises(DiskError, match="another program writes to it"):
        open_image(str(disk), read_only=True)
    other.communicate()
    open_image(str(disk)).close()
