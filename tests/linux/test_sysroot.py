"""Paths of a program with a sysroot: looked up there first, as inside of a chroot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.linux.conftest import run_exec

pytestmark = pytest.mark.guest

EXPECTED = """\
rename 0
moved link file file
unlink 0
moved No such file or directory file file
symlink 0
again link to /only/here/file
read 5 hello
mkdir 0 new 1
new file
chdir 0 /only/here
up 0 /
short 1 Numerical result out of range
outside 1 5
escape file
folder as file -1 Is a directory
how 0 link 0 no links -40 none -2
beneath 0 -18 in root 0 short -1
flags -22 create 0
made file
"""


def test_links_and_new_files(build: Callable[..., Path], tmp_path: Path) -> None:
    sysroot = tmp_path / "sysroot"
    here = sysroot / "only" / "here"
    here.mkdir(parents=True)
    (here / "file").write_text("hello")
    (here / "link").symlink_to("/only/here/file")
    outside = tmp_path / "outside"
    outside.symlink_to("/only/here/file")
    ours = run_exec("-L", sysroot, build("sysroot"), outside)
    assert ours.stdout.decode() == EXPECTED
    assert (here / "file").read_text() == "hello"
    assert sorted(path.name for path in here.iterdir()) == ["again", "file", "made", "new"]
    assert not Path("/only").exists()


def test_a_wrong_sysroot_is_said(build: Callable[..., Path], tmp_path: Path) -> None:
    program = build("sysroot")
    ours = run_exec("-L", tmp_path / "none", program)
    assert b"is not a folder" in ours.stderr and ours.returncode == 126
    ours = run_exec("-L", program, program)
    assert b"is not a folder" in ours.stderr and ours.returncode == 126
