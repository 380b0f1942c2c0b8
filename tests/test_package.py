"""The package as people get it: built, installed into an empty environment, and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tandemu.cli.completion import SHELLS, script
from tandemu.cli.parser import make_parser
from tandemu.cli.version import VERSION, long_version, revision_of

ROOT = Path(__file__).resolve().parent.parent
USERS_PROGRAM = """\
from collections.abc import Mapping

from tandemu import Machine, Result, __version__


def boot(kernel: bytes) -> Result:
    with Machine(kernel=kernel, firmware="none", memory="16M", timeout=30.0) as vm:
        vm.start()
        return vm.wait()


def instructions(vm: Machine) -> int | float:
    counted: Mapping[str, int | float] = vm.statistics()
    return counted["instructions"]


version: str = __version__
"""
WRONG_PROGRAM = "from tandemu import Machine\nMachine(memory=None)\n"


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, **options  # type: ignore[call-overload]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr or done.stdout
    output: str = done.stdout
    return output


def environment() -> dict[str, str]:
    """Without what makes the checkout's own modules visible."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TANDEMU_SYSROOT")
    return {name: value for name, value in os.environ.items() if name not in hidden}


@pytest.mark.guest
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("riscv64-linux-gnu-gcc"), reason="no cross compiler")
def test_a_wheel_and_an_sdist_are_built_and_the_wheel_works(tmp_path: Path) -> None:
    built = tmp_path / "built"
    run(sys.executable, "-m", "build", "--outdir", built, ROOT, env=environment())
    wheel = built / f"tandemu-{VERSION}-py3-none-any.whl"
    assert sorted(built.iterdir()) == [wheel, built / f"tandemu-{VERSION}.tar.gz"]
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "tests/" in name or name.endswith((".so", ".o"))]

    place = tmp_path / "environment"
    run(sys.executable, "-m", "venv", place, env=environment())
    python, tandemu = place / "bin" / "python", place / "bin" / "tandemu"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, wheel, env=environment())
    # From a folder without the sources, and as the wheel has them: the same revision.
    assert run(tandemu, "--version", cwd=tmp_path, env=environment()).strip() == long_version()
    assert "usage: tandemu run" in run(tandemu, "run", "--help", cwd=tmp_path, env=environment())
    for file in (*SHELLS.values(), "share/man/man1/tandemu.1"):
        assert "strace" in (place / file).read_text(encoding="utf-8"), file

    source, program = tmp_path / "hello.c", tmp_path / "hello"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n')
    run("riscv64-linux-gnu-gcc", "-static", "-o", program, source)
    assert run(tandemu, "exec", program, cwd=tmp_path, env=environment()) == "hello\n"

    (tmp_path / "user.py").write_text(USERS_PROGRAM)
    check = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python)
    run(*check, "user.py", cwd=tmp_path, env=environment())
    (tmp_path / "wrong.py").write_text(WRONG_PROGRAM)
    found = subprocess.run(
        (*check, "wrong.py"), check=False, capture_output=True, text=True, cwd=tmp_path,
        env=environment(),
    )  # fmt: skip
    assert "arg-type" in found.stdout, found.stdout + found.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(shell: str) -> None:
    text = script(make_parser(), shell)
    for word in ("doctor", "guests", "pull", "exec", "cpus", "strace", "sysroot".upper()):
        if shell == "bash" and word.isupper():
            continue  # bash completes names, and says nothing of values
        assert word in text, word


def test_completion_of_bash_completes(tmp_path: Path) -> None:
    file = tmp_path / "tandemu"
    file.write_text(script(make_parser(), "bash"))
    ask = (
        f"source {file}; COMP_WORDS=(tandemu run --cp); COMP_CWORD=2; COMP_LINE='tandemu run --cp';"
        "COMP_POINT=${#COMP_LINE}; _shtab_tandemu; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    words = run("bash", "--norc", "-c", ask).split()
    assert set(words) == {"--cpu", "--cpus"}


@pytest.mark.parametrize("packed", [False, True])
def test_the_revision_of_a_checkout(tmp_path: Path, packed: bool) -> None:
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", tmp_path)
    run(*git, "init", "-q")
    run(*git, "commit", "-q", "--allow-empty", "-m", "first")
    if packed:
        run(*git, "pack-refs", "--all")
    commit = run(*git, "rev-parse", "HEAD").strip()
    assert revision_of(str(tmp_path)) == commit[:12]
    run(*git, "worktree", "add", "-q", tmp_path / "other")
    assert revision_of(str(tmp_path / "other")) == commit[:12]
    assert revision_of(str(tmp_path / "nowhere")) == ""
