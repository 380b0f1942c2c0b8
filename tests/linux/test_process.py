"""`Process.run` as its caller sees it: streams, descriptors, hooks that fail."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tandemu.linux import Call, LinuxError, Process
from tandemu.linux.caller import HookTraceback, describe_failure, raise_failure
from tests.linux.conftest import SOURCE

Build = Callable[..., Path]

guest = pytest.mark.guest


@guest
def test_streams_are_given_as_to_subprocess(build: Build, tmp_path: Path) -> None:
    words = [str(build("copy")), "x"]  # tells a variable, then copies its input
    data = bytes(range(256)) * 2000
    result = Process(words, env={}, argv0="me", stdin=subprocess.PIPE, stdout=subprocess.PIPE).run(
        data
    )
    assert result.stdout == b"me none\n" + data
    assert (result.status, result.stderr) == (2, None)
    result = Process(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).run()
    assert result == (2, 0, None, None)
    both = Process(
        [str(build("streams")), str(tmp_path / "report")],
        strace=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).run()
    assert both.stdout is not None and b"write(1" in both.stdout and b"x" in both.stdout
    apart = Process(
        [str(build("streams")), str(tmp_path / "report")],
        strace=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ).run()
    assert apart.stdout == b"x" and apart.stderr is not None and b"write(1" in apart.stderr


@pytest.mark.parametrize(
    ("streams", "complaint"),
    [
        ({"stdin": subprocess.STDOUT}, "standard input cannot be"),
        ({"stdout": subprocess.STDOUT}, "only the error output"),
        ({"stdout": -9}, "is no descriptor"),
        ({"stderr": 999_999}, "is not open"),
    ],
)
def test_streams_that_cannot_be_are_refused(streams: dict[str, int], complaint: str) -> None:
    with pytest.raises(LinuxError, match=complaint):
        Process(["/bin/true"], **streams).run()  # type: ignore[arg-type]


def script(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        [sys.executable, "-c", f"from tandemu.linux import Process\n{text}", *words],
        capture_output=True,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        text=True,
    )


@guest
def test_descriptors_are_exchanged_and_what_was_printed_comes_once(
    build: Build, tmp_path: Path
) -> None:
    done = script(
        "import sys; print('before')\n"
        "Process(sys.argv[1:], stdout=2, stderr=1).run(); print('after')",
        str(build("streams")),
        str(tmp_path / "report"),
    )
    assert (done.stdout, done.stderr) == ("before\nafter\n", "x")


@guest
def test_nothing_else_is_inherited(build: Build, tmp_path: Path) -> None:
    done = script(
        "import fcntl, os, sys\n"
        "lock = open('/dev/null'); os.set_inheritable(lock.fileno(), True)\n"
        "report = sys.argv[2]\n"
        "Process(sys.argv[1:], stdin=-3, stdout=-3).run(); print(open(report).read(), end='')\n"
        "passed = open('/dev/null')\n"
        "os.dup2(passed.fileno(), 3)\n"
        "Process(sys.argv[1:], stdin=-3, stdout=-3, pass_fds=[3]).run()\n"
        "print(open(report).read(), end='')",
        str(build("streams")),
        str(tmp_path / "report"),
    )
    assert (done.stdout, done.stderr) == ("0 0 0, 3 free\n0 0 0, 4 free\n", "")


@guest
@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), IndexError(3), MemoryError(), FileNotFoundError(2, "no", "file"),
     KeyboardInterrupt(), SystemExit(7)],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_a_hook_raises_the_caller_gets(build: Build, error: BaseException) -> None:
    def wrong_hook(call: Call) -> int | None:
        if call.name == "write":
            raise error
        return None

    with pytest.raises(type(error)) as raised:
        Process([str(build("copy"))], stdout=subprocess.PIPE, hook=wrong_hook).run()
    assert raised.value.args == error.args
    assert isinstance(raised.value.__cause__, HookTraceback)
    assert "wrong_hook" in str(raised.value.__cause__)
    assert __file__ in str(raised.value.__cause__)


class Own(Exception):
    """Cannot be made again of what it has in args."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def described(error: BaseException) -> bytes:
    from tandemu.linux.errors import HookFailed

    failed = HookFailed()
    failed.__cause__ = error
    return describe_failure(failed)


def test_what_cannot_be_made_again_is_told() -> None:
    with pytest.raises(LinuxError, match="the hook raised Own: 1 and 2"):
        raise_failure(described(Own(1, 2)))
    with pytest.raises(ValueError, match=r"x{1000}"):
        raise_failure(described(ValueError("x" * 10_000)))
    with pytest.raises(ValueError):
        raise_failure(described(ValueError("x" * 1_000_000)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"hook": true}',
        b'{"hook": true, "module": "os", "name": "system", "arguments": ["true"], "text": ""}',
        b'{"hook": true, "module": 3, "name": [], "arguments": [], "text": ""}',
    ],
)
def test_a_report_of_a_hostile_program_does_nothing(data: bytes) -> None:
    with pytest.raises(LinuxError):
        raise_failure(data)


@guest
def test_the_callers_signals_and_limits_are_his(build: Build, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_STACK), resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.getsignal(signal.SIGINT)
    Process([str(build("streams")), str(tmp_path / "x")], stdout=subprocess.DEVNULL).run()
    after = resource.getrlimit(resource.RLIMIT_STACK), resource.getrlimit(resource.RLIMIT_AS)
    assert before == after
    assert signal.getsignal(signal.SIGINT) is handler


@guest
def test_an_interrupted_caller_leaves_no_program_behind(build: Build) -> None:
    done = script(
        "import os, signal, sys, threading\n"
        "threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try: Process([*sys.argv[1:], 'x', 'wait'], stdout=-3).run()\n"
        "except KeyboardInterrupt:\n"
        "  try: os.waitpid(-1, 0)\n"
        "  except ChildProcessError: print('nobody')",
        str(build("streams")),
    )
    assert (done.stdout, done.stderr) == ("nobody\n", "")
