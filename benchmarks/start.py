"""Start-up: help, and a program whose first instructions power the machine off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import TANDEMU, Case, cold, tandemu
from benchmarks.compute import bare_metal_commands


def cases(folder: Path) -> Iterator[Case]:
    """The whole process is timed, which bounds the time to the first instruction from above."""
    yield Case("start", "help", {TANDEMU: tandemu("--help")}, expect="run")
    text = folder / "empty.c"
    text.write_text("int main(void) { return 0; }\n", encoding="ascii")
    commands = bare_metal_commands(build.baremetal([text], folder / "empty.elf"))
    yield Case("start", "first-instruction", commands)
    yield Case("start", "cold-cache", {TANDEMU: cold(commands[TANDEMU])}, once=True)
