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
folder 0 again -1 File exists
file 1 5 again -1 File exists
open 1 none -1 No such file or directory
mode 0 size 0 times 0
640 1 3
link 0 symlink 0
rename 0 none -1 No such file or directory
link link third file second No such file or directory
chmod -1 No such file or directory
through the link 1 second file
outside 5 hello
mode of it 0 604
chdir 0 new
chdir -1 Not a directory
remove 0 0 0 0 0
none -1 No such file or directory
"""


def test_links_and_new_files(build: Callable[..., Path], tmp_path: Path) -> None:
    sysroot = tmp_path / "sysroot"
    here = sysroot / "only" / "here"
    here.mkdir(parents=True)
    (here / "file").write_text("hello")
    (here / "link").symlink_to("/only/here/file")
    outside = tmp_path / "outside"
    outside.symlink_to("/only/here/file")
    # By a name that the sysroot is asked for first.
    ours = run_exec("-L", sysroot, build("sysroot"), outside, f"/.{tmp_path}")
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
