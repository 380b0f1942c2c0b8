"""What is measured: cases, the commands of their contenders, and what a run gave."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TANDEMU = "tandemu"
QEMU = "qemu"
NATIVE = "native"
AGAIN, STENCILS = "again", "stencils"
"""Tandemu with what the optimiser left on disk before, and Tandemu without its optimiser."""


class Missing(RuntimeError):
    """Something a case needs is not there; the message says what and how to get it."""


@dataclass(frozen=True, slots=True)
class Command:
    """One contender's way to do the work.

    *fresh_cache*: with an empty disk cache of its own, thrown away afterwards. *exit_status*:
    what success looks like.
    """

    arguments: tuple[str, ...]
    fresh_cache: bool = False
    exit_status: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """The same work for each contender.

    *expect* must appear in what a run prints. Lines ``metric NAME VALUE`` in it are collected.
    *until*: the time is taken when this appears in the output, instead of at the end.
    *cores* is how many host cores a run may use. *watch_memory* samples resident memory.
    *once*: one run is enough (it is long, and what it shows is not close).
    """

    group: str
    name: str
    commands: Mapping[str, Command]
    expect: str = ""
    until: str = ""
    cores: int = 1
    timeout_s: float = 120.0
    watch_memory: bool = False
    once: bool = False

    @property
    def path(self) -> str:
        """Its name in results and targets."""
        return f"{self.group}/{self.name}"


@dataclass(slots=True)
class Outcome:
    """What the runs of one contender gave: wall *seconds* of each, *metrics*, or a *failure*."""

    seconds: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    failure: str = ""

    @property
    def minimum(self) -> float:
        """The least wall time, or NaN."""
        return min(self.seconds, default=math.nan)

    @property
    def median(self) -> float:
        """The median wall time, or NaN."""
        return statistics.median(self.seconds) if self.seconds else math.nan


@dataclass(frozen=True, slots=True)
class Measured:
    """A case that was measured elsewhere, with what it gave."""

    path: str
    outcomes: dict[str, Outcome]


Results = dict[str, dict[str, Outcome]]
"""Case path to contender to outcome."""


def tandemu(*arguments: str | Path) -> Command:
    """Tandemu's command line, run by this very Python."""
    return Command((sys.executable, "-m", "tandemu", *map(str, arguments)))


def qemu_system(*arguments: str | Path) -> Command:
    """QEMU's riscv64 machine with its console on standard output."""
    program = shutil.which("qemu-system-riscv64") or "qemu-system-riscv64"
    return Command((program, "-M", "virt", "-nographic", *map(str, arguments)))


def with_optimiser(word: str, command: Command, cache: Path | None = None) -> Command:
    """*command* of Tandemu with TANDEMU_OPTIMISER set to *word*, and a disk cache at *cache*."""
    variables = [f"TANDEMU_OPTIMISER={word}"]
    if cache is not None:
        variables.append(f"XDG_CACHE_HOME={cache}")
    return Command(("/usr/bin/env", *variables, *command.arguments))


def cold(command: Command) -> Command:
    """The same command with an empty disk cache."""
    return Command(command.arguments, fresh_cache=True, exit_status=command.exit_status)


LEFT_OUT = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
"""Variables that runs do not get: without compiled modules a start takes three times as long."""


def environment() -> dict[str, str]:
    """The environment of every run: this tree's Tandemu comes first."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "LC_ALL": "C"}
