"""Standard streams that are closed, full or read by nobody: as with other programs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_main import _SPIN, ROOT, spinning_kernel
from tests.linux.conftest import build  # noqa: F401

Build = Callable[..., Path]
# lui t0, 0x10000; li t1, '.'; sb t1, (t0); lui t0, 0x100; li t1, 0x5555; sw t1, (t0); j .
PRINT_AND_POWER_OFF = "b70200101303e00223806200b7021000375300001303535523a062006f000000"


def shell(script: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run *script*, in which ``T`` is our command, with bash."""
    command = shlex.join([sys.executable, "-m", "tandemu"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "T": command, **settings}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**environment, **settings},
        stdin=subprocess.DEVNULL,
        text=True,
    )


PRINTING = ["--help", "run --help", "guests", "doctor", "exec --help", "exec --binfmt"]


@pytest.fixture(autouse=True)
def empty_cache(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not request.node.get_closest_marker("guest"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("command", PRINTING)
@pytest.mark.parametrize(
    ("streams", "reason"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left")]
)
def test_output_that_is_lost_is_an_error(command: str, streams: str, reason: str) -> None:
    for settings in ({}, {"PYTHONUNBUFFERED": "1"}):
        done = shell(f"$T {command} {streams}", **settings)
        said = " ".join(done.stderr.split())
        assert done.returncode == 1
        assert f"the standard output cannot be written: {reason}" in said
        assert "Traceback" not in said and "Exception" not in said


@pytest.mark.parametrize("command", ["--help", "guests"])
@pytest.mark.parametrize("streams", ["<&-", "2>&-", "2>/dev/full", "<&- 2>&-"])
def test_the_other_streams_do_not_matter(command: str, streams: str) -> None:
    done = shell(f"$T {command} {streams}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "guests" in done.stdout


def test_an_error_without_an_error_output_is_an_error() -> None:
    for streams in ("2>&-", "2>/dev/full", "<&- >&- 2>&-"):
        done = shell(f"$T run --kernel /nowhere/linux {streams}")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_reader_that_goes_away_ends_us_as_others() -> None:
    done = shell("(sleep 0.5; $T doctor) | true; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("141\n", "")


def kernel(folder: Path) -> str:
    path = folder / "hello.bin"
    path.write_bytes(bytes.fromhex(PRINT_AND_POWER_OFF))
    return f"run --firmware none --memory 16M --kernel {path}"


@pytest.mark.guest
@pytest.mark.parametrize("streams", ["", "<&-", "2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_machine_runs_without_streams(tmp_path: Path, streams: str) -> None:
    done = shell(f"$T {kernel(tmp_path)} {streams}")
    assert (done.returncode, done.stdout, done.stderr) == (0, ".", "")


@pytest.mark.guest
@pytest.mark.parametrize(
    ("streams", "reason"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left")]
)
def test_lost_console_output_is_an_error(tmp_path: Path, streams: str, reason: str) -> None:
    done = shell(f"$T {kernel(tmp_path)} {streams}")
    assert done.returncode == 1
    assert f"the console's output cannot be written: {reason}" in done.stderr


@pytest.mark.guest
def test_console_output_waits_for_a_slow_reader_and_dies_without_one(tmp_path: Path) -> None:
    done = shell(f"$T {kernel(tmp_path)} | (sleep 2; cat); echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == (".0\n", "")
    done = shell(f"(sleep 0.5; $T {kernel(tmp_path)}) | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.guest
@pytest.mark.parametrize(
    "streams",
    ["", "<&-", ">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"],
)
def test_a_program_has_the_streams_it_would_have_natively(
    build: Build,  # noqa: F811
    tmp_path: Path,
    streams: str,
) -> None:
    foreign = build("streams")
    native = tmp_path / "native"
    source = Path(__file__).parents[1] / "linux" / "programs" / "streams.c"
    subprocess.run(["gcc", "-w", "-o", native, source], check=True)
    seen = []
    for words in (f"$T exec {foreign}", native):
        report = tmp_path / "report"
        report.unlink(missing_ok=True)
        done = shell(f"{words} {report} {streams}")
        seen.append((done.returncode, done.stdout, done.stderr, report.read_text()))
    assert seen[0] == seen[1]


@pytest.mark.guest
def test_a_program_dies_of_a_broken_pipe(build: Build) -> None:  # noqa: F811
    done = shell(f"$T exec {build('streams')} x flood | head -n 1; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("y\n141\n", "")


def profiled(said: str) -> bool:
    return "the hottest places" in said or "too short a run to tell" in said


def end(words: list[str], number: int) -> tuple[int, str]:
    """Start *words*, send a signal once there is output; the status and the errors."""
    with subprocess.Popen(
        [sys.executable, "-m", "tandemu", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(number)
        return process.wait(60), process.communicate()[1]


@pytest.mark.guest
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_a_machine_say_what_it_took(tmp_path: Path, number: signal.Signals) -> None:
    run = ["run", "--firmware", "none", "--kernel", spinning_kernel(tmp_path, _SPIN)]
    status, said = end([*run, "--stats", "--profile"], number)
    assert status == 128 + number
    assert "wall time" in said and profiled(said)


@pytest.mark.guest
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_a_program_say_what_it_took(
    build: Build,  # noqa: F811
    number: signal.Signals,
) -> None:
    program = str(build("streams"))
    for how in ("wait", "spin"):
        status, said = end(["exec", "--stats", "--profile", program, "x", how], number)
        assert status == -number
        assert "wall time" in said and "write" in said and profiled(said)
