"""The command line as a user meets it: help, errors, exit statuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import tandemu
from tandemu.cli import doctor
from tandemu.cli.main import main
from tandemu.cli.parser import make_parser
from tandemu.cli.progress import Bar, Lines, make_progress
from tests.host.pseudo_terminal import PseudoTerminal

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tandemu", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **settings},
        stdin=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture(autouse=True)
def empty_cache(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    if request.node.get_closest_marker("guest"):
        return tmp_path  # what really runs uses the engine that was compiled before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put_guest(cache: Path) -> None:
    """A guest image whose kernel is no kernel."""
    folder = cache / "tandemu" / "guests" / "debian-riscv64"
    folder.mkdir(parents=True)
    (folder / "kernel").write_bytes(b"no kernel")
    (folder / "initrd").write_bytes(b"no initrd")
    files = {"kernel": {"size": 9}, "initrd": {"size": 9}}
    packages = {"busybox-static": {"version": "1:1.37"}}
    manifest = {"format": 1, "files": files, "packages": packages}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["run", "guests", "doctor"]),
        (["run", "--help"], ["--kernel", "--append", "Ctrl-A X", "124"]),
        (["guests", "pull", "--help"], ["--mirror"]),
        (["--version"], ["tandemu 0."]),
    ],
)
def test_help_is_there(arguments: list[str], words: list[str]) -> None:
    answer = command(*arguments)
    assert answer.returncode == 0
    for word in words:
        assert word in answer.stdout


def test_help_loads_no_engine_and_no_library() -> None:
    code = "import sys; from tandemu.cli.main import main\ntry: main(['--help'])\nfinally: "
    code += (
        "print(sorted({'llvmlite','rich','ctypes','typing','tandemu.guests'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        text=True,
    )
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        ([], 2, "COMMAND"),
        (["run", "--cpus", "0"], 2, "from 1 to 64"),
        (["run", "--cpus", "9" * 5000], 2, "from 1 to 64"),
        (["run", "--timeout", "never"], 2, "90s"),
        (["run", "--timeout", "-1"], 2, "90s"),
        (["run", "--memory", "lots", "--kernel", "x"], 2, "such as 512M"),
        (["run", "--arch", "riscv46", "--kernel", "x"], 2, "did you mean riscv64"),
        (["run", "--arch", "riscv46"], 2, "no default guest"),
        (["run", "--board", "virt", "--kernel", "x"], 2, "riscv-virt"),
        (["run", "--accel", "warp", "--kernel", "x"], 2, "auto, kvm, jit"),
        (["run", "debian-riscv46"], 2, "Did you mean debian-riscv64"),
        (["run", "README.md"], 2, "--kernel README.md"),
        (["run", "--kernel", "/nowhere/linux"], 1, "cannot read /nowhere/linux"),
        (["run", "--kernel", "README.md"], 1, "no kernel this board can boot"),
        (["run", "--kernel", "/dev/null"], 1, "empty"),
        (["run", "--firmware", "/nowhere/fw"], 1, "cannot read /nowhere/fw"),
        (["guests", "pull", "nothing"], 2, "The guests are"),
        (["guests", "pull", "debian-riscv64", "--mirror", "x y"], 1, "address of a package mirror"),
    ],
)
def test_an_error_is_one_clear_paragraph(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, complaint: str
) -> None:
    try:
        ended = main(arguments)
    except SystemExit as exit:  # how argparse ends
        ended = exit.code  # type: ignore[assignment]
    assert ended == status
    errors = capsys.readouterr().err
    assert complaint in " ".join(errors.split())
    assert "Traceback" not in errors


def test_a_traceback_is_shown_when_asked_for() -> None:
    answer = command("run", "--kernel", "/nowhere/linux", TANDEMU_DEBUG="1")
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr


def test_guests_are_listed(capsys: pytest.CaptureFixture[str], empty_cache: Path) -> None:
    assert main(["guests"]) == 0
    assert "not fetched" in capsys.readouterr().out
    put_guest(empty_cache)
    assert main(["guests", "list"]) == 0
    listing = capsys.readouterr().out
    assert "here" in listing
    assert "busybox-static 1:1.37" in listing
    assert main(["doctor"]) in (0, 1)
    assert "MB used" in capsys.readouterr().out
    assert main(["guests", "remove", "debian-riscv64", "debian-amd64"]) == 0
    removed = capsys.readouterr().out
    assert "debian-riscv64: 0 MB freed" in removed and "debian-amd64 is not here" in removed
    assert main(["guests", "remove", "nothing"]) == 2


def test_the_default_guest_is_run(capsys: pytest.CaptureFixture[str], empty_cache: Path) -> None:
    put_guest(empty_cache)
    assert main(["run"]) == 1
    assert "debian-riscv64/kernel is no kernel" in " ".join(capsys.readouterr().err.split())


def test_ones_own_files_replace_the_guests(
    capsys: pytest.CaptureFixture[str], empty_cache: Path
) -> None:
    put_guest(empty_cache)
    assert main(["run", "debian-riscv64", "--kernel", "/nowhere/own"]) == 1
    assert "/nowhere/own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "complaint"),
    [
        (["--kernel", "/nowhere/own"], 1, "cannot read /nowhere/own"),
        (["--kernel", "README.md"], 1, "no kernel this board can boot"),
        (["--initrd", "/nowhere/own"], 1, "cannot read /nowhere/own"),
        (["--firmware", "/nowhere/own"], 1, "cannot read /nowhere/own"),
        (["--memory", "lots"], 2, "such as 512M"),
        (["--accel", "warp"], 2, "auto, kvm, jit"),
        (["--board", "virt"], 2, "riscv-virt"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    status: int,
    complaint: str,
) -> None:
    def fetch(*arguments: object, **options: object) -> None:
        raise AssertionError("it was fetched")

    monkeypatch.setattr("tandemu.guests.pull.pull_image", fetch)
    assert main(["run", "debian-riscv64", *options]) == status
    assert complaint in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.EAGAIN, "x"), "ulimit -u"),
        (OSError(errno.ENFILE, "x"), "fs.file-max"),
    ],
)
def test_a_limit_is_told_with_its_mend(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    mend: str,
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("tandemu.cli.run.run", fail)
    assert main(["run", "--kernel", "x"]) == 1
    said = capsys.readouterr().err
    assert mend in said and "error in Tandemu" not in said


@pytest.mark.guest
def test_limits_of_the_shell_are_told_with_their_mend(tmp_path: Path) -> None:
    kernel = spinning_kernel(tmp_path)
    run = f"{sys.executable} -m tandemu run --firmware none --kernel {kernel} --timeout 20"
    for limit, mend in (("-n 8", "ulimit -n"), ("-v 500000", "ulimit -v unlimited")):
        done = subprocess.run(
            ["bash", "-c", f"ulimit {limit}; {run} --memory 1G"],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert done.returncode == 1
        assert mend in " ".join(done.stderr.split())


@pytest.mark.guest
def test_more_memory_than_the_host_has_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "off.bin"
    path.write_bytes(bytes.fromhex("b70210003753000013035355 23a06200 6f000000".replace(" ", "")))
    answer = command("run", "--firmware", "none", "--kernel", str(path), "--memory", "1000G")
    assert answer.returncode == 0
    assert "1024000 MiB of memory are more than the" in answer.stderr


def test_words_that_are_no_utf_8_are_no_error_of_ours(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    for arguments in (
        ["run", "--kernel", f"/nowhere/{odd}"],
        ["run", odd],
        ["run", "--memory", odd, "--kernel", "x"],
        ["guests", "pull", odd],
        ["guests", "pull", "debian-riscv64", "--mirror", odd],
        ["exec", odd],
        [odd],
    ):
        answer = command(*arguments)
        assert answer.returncode in (1, 2, 127)
        assert "error in Tandemu" not in answer.stderr and "Traceback" not in answer.stderr


@pytest.mark.guest
def test_a_command_line_that_is_no_utf_8_reaches_the_guest(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    path = tmp_path / odd
    path.write_bytes(Path(spinning_kernel(tmp_path)).read_bytes())
    answer = command(
        "run", "--firmware", "none", "--kernel", str(path), "--append", odd, "--timeout", "1"
    )
    assert (answer.returncode, answer.stdout) == (124, ".")


def test_doctor_looks_at_everything(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    report = capsys.readouterr().out
    for subject in ("host", "Python", "llvmlite", "executable memory", "cache", "apt", "KVM"):
        assert f"  {subject}" in report


@pytest.mark.parametrize(
    ("content", "verdict", "says"),
    [
        ("always within_size [advise] never deny force", "ok", "'advise'"),
        ("always within_size advise [never] deny force", "note", "echo advise >"),
        (None, "note", "this kernel has none"),
    ],
)
def test_doctor_says_whether_guest_memory_has_huge_pages(
    tmp_path: Path, content: str | None, verdict: str, says: str
) -> None:
    setting = tmp_path / "shmem_enabled"
    if content is not None:
        setting.write_text(content)
    finding = doctor._huge_pages(setting)
    assert finding.verdict.value == verdict
    assert says in finding.text


def test_output_that_nobody_reads_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "tandemu", "guests"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert process.stderr == ""


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project.get("version", tandemu.__version__) == tandemu.__version__


def test_times_have_units() -> None:
    parser = make_parser()
    values = [parser.parse_args(["run", "--timeout", text]).timeout for text in ("5", "2m", "0.5h")]
    assert values == [5, 120, 1800]


def test_progress_without_a_terminal_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress() as progress:
        assert isinstance(progress, Lines)
        progress.step("Fetching it")
        progress.advance(1, 2)
    assert capsys.readouterr().err == "Fetching it ...\n"


def test_progress_on_a_terminal_is_a_bar_that_leaves_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bar() as progress:
        progress.step("Fetching it")
        progress.advance(1, 2)
        progress.step("Assembling it")
    assert "Fetching it" in capsys.readouterr().err


_PRINT_A_DOT = (0x100002B7, 0x02E00313, 0x00628023)
_WAIT_FOR_EVER = (0x10500073, 0xFFDFF06F)
_SPIN = (0x0000006F,)


def spinning_kernel(folder: Path, then: tuple[int, ...] = _WAIT_FOR_EVER) -> str:
    """A bare-metal program that prints a dot and waits for ever."""
    words = _PRINT_A_DOT + then
    path = folder / "spin.bin"
    path.write_bytes(b"".join(word.to_bytes(4, "little") for word in words))
    return str(path)


@pytest.mark.guest
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tandemu", "run", "--firmware", "none", "--kernel",
         spinning_kernel(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr
    assert process.stdout.read(1) == b"."
    begun = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == status
    assert time.monotonic() - begun < 20
    assert b"Traceback" not in process.stderr.read()
    process.stdout.close()
    process.stderr.close()


@pytest.mark.guest
def test_the_monitor_looks_into_a_machine_and_holds_it(tmp_path: Path) -> None:
    kernel = spinning_kernel(tmp_path, _SPIN)
    words = ("-m", "tandemu", "run", "--firmware", "none", "--memory", "16M", "--kernel", kernel)
    with PseudoTerminal(*words) as terminal:
        terminal.expect(b"more keys.")
        terminal.expect(b".", 240)  # the engine may be compiled first
        terminal.type(b"\x01c")
        for line, answer in (
            (b"memory 0x80000000 20", b"0x0080000000  b7 02 00 10 13 03 e0 02"),
            (b"memory 0x10 4", b"not all of 0x10 to 0x13 is memory"),
            (b"memory 1", b"memory needs an address and a length"),
            (b"memory x 4", b"'x' is no number"),
            (b"memory 0 9999", b"must be from 1 to 4096"),
            (b"status", b"running"),
            (b"pause", b"paused"),
            (b"registers", b"0000000010000000"),
            (b"cont", b"running"),
            (b"info", b"riscv64, 1 CPU(s), 16 MiB"),
            (b"stats", b"wall time"),
            (b"power", b"has no power button"),
        ):
            terminal.expect(b"(tandemu) ")
            terminal.type(line + b"\r")
            terminal.expect(answer)
        terminal.expect(b"(tandemu) ")
        terminal.type(b"reset\r")
        terminal.expect(b".")
        terminal.type(b"\x01cquit\r")
        assert terminal.finish() == 0


@pytest.mark.guest
def test_a_time_out_has_its_status(tmp_path: Path) -> None:
    answer = command(
        "run", "--firmware", "none", "--kernel", spinning_kernel(tmp_path),
        "--timeout", "1", "--stats",
    )  # fmt: skip
    assert answer.returncode == 124
    assert answer.stdout == "."
    assert "--timeout 1 s" in answer.stderr
    assert "wall time" in answer.stderr


@pytest.mark.guest
def test_a_profile_of_a_run(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("0000000080000000 T beginning\n")
    answer = command(
        "run", "--firmware", "none", "--kernel", spinning_kernel(tmp_path, _SPIN),
        "--timeout", "1", "--profile", "--symbols", str(names),
    )  # fmt: skip
    first, hottest, listed, *_ = answer.stderr.splitlines()[1:]
    assert "instructions; the hottest places:" in first
    assert "beginning" in hottest and "machine mode" in hottest
    assert "j 0x8000" in listed


def test_what_a_profile_needs(tmp_path: Path) -> None:
    kernel = spinning_kernel(tmp_path)
    run = ("run", "--firmware", "none", "--kernel", kernel)
    answer = command(*run, "--symbols", "file")
    assert answer.returncode == 2
    assert "--symbols is for --profile" in answer.stderr
    answer = command(*run, "--profile", "--symbols", str(tmp_path / "missing"))
    assert answer.returncode == 1
    assert "cannot be read: No such file" in " ".join(answer.stderr.split())
