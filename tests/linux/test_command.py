"""The command line of `tandemu exec` and `Process`: options, streams, ends, messages."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tandemu.cli.exec import binfmt_line
from tandemu.linux import Call, Process
from tests.linux.conftest import SOURCE, run_exec

pytestmark = pytest.mark.guest


def test_environment_and_name(build: Callable[..., Path]) -> None:
    program = build("copy")
    assert run_exec("--env", "COLOUR=red", program).stdout.decode() == f"{program} red\n"
    assert run_exec("--env=COLOUR=a=b", program).stdout.endswith(b" a=b\n")
    assert run_exec("--argv0", "other", program).stdout == b"other none\n"
    assert run_exec(program, COLOUR="blue").stdout.endswith(b" blue\n")
    hidden = run_exec("--unset", "COLOUR", program, "--env", "COLOUR=red", COLOUR="blue")
    assert hidden.stdout.endswith(b" none\n")
    assert hidden.returncode == 3


def test_found_in_path(build: Callable[..., Path]) -> None:
    program = build("copy")
    ours = run_exec(program.name, PATH=f"{program.parent}:{os.environ['PATH']}")
    assert ours.stdout.decode() == f"{program.name} none\n"


def test_stats_count_calls(build: Callable[..., Path]) -> None:
    ours = run_exec("--stats", build("copy"))
    calls, figures, table = ours.stderr.decode().split("\n\n")
    assert calls.startswith("system calls:\n")
    lines = dict(reversed(line.split()) for line in calls.splitlines()[1:])
    assert lines["read"] == "1" and lines["exit_group"] == "1"
    counters = dict(re.split("  +", line) for line in figures.splitlines())
    assert int(counters["instructions"].replace(",", "")) > int(counters["translations"]) > 0
    assert counters["wall time"].endswith(" s") and " trap" in counters["exits"]
    header, translated, optimised = table.splitlines()
    assert header.split() == ["code", "instructions", "time", "bytes"]
    assert translated.startswith("translated ") and optimised.startswith("optimised ")


def test_unknown_calls_are_named_at_the_end(build: Callable[..., Path]) -> None:
    shown = run_exec("--strace", build("limits"), "refused").stderr.decode()
    assert "system call 1000 is unknown: ENOSYS, not shown again" in shown
    assert "unknown system calls answered with ENOSYS: 480 (1x), 1000 (1x), 100000 (1x)" in shown
    assert "io_uring_setup() = -1 ENOSYS" in shown


@pytest.mark.parametrize(
    ("content", "mode", "status", "reason"),
    [
        (b"text", 0o755, 126, "is not an ELF file"),
        (b"\x7fELF\x02\x01\x01", 0o755, 126, "truncated or broken"),
        (b"\x7fELF\x01\x01\x01".ljust(64, b"\0"), 0o755, 126, "32-bit little-endian"),
        (b"#!/nonexistent/interpreter\n", 0o755, 127, "/nonexistent/interpreter cannot be run"),
        (b"#!\n", 0o755, 126, "a script without an interpreter"),
    ],
)
def test_what_cannot_be_run(
    content: bytes, mode: int, status: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    path.chmod(mode)
    ours = run_exec(path)
    text = ours.stderr.decode()
    assert reason in text and text.startswith("tandemu: ") and text.count("\n") == 1
    assert ours.returncode == status


def test_what_is_for_another_machine_names_it() -> None:
    ours = run_exec("/bin/true")
    assert b"is a program for" in ours.stderr and ours.returncode == 126
    assert run_exec("/nonexistent/program").returncode == 127
    assert run_exec("--nonsense").returncode == 2


@pytest.mark.skipif("os.geteuid() == 0", reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(b"\x7fELF")
    path.chmod(0)
    ours = run_exec(path)
    assert b"Permission denied" in ours.stderr and ours.returncode == 126


def test_registration_matches_such_programs_only(build: Callable[..., Path]) -> None:
    printed = run_exec("--binfmt")
    assert printed.stdout.decode() == binfmt_line("/usr/local/bin/tandemu-riscv64") + "\n"
    _, name, kind, offset, *texts = printed.stdout.decode().rstrip("\n").split(":")
    assert (name, kind, offset) == ("tandemu-riscv64", "M", "")
    magic, mask = (bytes.fromhex(text.replace("\\x", "")) for text in texts[:2])

    def matches(head: bytes) -> bool:
        return all(a & m == b & m for a, b, m in zip(head, magic, mask, strict=False))

    assert len(magic) == len(mask) == 20
    assert matches(build("copy").read_bytes()[:20])
    assert matches(build("bare", "-static", "-nostdlib", "-fPIE", "-Wl,-pie").read_bytes()[:20])
    assert not matches(Path("/bin/true").read_bytes()[:20])
    other = bytearray(build("copy").read_bytes()[:20])
    other[18:20] = struct.pack("<H", 183)
    assert not matches(bytes(other))


def test_process_has_streams_and_an_environment(build: Callable[..., Path], tmp_path: Path) -> None:
    given, out = tmp_path / "in", tmp_path / "out"
    given.write_bytes(b"through" * 3000)
    with given.open("rb") as source, out.open("wb") as target:
        result = Process(
            [str(build("copy")), "x"], env={"COLOUR": "green"}, stdin=source, stdout=target,
            argv0="name",
        ).run()  # fmt: skip
    assert (result.status, result.signal) == (2, 0)
    assert out.read_bytes() == b"name green\n" + b"through" * 3000


def test_a_hook_rewrites_what_is_written(build: Callable[..., Path], tmp_path: Path) -> None:
    def hook(call: Call) -> int | None:
        if call.name == "read":
            return -5  # -EIO: the program does not get to read.
        if call.name == "write":
            text = call.data(1, call.arguments[2])
            call.memory.write(call.arguments[1], text.upper())
        return None

    out = tmp_path / "out"
    with out.open("wb") as target:
        result = Process(
            [str(build("copy"))], env={"COLOUR": "red"}, stdout=target, hook=hook, argv0="me"
        ).run()
    assert (result.status, result.signal) == (1, 0)
    assert out.read_bytes() == b"ME RED\n"


def test_the_profile_names_hot_code(build: Callable[..., Path]) -> None:
    # So that the program waits for the optimiser: what is seen is the same every time.
    program = build("hot_spots")
    ours = run_exec("--profile", program, "1000000", TANDEMU_OPTIMISER="stress")
    assert ours.returncode == 0
    first, hottest, listed, *others = ours.stderr.decode().splitlines()
    assert first.endswith("instructions; the hottest places:")
    # Three turns of four are its.
    assert "busiest" in hottest and f" in {program.name} (0x" in hottest
    assert 60 < float(hottest.split()[0]) < 90
    assert "optimised" in hottest
    address, instruction = listed.split(maxsplit=1)
    assert f"(0x{address})" in hottest and instruction.isascii()
    assert any("rarer" in line for line in others)


def test_a_short_run_has_no_profile(build: Callable[..., Path]) -> None:
    ours = run_exec("--profile", build("copy"), TANDEMU_OPTIMISER="on")
    assert ours.stderr.decode() == "too short a run to tell where it spent its time\n"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS])
@pytest.mark.parametrize("program", [("hot_spots", "4000000000000"), ("copy",)], ids=lambda p: p[0])
def test_a_fault_that_another_process_sends_ends_the_program(
    build: Callable[..., Path], number: signal.Signals, program: tuple[str, ...]
) -> None:
    """It is no refused access, whether the program computes or waits for the kernel."""
    name, *arguments = program
    process = subprocess.Popen(
        [sys.executable, "-m", "tandemu", "exec", build(name), *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with process:
        assert process.stdin and process.stdout
        assert process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(60) == -number


@pytest.mark.parametrize("way", ["wait", "compute"])
def test_a_fault_that_another_process_sends_comes_to_its_handler(
    build: Callable[..., Path], way: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tandemu", "exec", build("sent"), way],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"ready\n"
        for _ in range(3):
            for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
                process.send_signal(number)
                assert process.stdout.readline() == b"%d 1\n" % number
        process.send_signal(signal.SIGTRAP)
        assert process.stdout.readline() == b"%d 1\n" % signal.SIGTRAP
        process.stdin.close()
        assert process.stdout.readline() == b"end\n"
        assert process.wait(60) == 0
