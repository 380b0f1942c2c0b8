"""``tandemu disk`` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tandemu.cli.main import main
from tandemu.host.disk import open_image
from tests.host.disk.images import KIB, MIB, pattern


def tandemu_disk(*words: str | Path) -> int:
    return main(["disk", *map(str, words)])


def contents(path: Path, format: str | None = None) -> bytes:
    with open_image(str(path), format, read_only=True) as image:
        return image.read(0, image.size_bytes)


def test_create_info_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.qcow2"
    assert tandemu_disk("create", path, "10M", "--cluster-size", "4K", "--lazy-refcounts") == 0
    assert "a qcow2 image of 10 MiB" in capsys.readouterr().out
    assert tandemu_disk("info", "--json", path) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["format"], said["size"], said["cluster size"]) == ("qcow2", 10 * MIB, 4096)
    assert said["lazy refcounts"] is True
    assert tandemu_disk("info", path) == 0
    assert "10 MiB (10485760 bytes)" in capsys.readouterr().out
    assert tandemu_disk("check", path) == 0
    assert "No errors were found" in capsys.readouterr().out
    assert tandemu_disk("create", path, "10M") == 1
    assert "exists already" in " ".join(capsys.readouterr().err.split())
    assert tandemu_disk("create", "--force", path, "20M") == 0
    assert len(contents(path)) == 20 * MIB


@pytest.mark.parametrize("words", [[], ["--preallocation", "falloc"], ["--preallocation", "full"]])
@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_new_disk_is_zeros(tmp_path: Path, form: str, words: list[str]) -> None:
    path = tmp_path / "disk"
    assert tandemu_disk("create", "-f", form, path, "3M", *words) == 0
    assert contents(path, form) == bytes(3 * MIB)
    if words:
        assert path.stat().st_blocks * 512 >= 3 * MIB
    else:
        assert path.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("words", [[], ["-c"], ["--data-file", "{}/data"], ["--extended-l2"]])
def test_convert_there_and_back(tmp_path: Path, words: list[str]) -> None:
    raw, packed, back = tmp_path / "a.raw", tmp_path / "b.qcow2", tmp_path / "c.raw"
    data = pattern(5 * MIB + 512)
    raw.write_bytes(data)
    words = [word.format(tmp_path) for word in words]
    assert tandemu_disk("convert", "-f", "raw", "-O", "qcow2", *words, raw, packed) == 0
    assert contents(packed) == data
    if words == ["-c"]:
        assert packed.stat().st_size < sum(map(bool, data))
    assert tandemu_disk("convert", packed, back) == 0
    assert back.read_bytes() == data
    assert back.stat().st_blocks * 512 < 5 * MIB
    assert tandemu_disk("check", packed) == 0
    back.write_bytes(b"\xff" * 6 * MIB)
    assert tandemu_disk("convert", "-n", "-O", "raw", packed, back) == 0
    assert back.read_bytes() == data + b"\xff" * (MIB - 512)
    assert tandemu_disk("convert", "-n", "-c", "-O", "raw", packed, back) == 2
    over = tmp_path / "over.qcow2"
    assert tandemu_disk("create", over, "6M", "--cluster-size", "4K") == 0
    with open_image(str(over)) as image:
        image.write(0, b"\xff" * 6 * MIB)
    assert tandemu_disk("convert", "-n", "-c", "-O", "qcow2", packed, over) == 0
    assert contents(over) == data + b"\xff" * (MIB - 512)
    assert tandemu_disk("check", over) == 0


def test_what_fails_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "a.raw", tmp_path / "out"
    raw.write_bytes(bytes(MIB))
    cases = [
        (["convert", "-c", raw, out], "cannot be compressed", 2),
        (["convert", tmp_path / "none", out], "No such file", 1),
        (["convert", "-O", "vdi", raw, out], "not made here", 2),
        (["convert", "-O", "qcow2", "--cluster-size", "5000", raw, out], "power of two", 2),
        (["create", out], "needs a size", 2),
        (["create", out, "10X"], "is no size", 2),
        (["create", "-f", "raw", "--lazy-refcounts", out, "1M"], "has no options", 2),
        (["create", "--preallocation", "some", out, "1M"], "no preallocation", 2),
        (["create", "-b", "none", out], "No such file", 1),
        (["check", raw], "needs qcow2", 2),
        (["snapshot", "-c", "x", raw], "is no qcow2 image", 1),
        (["resize", raw, "1K"], "--shrink", 2),
        (["info", "-f", "floppy", raw], "no format of images", 2),
        (["commit", raw], "is no qcow2 image", 1),
        (["create", "-F", "raw", out, "1M"], "which is not given", 2),
        (["rebase", "-F", "raw", raw], "which is not given", 2),
        (["convert", "-n", "--lazy-refcounts", raw, out], "no image is made", 2),
        (["convert", "-n", raw, out], "No such file", 1),
        (["check", "--repair", "-U", raw], "not repaired", 2),
        (["snapshot", "--json", "-c", "x", raw], "for the list", 2),
        (["serve", "--socket", out, "--listen", "1", raw], "not allowed with", 2),
    ]
    for words, says, status in cases:
        try:
            assert tandemu_disk(*words) == status, words
        except SystemExit as left:
            assert left.code == status
        assert says in " ".join(capsys.readouterr().err.split())
        assert not out.exists()


def test_resize(tmp_path: Path) -> None:
    for form in ("raw", "qcow2"):
        path = tmp_path / form
        assert tandemu_disk("create", "-f", form, path, "1M") == 0
        assert tandemu_disk("resize", path, "+1M") == 0
        assert len(contents(path)) == 2 * MIB
        assert tandemu_disk("resize", "--shrink", path, "512K") == 0
        assert len(contents(path)) == 512 * KIB


def test_commit_and_rebase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, other, top = tmp_path / "base.raw", tmp_path / "other.raw", tmp_path / "top.qcow2"
    data = pattern(2 * MIB)
    base.write_bytes(data)
    other.write_bytes(pattern(MIB, 2))
    assert tandemu_disk("create", "-b", "base.raw", top) == 0
    assert tandemu_disk("resize", top, "3M") == 0
    data += bytes(MIB)
    with open_image(str(top)) as image:
        image.write(100 * KIB, b"t" * 512)
        image.write_zeroes(MIB, 128 * KIB)
        image.write(3 * MIB - 512, b"e" * 512)
    data[100 * KIB : 100 * KIB + 512] = b"t" * 512
    data[MIB : MIB + 128 * KIB] = bytes(128 * KIB)
    data[-512:] = b"e" * 512
    assert contents(top) == data
    assert tandemu_disk("rebase", "-b", "other.raw", top) == 0
    assert contents(top) == data
    capsys.readouterr()
    assert tandemu_disk("info", "--chain", "--json", top) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["format"] for one in said] == ["qcow2", "raw"]
    assert said[0]["backing"] == "other.raw"
    assert tandemu_disk("commit", "--keep", top) == 0
    assert other.read_bytes() == data
    assert tandemu_disk("rebase", top) == 0
    assert contents(top) == data
    assert tandemu_disk("rebase", "-u", "-b", "other.raw", top) == 0
    assert tandemu_disk("commit", top) == 0
    assert contents(top) == data
    with open_image(str(top)) as image:
        assert all(one.depth or not one.host_offset for one in image.extents(0, 3 * MIB))
    other.rename(tmp_path / "moved.raw")
    with pytest.raises(OSError, match="which is not there"):
        contents(top)
    assert tandemu_disk("rebase", "-u", "-b", "moved.raw", top) == 0
    assert contents(top) == data
    assert tandemu_disk("check", top) == 0


def test_snapshots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.qcow2"
    assert tandemu_disk("create", path, "4M") == 0
    states = {}
    for name in ("one", "two"):
        with open_image(str(path)) as image:
            image.write(MIB, name.encode() * 512)
        assert tandemu_disk("snapshot", "-c", name, path) == 0
        states[name] = contents(path)
    assert tandemu_disk("snapshot", "-c", "one", path) == 2
    capsys.readouterr()
    assert tandemu_disk("snapshot", "--json", path) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["one", "two"]
    assert tandemu_disk("snapshot", path) == 0
    assert "two" in capsys.readouterr().out
    assert tandemu_disk("convert", "-l", "one", path, tmp_path / "one.raw") == 0
    assert (tmp_path / "one.raw").read_bytes() == states["one"]
    assert tandemu_disk("snapshot", "-a", "one", path) == 0
    assert contents(path) == states["one"]
    assert tandemu_disk("snapshot", "-d", "one", path) == 0
    assert tandemu_disk("snapshot", "-d", "one", path) == 2
    assert tandemu_disk("check", path) == 0


def test_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.qcow2"
    assert tandemu_disk("create", path, "4M") == 0
    with open_image(str(path)) as image:
        image.write(MIB, b"x" * MIB)
    capsys.readouterr()
    assert tandemu_disk("map", "--json", path) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(one["start"], one["length"], one["content"]) for one in said] == [
        (0, MIB, "absent"), (MIB, MIB, "data"), (2 * MIB, 2 * MIB, "absent")
    ]  # fmt: skip
    assert tandemu_disk("map", path) == 0
    assert "data" in capsys.readouterr().out


def test_damage_is_told_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.qcow2"
    assert tandemu_disk("create", path, "4M") == 0
    with open_image(str(path)) as image:
        image.write(0, b"x" * MIB)
    data = bytearray(path.read_bytes())
    table = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[table : table + 8], "big")
    data[block + 100 : block + 102] = b"\0\1"
    path.write_bytes(data)
    assert tandemu_disk("check", path) == 3
    data[block + 8 : block + 10] = b"\0\0"
    path.write_bytes(data)
    capsys.readouterr()
    assert tandemu_disk("check", path) == 2
    assert "--repair" in capsys.readouterr().out
    assert tandemu_disk("check", "--repair", path) == 0
    assert contents(path)[:MIB] == b"x" * MIB


def test_serve(tmp_path: Path) -> None:
    path, out = tmp_path / "disk.qcow2", tmp_path / "out.raw"
    assert tandemu_disk("create", path, "4M") == 0
    with open_image(str(path)) as image:
        image.write(0, pattern(4 * MIB))
    command = [sys.executable, "-m", "tandemu", "disk", "serve", path]
    once = [*command, "--socket", tmp_path / "s", "--once", "--name", "a b"]
    with subprocess.Popen(once, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        uri = server.stdout.readline().split()[-1]
        assert uri == f"nbd+unix:///a%20b?socket={tmp_path}/s"
        assert tandemu_disk("convert", uri, out) == 0
        assert server.wait() == 0
    assert out.read_bytes() == pattern(4 * MIB)
    assert not (tmp_path / "s").exists()
    tcp = [*command, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(tcp, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        uri = server.stdout.readline().split()[-1]
        with open_image(uri) as image:
            image.write(0, b"n" * 512)
        server.terminate()
        assert server.wait() == 0
    assert contents(path)[:512] == b"n" * 512
    assert tandemu_disk("serve", path, "--listen", "nowhere") == 2


def test_an_image_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.qcow2"
    assert tandemu_disk("create", path, "4M") == 0
    with open_image(str(path)):
        assert tandemu_disk("info", path) == 1
        assert "is locked" in " ".join(capsys.readouterr().err.split())
        assert tandemu_disk("info", "-U", path) == 0
        assert tandemu_disk("check", "--repair", path) == 1
