"""The options of ``tandemu exec``: the one place that holds them.

They are read without argparse (`cli.exec`): everything behind the program belongs to the
program, and starting must be quick. Help, completion and manual page are made from here too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


class ExecOption:
    """One option: its *name*, what its *value* is called ("" for a switch), and its *help*.

    Nothing is read behind one that *ends* the reading. (No dataclass: that module takes longer
    to import than all else here.)
    """

    __slots__ = ("ends", "help", "name", "value")

    def __init__(self, name: str, value: str, help: str, *, ends: bool = False) -> None:
        self.name, self.value, self.help, self.ends = name, value, help, ends


EXEC_OPTIONS = (
    ExecOption(
        "-L",
        "SYSROOT",
        "where the foreign system's files are, such as its dynamic linker and its libraries; "
        "absolute paths are looked up there first (or TANDEMU_SYSROOT)",
    ),
    ExecOption("--strace", "", "print every system call on the standard error output"),
    ExecOption("--env", "K=V", "set a variable of its environment (may be repeated)"),
    ExecOption("--unset", "K", "remove a variable from its environment (may be repeated)"),
    ExecOption(
        "--stats",
        "",
        "say at the end how often it made which system call, and what was translated",
    ),
    ExecOption(
        "--profile", "", "say at the end which of its code ran most, by symbol and instruction"
    ),
    ExecOption("--argv0", "NAME", "what the program is told it is called"),
    ExecOption(
        "--binfmt",
        "",
        "print the line that has the kernel run such programs by themselves",
        ends=True,
    ),
    ExecOption("-h, --help", "", "show this text", ends=True),
)

_NAMED = {name: option for option in EXEC_OPTIONS for name in option.name.split(", ")}

EXEC_DESCRIPTION = (
    "Run a foreign Linux program (riscv64, aarch64) on this host's kernel. Its exit status, and "
    "death by a signal, are the program's own; 126: it cannot be run, 127: it is not there."
)
EXEC_USAGE = "tandemu exec [options] PROGRAM [ARGS…]"


class ExecRequest:
    """What stands on the command line.

    *switches* are the names of the options without a value that are there; *environment* holds
    variables to set or, with None, to remove.
    """

    def __init__(self) -> None:
        self.sysroot = os.environ.get("TANDEMU_SYSROOT", "")
        self.switches: set[str] = set()
        self.environment: dict[str, str | None] = {}
        self.argv0: str | None = None
        self.program: list[str] = []

    def take(self, name: str, value: str) -> str:
        """Note option *name* with its *value*; what is wrong with that, or nothing."""
        if name == "-L":
            self.sysroot = value
        elif name == "--env":
            key, equals, text = value.partition("=")
            if not key or not equals:
                return f"--env {value}: must be NAME=VALUE"
            self.environment[key] = text
        elif name == "--unset":
            self.environment[value] = None
        elif name == "--argv0":
            self.argv0 = value
        else:
            self.switches.add("--help" if name == "-h" else name)
        return ""


def parse(arguments: Sequence[str]) -> ExecRequest | str:
    """What *arguments* ask for, or what is wrong with them."""
    request = ExecRequest()
    words = list(arguments)
    while words:
        word = words[0]
        if word == "--":
            del words[0]
            break
        if word[:1] != "-" or word == "-":
            break
        del words[0]
        name, equals, value = word.partition("=")
        if name[:2] != "--" and word[:2] == "-L":
            name, equals, value = "-L", word[2:], word[2:]
        option = _NAMED.get(name)
        if option is None or (equals and not option.value):
            return f"{word} is not an option; the program's own options stand behind its name"
        if option.value and not equals:
            if not words:
                return f"{name} needs a value"
            value = words.pop(0)
        fault = request.take(name, value)
        if fault:
            return fault
        if option.ends:
            return request
    request.program = words
    return request if words else "no program was given"


def usage() -> str:
    """The help of ``tandemu exec``, ending in a line break."""
    import textwrap

    column, width = 16, 96
    lines = [
        f"usage: {EXEC_USAGE}",
        "       tandemu exec --binfmt",
        "",
        *textwrap.wrap(EXEC_DESCRIPTION, width),
        "",
    ]
    for option in EXEC_OPTIONS:
        left = f"  {option.name} {option.value}".rstrip()
        lines += textwrap.wrap(
            option.help,
            width,
            initial_indent=f"{left:<{column}}",
            subsequent_indent=" " * column,
        )
    return "\n".join(lines) + "\n"
