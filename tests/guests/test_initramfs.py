"""An initramfs around a BusyBox."""

from __future__ import annotations

import gzip
import stat

import pytest

from tandemu.guests import GuestError, build_initramfs, cpio
from tandemu.guests.initramfs import applets

NAMES = ["[", "[[", "ash", "busybox", "mount", "poweroff", "sh"]
BUSYBOX = b"\x7fELF code " + b"\0".join(name.encode() for name in NAMES) + b"\0\0 more data"


def entries(**arguments) -> dict[str, cpio.Entry]:
    archive = build_initramfs(busybox=BUSYBOX, compress=False, **arguments)
    return {entry.path: entry for entry in cpio.read(archive)}


def test_applets_are_read_from_the_executable() -> None:
    assert applets(BUSYBOX) == NAMES


@pytest.mark.parametrize(
    "content", [b"", b"no table", b"[\0[[\0", b"[\0[[\0sh", b"[\0[[\0sh\0\0", b"[\0[[\0\xff\0"]
)
def test_what_is_no_busybox_is_refused(content: bytes) -> None:
    with pytest.raises(GuestError, match="BusyBox"):
        build_initramfs(busybox=content)


def test_it_holds_what_the_kernel_needs() -> None:
    held = entries(init="#!/bin/sh\npoweroff -f\n")
    assert held["init"].data == b"#!/bin/sh\npoweroff -f\n"
    assert held["init"].mode == stat.S_IFREG | 0o755
    assert held["dev/console"].device == (5, 1)
    assert held["bin/sh"] == cpio.symlink("bin/sh", "busybox")
    assert held["bin/busybox"].data == BUSYBOX


def test_files_of_the_callers_come_with_their_folders() -> None:
    held = entries(files={"/opt/a/b": b"\x7fELF", "/etc/motd": b"hello", "/bin/sh": b"#!own"})
    assert held["opt"].mode == held["opt/a"].mode == stat.S_IFDIR | 0o755
    assert held["opt/a/b"].mode == stat.S_IFREG | 0o755
    assert held["etc/motd"].mode == stat.S_IFREG | 0o644
    assert held["bin/sh"].data == b"#!own"


def test_the_same_input_gives_the_same_bytes() -> None:
    assert build_initramfs(busybox=BUSYBOX) == build_initramfs(busybox=BUSYBOX)
    archive = gzip.decompress(build_initramfs(busybox=BUSYBOX))
    assert archive == build_initramfs(busybox=BUSYBOX, compress=False)
