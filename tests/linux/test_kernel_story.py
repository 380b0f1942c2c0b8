"""Programs that ask the kernel about processes and threads: the host's own kernel is the oracle.

Each program is built for this host as well, and says the same there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.linux.conftest import PROGRAMS, need, run_exec

pytestmark = pytest.mark.guest

NAMES = ["births", "successors", "stories", "callings", "crowd"]


@pytest.mark.parametrize("name", NAMES)
def test_as_natively(name: str, build: Callable[..., Path], tmp_path: Path) -> None:
    need("gcc")
    native = tmp_path / "native" / name
    native.parent.mkdir()
    source = PROGRAMS / f"{name}.c"
    command = ["gcc", "-O1", "-w", "-pthread", "-static", "-o", native, source]
    subprocess.run(command, check=True)
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    theirs = subprocess.run(
        [native], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
        cwd=folders[0],
    )  # fmt: skip
    # The file has the same name in both: a process is called after it.
    program = tmp_path / "guest" / name
    program.parent.mkdir()
    program.write_bytes(build(name).read_bytes())
    program.chmod(0o755)
    ours = run_exec(program, cwd=folders[1])
    assert ours.stdout.decode().splitlines() == theirs.stdout.decode().splitlines()
    # The first start of all may say that it compiles.
    assert [line for line in ours.stderr.decode().splitlines() if "native code" not in line] == []
    assert ours.returncode == theirs.returncode == 0
