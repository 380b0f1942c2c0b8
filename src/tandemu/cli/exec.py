"""``tandemu exec``: run one foreign Linux program on this host's kernel.

Its options are those of `cli.exec_options`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from tandemu.cli import streams
from tandemu.cli.exec_options import parse, usage

_USAGE_STATUS, _CANNOT_RUN, _NOT_FOUND = 2, 126, 127


def binfmt_line(command: str) -> str:
    """What to write to /proc/sys/fs/binfmt_misc/register for riscv64 programs.

    Flag P: *command* is told what the program is to be called, behind its path.
    """
    magic = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0"
    mask = b"\xff\xff\xff\xff\xff\xff\xff\0\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    encoded = ["".join(f"\\x{byte:02x}" for byte in part) for part in (magic, mask)]
    return f":tandemu-riscv64:M::{encoded[0]}:{encoded[1]}:{command}:P"


def _notice(text: str) -> None:
    print(f"tandemu: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run ``tandemu exec`` with *arguments*; returns only when the program did not start."""
    request = parse(arguments)
    if isinstance(request, str):
        print(f"tandemu: exec: {request}\n\n{usage()}", file=sys.stderr, end="")
        return _USAGE_STATUS
    if "--help" in request.switches:
        print(usage(), end="")
        return 0
    if "--binfmt" in request.switches:
        print(binfmt_line("/usr/local/bin/tandemu-riscv64"))
        return 0
    environment = dict(os.environ)
    for name, value in request.environment.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    # Imported here: --help must not wait for it.
    from tandemu.linux import LinuxError, Process

    try:
        _become(Process(
            request.program, env=environment, sysroot=request.sysroot, argv0=request.argv0,
            strace="--strace" in request.switches, stats="--stats" in request.switches,
            profile="--profile" in request.switches, notice=_notice,
        ))  # fmt: skip
    except LinuxError as error:
        print(f"tandemu: {error}", file=sys.stderr)
        return _NOT_FOUND if error.code == 2 else _CANNOT_RUN


def _become(process: object) -> NoReturn:
    from tandemu.linux import Process

    assert isinstance(process, Process)
    process.become(streams.closed)
