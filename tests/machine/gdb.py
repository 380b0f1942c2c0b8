"""GDB at work on a machine: its commands in, what it says out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

import pytest

PATIENCE_S = 120
GDB = shutil.which("gdb-multiarch") or shutil.which("gdb")


def open_gdb(
    place: str, commands: Sequence[str], *, before: Sequence[str] = (), file: str = ""
) -> subprocess.Popen[str]:
    """GDB, which carries out *commands* once it is connected to *place*; its output is a pipe."""
    if GDB is None:
        pytest.skip("there is no gdb-multiarch here")
    words = [GDB, "-nx", "-batch", *([file] if file else [])]
    first = ("set pagination off", "set confirm off", "set remotetimeout 60", *before)
    for command in (*first, f"target remote {place}", *commands):
        words += ["-ex", command]
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def gdb(place: str, commands: Sequence[str], *, before: Sequence[str] = (), file: str = "") -> str:
    """What GDB prints that carries out *commands* once it is connected to *place*."""
    with open_gdb(place, commands, before=before, file=file) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"GDB did not end: {output}") from None
    return output
