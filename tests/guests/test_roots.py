"""A whole system as an archive: what packages leave behind, as dpkg itself reads it; unpacking."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tandemu.guests import GuestError, find_recipe
from tandemu.guests.deb import DebFile
from tandemu.guests.images import GuestImage
from tandemu.guests.root_tree import RootTree
from tandemu.guests.unpacking import unpack_root
from tandemu.host.share import owners
from tests.guests.test_deb import ar

Member = tuple[str, bytes | str, int]
"""Name, content, mode; a text makes a symbolic link to it."""


def tar(*members: Member) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content, mode in members:
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.mtime = mode, 0, 42, 1_000_000
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return output.getvalue()


def deb(folder: Path, name: str, more: str, control: list[Member], data: list[Member]) -> DebFile:
    fields = f"Package: {name}\nVersion: 1.0\nArchitecture: riscv64\nMaintainer: x\n{more}"
    text = f"{fields}Description: {name}\n text\n".encode()
    path = folder / f"{name}_1.0_riscv64.deb"
    path.write_bytes(
        ar(
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", gzip.compress(tar(("./control", text, 0o644), *control))),
            ("data.tar.gz", gzip.compress(tar(*data))),
        )
    )
    return DebFile(path)


@pytest.fixture
def image(tmp_path: Path) -> GuestImage:
    """A system of two packages, and a file besides."""
    base = deb(
        *(tmp_path, "base-files", "Essential: yes\n", []),
        [("./usr/", b"", 0o755), ("./usr/bin/", b"", 0o755), ("./bin", "usr/bin", 0o777)],
    )
    tool = deb(
        *(tmp_path, "a-tool", "Multi-Arch: same\nDepends: base-files\n"),
        [
            ("./conffiles", b"/etc/tool.conf\n", 0o644),
            ("./postinst", b"#!/bin/sh\nexit 0\n", 0o755),
            ("./triggers", b"interest-noawait /usr/lib/x\ninterest refresh # word\n", 0o644),
        ],
        [
            ("./bin/tool", b"tool", 0o4755),
            ("./etc/", b"", 0o700),
            ("./etc/tool.conf", b"setting", 0o640),
            ("./usr/share/base-passwd/passwd.master", b"root:*:0:0:::\n", 0o644),
        ],
    )
    folder = tmp_path / "image"
    folder.mkdir()
    with (folder / "root").open("wb") as file:
        tree = RootTree(file, suite="trixie", mirror="http://mirror/debian")
        tree.write([tool, base], {"lib/modules/6.1/kernel/x.ko.xz": b"module"})
    return GuestImage(find_recipe("debian-riscv64-root"), folder, {}, 1)


def test_the_tree_is_what_dpkg_would_leave(image: GuestImage, tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpack_root(image, root)
    assert os.readlink(root / "bin") == "usr/bin"
    assert (root / "usr/bin/tool").read_bytes() == b"tool"
    assert (root / "usr/lib/modules/6.1/kernel/x.ko.xz").read_bytes() == b"module"
    assert not (root / "etc/tool.conf").exists()
    assert (root / "etc/tool.conf.dpkg-new").read_bytes() == b"setting"
    assert (root / "etc/passwd").read_bytes() == b"root:*:0:0:::\n"
    assert os.access(root / "usr/sbin/init", os.X_OK)
    info = root / "var/lib/dpkg/info"
    assert os.access(info / "a-tool:riscv64.postinst", os.X_OK)
    assert "/bin/tool\n" in (info / "a-tool:riscv64.list").read_text()
    triggers = root / "var/lib/dpkg/triggers"
    assert (triggers / "File").read_text() == "/usr/lib/x a-tool:riscv64/noawait\n"
    assert (triggers / "refresh").read_text() == "a-tool:riscv64\n"
    assert "http://mirror/debian" in (root / "etc/apt/sources.list.d/debian.sources").read_text()


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg")
def test_dpkg_reads_its_database(image: GuestImage, tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpack_root(image, root)
    show = "-f=${db:Status-Abbrev} ${Package} ${Version}|${Conffiles}\n"
    command = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", show]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n") == [
        "iU  a-tool 1.0| /etc/tool.conf newconffile",
        "iU  base-files 1.0|",
        "",
    ]
    assert not answer.stderr


def test_owners_are_recorded_for_who_is_not_root(
    image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    root = tmp_path / "root"
    unpack_root(image, root)
    for name, mode in (("usr/bin/tool", 0o104755), ("etc", 0o040700)):
        path = root / name
        status = path.stat()
        assert owners.read(str(path), status) == owners.Owner(0, 42, mode)
        assert status.st_mode & 0o7000 == 0 and status.st_mtime == 1_000_000
    assert (root / "usr/bin/tool").stat().st_mode & 0o777 == 0o711


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_files_their_owners(image: GuestImage, tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpack_root(image, root)
    status = (root / "usr/bin/tool").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 42, 0o4755)


def test_a_folder_in_use_is_left_alone(image: GuestImage, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/mine").write_text("mine")
    with pytest.raises(GuestError, match="not empty"):
        unpack_root(image, tmp_path / "root")
    (tmp_path / "file").write_text("")
    with pytest.raises(GuestError, match="could not be unpacked"):
        unpack_root(image, tmp_path / "file")


@pytest.mark.parametrize(
    "members",
    [
        [("usr/", b"", 0o755), ("usr/out", "/etc", 0o777), ("usr/out/passwd", b"bad", 0o644)],
        [("missing/file", b"", 0o644)],
        [("twice", b"", 0o644), ("twice", b"", 0o644)],
        [("link", "/etc/passwd", 0o777), ("link", b"bad", 0o644)],
    ],
)
def test_an_archive_does_not_lead_out_of_the_folder(
    image: GuestImage, tmp_path: Path, members: list[Member]
) -> None:
    (image.folder / "root").write_bytes(gzip.compress(tar(*members)))
    with pytest.raises(GuestError):
        unpack_root(image, tmp_path / "root")


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(bytes(100), mtime=0)[:-9]])
def test_a_damaged_archive_is_told(image: GuestImage, tmp_path: Path, content: bytes) -> None:
    (image.folder / "root").write_bytes(content)
    with pytest.raises(GuestError):
        unpack_root(image, tmp_path / "root")


def test_kernels_are_not_unpacked(tmp_path: Path) -> None:
    image = GuestImage(find_recipe("debian-riscv64"), tmp_path, {}, 1)
    with pytest.raises(GuestError, match="is a kernel"):
        unpack_root(image, tmp_path / "root")
