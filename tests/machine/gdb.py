"""GDB at work on a machine: its commands in, what it says out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

import pytest

PATIENCE_S = 40
GDB = shutil.which("gdb-multiarch") or shutil.which("gdb")


def gdb(place: str, commands: Sequence[str], *, before: Sequence[str] = (), file: str = "") -> str:
    """What GDB prints that carries out *commands* once it is connected to *place*."""
    if GDB is None:
        pytest.skip("there is no gdb-multiarch here")
    words = [GDB, "-nx", "-batch", *([file] if file else [])]
    first = ("set pagination off", "set confirm off", "set remotetimeout 60", *before)
    for command in (*first, f"target remote {place}", *commands):
        words += ["-ex", command]
    done = subprocess.run(
        words,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.stdout + done.stderr
