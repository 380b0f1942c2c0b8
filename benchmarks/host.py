"""What the numbers were measured on: processor, cores, kernel, versions of the contenders."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.build import CROSS_COMPILER, NATIVE_COMPILER
from benchmarks.case import ROOT
from tandemu.cli.version import VERSION


def _first_line(*command: str) -> str:
    try:
        answer = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=20, cwd=ROOT
        )
    except (OSError, subprocess.TimeoutExpired):
        return "not found"
    return answer.stdout.strip().partition("\n")[0] if answer.returncode == 0 else "not found"


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe() -> dict[str, str]:
    """Return names and values, in the order they are printed."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    revision = _first_line("git", "describe", "--always", "--dirty", "--tags")
    return {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": sys.version.split()[0],
        "Tandemu": f"{VERSION}, revision {revision}",
        "llvmlite": _distribution("llvmlite"),
        "QEMU": _first_line("qemu-system-riscv64", "--version"),
        "cross compiler": _first_line(CROSS_COMPILER, "--version"),
        "native compiler": _first_line(NATIVE_COMPILER, "--version"),
    }
