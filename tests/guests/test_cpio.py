"""cpio archives: what is written is read back, by us and by the system's cpio."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.guests import GuestError, cpio

ENTRIES = [
    cpio.directory("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.block_device("dev/vda", 254, 0),
    cpio.file("init", b"#!/bin/sh\n", 0o755),
    cpio.file("empty", b""),
    cpio.symlink("link", "init"),
]


def test_an_archive_reads_back_as_it_was_written() -> None:
    assert list(cpio.read(cpio.write(ENTRIES))) == ENTRIES


def test_an_archive_is_padded_to_whole_blocks() -> None:
    assert len(cpio.write(ENTRIES)) % 512 == 0


@given(st.lists(st.binary(max_size=70), max_size=5))
def test_any_contents_survive(contents: list[bytes]) -> None:
    entries = [cpio.file(f"file{index}", data) for index, data in enumerate(contents)]
    assert [entry.data for entry in cpio.read(cpio.write(entries))] == contents


@given(st.binary(max_size=400))
def test_garbage_is_an_error_of_ours(garbage: bytes) -> None:
    with pytest.raises(GuestError):
        list(cpio.read(garbage))


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_a_damaged_archive_is_read_or_refused(position: int, patch: bytes) -> None:
    archive = bytearray(cpio.write(ENTRIES))
    archive[position : position + len(patch)] = patch
    try:
        for entry in cpio.read(bytes(archive)):
            assert len(entry.data) <= len(archive)
    except GuestError:
        pass


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([cpio.file("a/b", b"")], "needs an entry for its directory"),
        ([cpio.file("a", b""), cpio.file("a", b"")], "twice"),
        ([cpio.file("/a", b"")], "below the archive's root"),
        ([cpio.file("../a", b"")], "below the archive's root"),
        ([cpio.file("", b"")], "cannot be a name"),
        ([cpio.file("a\0b", b"")], "cannot be a name"),
    ],
)
def test_a_member_the_kernel_would_not_take_is_refused(
    entries: list[cpio.Entry], complaint: str
) -> None:
    with pytest.raises(GuestError, match=complaint):
        cpio.write(entries)


@pytest.mark.guest
@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs the system's cpio")
def test_the_systems_cpio_lists_the_same() -> None:
    answer = subprocess.run(
        ["cpio", "-itv"], input=cpio.write(ENTRIES), capture_output=True, check=True
    )
    lines = answer.stdout.decode().splitlines()
    assert len(lines) == len(ENTRIES)
    for line, entry in zip(lines, ENTRIES, strict=True):
        assert line.startswith(stat.filemode(entry.mode))
        assert entry.path in line
    assert lines[-1].endswith("link -> init")
