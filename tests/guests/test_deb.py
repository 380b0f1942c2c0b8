"""Packages are read out of any `.deb`; hostile ones are refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandemu.guests import GuestError
from tandemu.guests.deb import DebFile

LONG = "usr/" + "long-folder-name/" * 12 + "file"


def tar(*members: tuple[str, bytes | str], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tarball; a text instead of bytes makes a symbolic link to it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return output.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    output = b"!<arch>\n"
    for name, content in members:
        output += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        output += content + b"\n" * (len(content) % 2)
    return output


CONTROL = ("./control", b"Package: small\nVersion: 1.2\nDescription: one\n two\n")
DATA = [("./usr/bin/tool", b"tool" * 1000), ("./usr/bin/link", "tool"), (LONG, b"deep")]


def package(folder: Path, data: bytes, suffix: str = "") -> DebFile:
    path = folder / "small.deb"
    control = gzip.compress(tar(CONTROL))
    path.write_bytes(
        ar(("debian-binary", b"2.0\n"), ("control.tar.gz", control), (f"data.tar{suffix}", data))
    )
    return DebFile(path)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_files_come_out_of_each_form(tmp_path: Path, form: int, suffix: str, compress) -> None:
    deb = package(tmp_path, compress(tar(*DATA, form=form)), suffix)
    assert deb.names() == ["usr/bin/tool", LONG]
    assert deb.read("usr/bin/tool") == b"tool" * 1000
    assert deb.read(f"/{LONG}") == b"deep"
    assert deb.control() == {"Package": "small", "Version": "1.2", "Description": "one\ntwo"}


def test_several_files_come_out_in_one_pass(tmp_path: Path) -> None:
    taken: dict[str, bytearray] = {"usr/bin/tool": bytearray(), LONG: bytearray()}
    deb = package(tmp_path, tar(*DATA))
    deb.extract({name: content.extend for name, content in taken.items()})
    assert taken == {"usr/bin/tool": b"tool" * 1000, LONG: b"deep"}


def test_a_missing_file_is_named_and_links_are_not_followed(tmp_path: Path) -> None:
    deb = package(tmp_path, tar(*DATA))
    with pytest.raises(GuestError, match="holds no file usr/bin/none"):
        deb.read("usr/bin/none")
    with pytest.raises(GuestError, match="a link to 'tool'"):
        deb.read("usr/bin/link")


@pytest.mark.parametrize("name", ["../etc/passwd", "a/../../b", "usr/.."])
def test_a_path_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(GuestError, match="hostile path"):
        package(tmp_path, tar((name, b"x"))).names()


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    bomb = lzma.compress(tar(("bomb", bytes(4 << 20))))
    path = package(tmp_path, bomb, ".xz").path
    with pytest.raises(GuestError, match="unpacks to more than it may"):
        DebFile(path, unpacked_limit=1 << 20).names()
    with pytest.raises(GuestError, match="larger than"):
        DebFile(path).read("bomb", limit=1 << 20)


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    archive = bytearray(tar(("file", b"x")))
    archive[124:136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    with pytest.raises(GuestError, match="claims a member"):
        package(tmp_path, bytes(archive)).names()


def test_a_huge_extended_header_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x" * 70_000)
    archive = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(GuestError, match="extended header"):
        package(tmp_path, archive).names()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no ar archive"),
        (b"!<arch>\n", "no data part"),
        (b"!<arch>\nshort", "damaged"),
        (ar(("data.tar.rar", b"")), "not known here"),
        (ar(("data.tar", b"")), "truncated"),
        (ar(("data.tar.xz", b"no xz")), "damaged"),
        (ar(("data.tar.gz", b"no gzip")), "damaged"),
    ],
)
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "broken.deb"
    path.write_bytes(content)
    with pytest.raises(GuestError, match=complaint):
        DebFile(path).names()


@given(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=40), st.sampled_from(["cut", "set"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damage_never_raises_anything_else(
    tmp_path: Path, position: int, patch: bytes, damage: str
) -> None:
    path = package(tmp_path, lzma.compress(tar(*DATA)), ".xz").path
    content = bytearray(path.read_bytes())
    position %= len(content)
    if damage == "cut":
        del content[position:]
    else:
        content[position : position + len(patch)] = patch
    path.write_bytes(content)
    deb = DebFile(path)
    for attempt in (deb.names, deb.control, lambda: deb.read("usr/bin/tool")):
        with contextlib.suppress(GuestError):
            attempt()
