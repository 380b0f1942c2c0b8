"""arm64 programs under Tandemu and under qemu-aarch64: the same output, the same end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.linux.conftest import PROGRAMS, TIMEOUT_S, need, run_exec

pytestmark = pytest.mark.guest
COMPILER, RIVAL = "aarch64-linux-gnu-gcc", "qemu-aarch64"


@pytest.fixture(scope="session")
def build_arm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile a program of the folder ``programs`` for arm64."""
    folder = tmp_path_factory.mktemp("aarch64")

    def compile_program(name: str) -> Path:
        need(COMPILER)
        path = folder / name
        source = PROGRAMS / f"{name}.c"
        command = [COMPILER, "-O1", "-w", "-static", "-pthread", "-o", path, source, "-lm"]
        subprocess.run(command, check=True)
        return path

    return compile_program


@pytest.mark.parametrize("word", ["off", "eager"])
@pytest.mark.parametrize("name", ["arm64_basics"])
def test_as_under_qemu(name: str, word: str, build_arm: Callable[[str], Path]) -> None:
    if shutil.which(RIVAL) is None:
        pytest.skip(f"{RIVAL} is not installed")
    program = build_arm(name)
    theirs = subprocess.run([RIVAL, program], capture_output=True, timeout=TIMEOUT_S, check=False)
    ours = run_exec(program, TANDEMU_OPTIMISER=word)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode), ours.stderr
