"""Fixtures: C programs built for the guest, and how to run one under Tandemu."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.sysroot import PACKAGES, unpack
from tandemu.guests import GuestError
from tests.long import STRESS

PROGRAMS = Path(__file__).with_name("programs")
SOURCE = Path(__file__).resolve().parents[2] / "src"
COMPILER, RIVAL = "riscv64-linux-gnu-gcc", "qemu-riscv64"
TIMEOUT_S = 2400 if STRESS else 120
OURS = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")

Result = subprocess.CompletedProcess[bytes]


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile a program of the folder ``programs``, once."""
    folder = tmp_path_factory.mktemp("programs")
    built: dict[tuple[str, ...], Path] = {}

    def compile_program(name: str, *options: str) -> Path:
        need(COMPILER)
        key = name, *options
        if key not in built:
            path = folder / f"{name}-{len(built)}"
            command = [COMPILER, "-O1", "-w", "-pthread", *(options or ("-static",))]
            subprocess.run([*command, "-o", path, PROGRAMS / f"{name}.c"], check=True)
            built[key] = path
        return built[key]

    return compile_program


@pytest.fixture(scope="session")
def build_native(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile a program of the folder ``programs`` for this host, whose kernel is the oracle."""
    folder = tmp_path_factory.mktemp("native")

    def compile_program(name: str) -> Path:
        need("gcc")
        path = folder / name
        command = ["gcc", "-O1", "-w", "-static", "-pthread", "-o", path, PROGRAMS / f"{name}.c"]
        subprocess.run(command, check=True)
        return path

    return compile_program


@pytest.fixture(scope="session")
def sysroot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Debian's bash, perl, python3, git, gcc and so on, unpacked; gone afterwards."""
    folder = tmp_path_factory.mktemp("sysroot")
    try:
        yield unpack(folder, PACKAGES)
    except GuestError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_exec(
    *words: str | Path,
    cwd: Path | None = None,
    timeout_s: int = TIMEOUT_S,
    limit: str = "",
    **variables: str,
) -> Result:
    """Run ``tandemu exec`` with *words*; the program does not get our variables for Python.

    *limit* is what a shell sets before, by its command ``ulimit``.
    """
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **variables}
    hidden = [word for name in OURS for word in ("--unset", name)]
    shell = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh"] if limit else []
    return subprocess.run(
        [*shell, sys.executable, "-m", "tandemu", "exec", *hidden, *map(str, words)],
        capture_output=True, stdin=subprocess.DEVNULL, env=environment, timeout=timeout_s,
        check=False, cwd=cwd,
    )  # fmt: skip


def run_rival(*words: str | Path, cwd: Path | None = None) -> Result:
    """Run the same under qemu-riscv64."""
    need(RIVAL)
    return subprocess.run(
        [RIVAL, *map(str, words)],
        capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False,
        cwd=cwd,
    )  # fmt: skip
