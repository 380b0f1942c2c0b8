"""``tandemu exec``: run one foreign Linux program on this host's kernel.

Its options are read here and not by argparse: everything behind the program belongs to
the program, and starting must be quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

USAGE = """\
usage: tandemu exec [-L SYSROOT] [--strace] [--env K=V] [--unset K] [--stats] [--profile]
                    [--argv0 NAME] PROGRAM [ARGS…]
       tandemu exec --binfmt

Run a foreign Linux program (riscv64) on this host's kernel. Its exit status, and death by
a signal, are the program's own; 126: it cannot be run, 127: it is not there.

  -L SYSROOT    where the foreign system's files are, such as its dynamic linker and its
                libraries; absolute paths are looked up there first (or TANDEMU_SYSROOT)
  --strace      print every system call on the standard error output
  --env K=V     set a variable of its environment (may be repeated); --unset K removes one
  --stats       say at the end how often it made which system call, and what was translated
  --profile     say at the end which of its code ran most, by symbol and instruction
  --argv0 NAME  what the program is told it is called
  --binfmt      print the line that has the kernel run such programs by themselves
"""
_USAGE_STATUS, _CANNOT_RUN, _NOT_FOUND = 2, 126, 127
_WITH_VALUE = ("-L", "--env", "--unset", "--argv0")


class Options:
    """What stands on the command line."""

    def __init__(self) -> None:
        self.sysroot = os.environ.get("TANDEMU_SYSROOT", "")
        self.strace = self.stats = self.profile = self.help = self.binfmt = False
        self.environment: dict[str, str | None] = {}
        self.argv0: str | None = None
        self.program: list[str] = []


def parse(arguments: Sequence[str]) -> Options | str:
    """The options in *arguments*, or what is wrong with them."""
    options = Options()
    index = 0
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if word == "--":
            break
        if word[:1] != "-" or word == "-":
            index -= 1
            break
        name, equals, value = word.partition("=")
        if name[:2] != "--" and word[:2] == "-L":
            name, equals, value = "-L", word[2:], word[2:]
        if name in _WITH_VALUE and not equals:
            if index == len(arguments):
                return f"{name} needs a value"
            value = arguments[index]
            index += 1
        if name == "-L":
            options.sysroot = value
        elif name == "--env":
            key, equals, text = value.partition("=")
            if not key or not equals:
                return f"--env {value}: must be NAME=VALUE"
            options.environment[key] = text
        elif name == "--unset":
            options.environment[value] = None
        elif name == "--argv0":
            options.argv0 = value
        elif word == "--strace":
            options.strace = True
        elif word == "--stats":
            options.stats = True
        elif word == "--profile":
            options.profile = True
        elif word in ("-h", "--help"):
            options.help = True
            return options
        elif word == "--binfmt":
            options.binfmt = True
            return options
        else:
            return f"{word} is not an option; the program's own options stand behind its name"
    options.program = list(arguments[index:])
    if not options.program:
        return "no program was given"
    return options


def binfmt_line(command: str) -> str:
    """What to write to /proc/sys/fs/binfmt_misc/register for riscv64 programs."""
    magic = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0"
    mask = b"\xff\xff\xff\xff\xff\xff\xff\0\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    encoded = ["".join(f"\\x{byte:02x}" for byte in part) for part in (magic, mask)]
    return f":tandemu-riscv64:M::{encoded[0]}:{encoded[1]}:{command}:"


def main(arguments: Sequence[str]) -> int:
    """Run ``tandemu exec`` with *arguments*; returns only when the program did not start."""
    options = parse(arguments)
    if isinstance(options, str):
        print(f"tandemu: exec: {options}\n\n{USAGE}", file=sys.stderr, end="")
        return _USAGE_STATUS
    if options.help:
        print(USAGE, end="")
        return 0
    if options.binfmt:
        print(binfmt_line("/usr/local/bin/tandemu-riscv64"))
        return 0
    environment = dict(os.environ)
    for name, value in options.environment.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    # Imported here: --help must not wait for it.
    from tandemu.linux import LinuxError, Process

    try:
        _become(Process(
            options.program, env=environment, sysroot=options.sysroot, strace=options.strace,
            stats=options.stats, profile=options.profile, argv0=options.argv0,
        ))  # fmt: skip
    except LinuxError as error:
        print(f"tandemu: {error}", file=sys.stderr)
        return _NOT_FOUND if error.code == 2 else _CANNOT_RUN


def _become(process: object) -> NoReturn:
    from tandemu.linux import Process

    assert isinstance(process, Process)
    process.become()
