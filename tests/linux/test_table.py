"""The table of system calls, its documentation, the command line, the signal frame."""

from __future__ import annotations

from pathlib import Path

from tandemu.cli.exec import binfmt_line
from tandemu.cli.exec_options import ExecRequest, parse
from tandemu.linux.calls import all_rows
from tandemu.linux.docs import replace
from tandemu.linux.riscv64 import Riscv64

PAGE = Path(__file__).resolve().parents[2] / "docs" / "user-mode.md"


def test_each_call_stands_once() -> None:
    names = [row.name for row in all_rows()]
    assert len(names) == len(set(names))
    numbers = Riscv64.numbers
    assert set(numbers) <= set(names)
    assert len(set(numbers.values())) == len(numbers)


def test_documentation_is_the_table() -> None:
    text = PAGE.read_text()
    assert replace(text) == text, "run: python -m tandemu.linux.docs docs/user-mode.md"


def test_options() -> None:
    options = parse(["-L", "/root", "--env=A=b=c", "--strace", "--", "prog", "-L", "x"])
    assert isinstance(options, ExecRequest)
    assert (options.sysroot, options.switches) == ("/root", {"--strace"})
    assert options.environment == {"A": "b=c"}
    assert options.program == ["prog", "-L", "x"]
    joined = parse(["-L/root", "prog", "--strace"])
    assert isinstance(joined, ExecRequest)
    assert joined.sysroot == "/root" and not joined.switches


def test_wrong_options_are_said() -> None:
    assert "no program" in str(parse([]))
    assert "-L needs" in str(parse(["-L"]))
    assert "NAME=VALUE" in str(parse(["--env", "A", "prog"]))
    assert "--bad is not" in str(parse(["--bad", "prog"]))


def test_binfmt_line() -> None:
    line = binfmt_line("/bin/x")
    assert line.startswith(":tandemu-riscv64:M::\\x7f\\x45\\x4c\\x46")
    assert line.endswith(":/bin/x:P") and line.count(":") == 7
