"""Foreign programs on this host's kernel: `tandemu exec` against qemu-riscv64 and a native build.

The kernels are those of `compute`, built as static programs for riscv64 Linux; then the
start of a short program, and what a system call costs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import (
    NATIVE,
    QEMU,
    ROOT,
    STENCILS,
    TANDEMU,
    Case,
    Command,
    Missing,
    environment,
    tandemu,
    with_optimiser,
)
from benchmarks.compute import PROGRAMS
from benchmarks.linux import guest_busybox

_USAGE_TIMEOUT_S = 20


def check_command() -> None:
    """`Missing` if this tree's command line runs no foreign programs."""
    words = tandemu("exec", "--help").arguments
    answer = subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        timeout=_USAGE_TIMEOUT_S,
        env=environment(),
    )
    if answer.returncode:
        end = answer.stderr.strip().rpartition("\n")[2]
        raise Missing(f"`tandemu exec` does not work here: {end}")


def commands(program: Path, *arguments: str) -> dict[str, Command]:
    """Run the riscv64 program *program* under both."""
    rival = shutil.which("qemu-riscv64") or "qemu-riscv64"
    return {
        TANDEMU: tandemu("exec", program, *arguments),
        QEMU: Command((rival, str(program), *arguments)),
    }


def call_cases(folder: Path) -> Iterator[Case]:
    """What each of many system calls costs, in µs: one metric for each call."""
    check_command()
    source = ROOT / "benchmarks" / "guest" / "system_calls.c"
    program = build.guest_linux([source], folder / "system-calls")
    yield Case("calls", "system-calls", commands(program), expect="done")


def cases(folder: Path) -> Iterator[Case]:
    """Compile every program into *folder*; the native build tells the right checksum."""
    check_command()
    busybox = folder / "busybox"
    busybox.write_bytes(guest_busybox())
    busybox.chmod(0o755)
    yield Case("exec", "busybox-true", commands(busybox, "true"))
    calls = build.guest_linux([ROOT / "benchmarks" / "guest" / "calls.c"], folder / "calls")
    yield Case("exec", "system-calls", commands(calls), expect="metric clock_gettime_us")
    for program in PROGRAMS:
        sources = [build.BAREMETAL / program.source, build.BAREMETAL / "runtime.c"]
        host = build.native(sources, folder / f"{program.name}.native", defines=program.defines)
        guest = build.guest_linux(
            sources, folder / f"{program.name}.program", defines=("NATIVE", *program.defines)
        )
        both = commands(guest)
        contenders = {
            **both,
            NATIVE: Command((str(host),)),
            STENCILS: with_optimiser("off", both[TANDEMU]),
        }
        expect = build.checksum(host, program.source)
        yield Case("exec", program.name, contenders, expect=expect)
