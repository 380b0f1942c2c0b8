"""Two harts against one: the same work in one process, then in two at once, under Linux."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import ROOT, Case
from benchmarks.linux import boot_commands, initramfs

HARTS = 2


def cases(folder: Path) -> Iterator[Case]:
    """The guest measures itself and prints the metric ``scaling``: 2 is perfect."""
    load = build.guest_linux([ROOT / "benchmarks" / "guest" / "parallel.c"], folder / "parallel")
    commands = boot_commands(initramfs(folder / "smp.cpio", program=load), harts=HARTS)
    # The guest repeats by itself and reports its best: one boot is enough.
    yield Case("smp", "two-harts", commands, expect="metric scaling", cores=HARTS, once=True)
