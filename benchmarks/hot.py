"""Long compute, where the optimiser counts: the kernels of `compute`, eight times in a row.

As foreign programs against qemu-riscv64 and a native build, and on bare metal against
QEMU's machine; without the optimiser, too. Compiling is part of the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import NATIVE, QEMU, TANDEMU, Case, Command
from benchmarks.compute import PROGRAMS, bare_metal_commands
from benchmarks.programs import commands

_REPEATS = "REPEATS=8"
STENCILS = "stencils"
"""The contender that is Tandemu without its optimiser."""


def _without(command: Command) -> Command:
    env = os.path.join("/usr", "bin", "env")
    return Command((env, "TANDEMU_OPTIMISER=off", *command.arguments))


def cases(folder: Path) -> Iterator[Case]:
    """Compile every program into *folder*; the native build tells the right checksum."""
    for program in PROGRAMS:
        sources = [build.BAREMETAL / program.source, build.BAREMETAL / "runtime.c"]
        defines = (*program.defines, _REPEATS)
        host = build.native(sources, folder / f"{program.name}.native", defines=defines)
        guest = build.guest_linux(
            sources, folder / f"{program.name}.program", defines=("NATIVE", *defines)
        )
        elf = build.baremetal(sources, folder / f"{program.name}.elf", defines=defines)
        checksum = build.checksum(host, program.source)
        native = Command((str(host),))
        for where, pair in (("user", commands(guest)), ("system", bare_metal_commands(elf))):
            contenders = {
                TANDEMU: pair[TANDEMU],
                QEMU: pair[QEMU],
                NATIVE: native,
                STENCILS: _without(pair[TANDEMU]),
            }
            yield Case("hot", f"{where}-{program.name}", contenders, expect=checksum)
