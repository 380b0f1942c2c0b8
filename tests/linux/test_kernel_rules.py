"""What a kernel answers: programs of our own, run by this host's kernel and by ours, say the same.

The host's kernel is the oracle: each program of ``programs/rules`` is compiled for the host too.
It prints one sentence for each call; addresses and numbers that differ from run to run are not
among them. New rules of a kernel belong there, with their neighbours.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.linux.conftest import COMPILER, PROGRAMS, TIMEOUT_S, need, run_exec

pytestmark = pytest.mark.guest

RULES = PROGRAMS / "rules"
NATIVE_COMPILER = "gcc"

Compile = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def compile_rule(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile a program of the folder with a compiler, once."""
    folder = tmp_path_factory.mktemp("rules")

    def compile_with(compiler: str, name: str) -> Path:
        need(compiler)
        path = folder / f"{compiler}-{name}"
        options = ["-O1", "-w", "-pthread", "-static"]
        if not path.exists():
            subprocess.run([compiler, *options, "-o", path, RULES / f"{name}.c"], check=True)
        return path

    return compile_with


@pytest.mark.parametrize("name", sorted(path.stem for path in RULES.glob("*.c")))
def test_as_the_hosts_kernel(name: str, compile_rule: Compile, tmp_path: Path) -> None:
    native, foreign = compile_rule(NATIVE_COMPILER, name), compile_rule(COMPILER, name)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    expected = subprocess.run(
        [native], capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False,
        cwd=here,
    )  # fmt: skip
    ours = run_exec(foreign, cwd=there)
    assert ours.stderr == b""
    lines = (expected.stdout.decode().splitlines(), ours.stdout.decode().splitlines())
    difference = "\n".join(unified_diff(*lines, "the host's kernel", "ours", lineterm="", n=1))
    assert not difference, difference
    assert ours.returncode == expected.returncode


@pytest.mark.parametrize("limit", ["-s 256", "-s unlimited", "-n 20", "-d 600000"])
def test_limits_that_a_shell_sets(limit: str, compile_rule: Compile) -> None:
    native, foreign = (compile_rule(one, "resources") for one in (NATIVE_COMPILER, COMPILER))
    ours = run_exec(foreign, "told", limit=limit)
    words = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", native, "told"]
    expected = subprocess.run(words, capture_output=True, check=True, timeout=TIMEOUT_S)
    assert ours.stdout == expected.stdout
    assert ours.returncode == 0


def test_a_limit_that_is_too_small_for_the_translator_is_named(compile_rule: Compile) -> None:
    ours = run_exec(compile_rule(COMPILER, "resources"), "told", limit="-d 100000")
    assert ours.returncode == 126
    assert b"the hard limit on data is 97 MiB" in ours.stderr and b"ulimit -d" in ours.stderr
