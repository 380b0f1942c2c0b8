"""Long compute, where the optimiser counts: the kernels of `compute`, many times in a row.

As foreign programs against qemu-riscv64 and a native build, and on bare metal against
QEMU's machine; without the optimiser, too. Compiling is part of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import NATIVE, QEMU, TANDEMU, Case, Command
from benchmarks.compute import PROGRAMS, bare_metal_commands
from benchmarks.programs import commands

_REPEATS = 8
_MORE = {
    "int-interpreter-switch": 16,
    "int-interpreter-goto": 16,
    "int-pointers": 24,
    "int-recursion": 12,
}
"""How often, for the kernels that are done soonest: each is to take QEMU two seconds or more."""
STENCILS = "stencils"
"""The contender that is Tandemu without its optimiser."""


def _set(word: str, command: Command) -> Command:
    return Command(("/usr/bin/env", f"TANDEMU_OPTIMISER={word}", *command.arguments))


def cases(folder: Path) -> Iterator[Case]:
    """Compile every program into *folder*; the native build tells the right checksum."""
    for program in PROGRAMS:
        sources = [build.BAREMETAL / program.source, build.BAREMETAL / "runtime.c"]
        repeats = _MORE.get(program.name, _REPEATS)
        defines = (*program.defines, f"REPEATS={repeats}")
        host = build.native(sources, folder / f"{program.name}.native", defines=defines)
        guest = build.guest_linux(
            sources, folder / f"{program.name}.program", defines=("NATIVE", *defines)
        )
        elf = build.baremetal(sources, folder / f"{program.name}.elf", defines=defines)
        checksum = build.checksum(host, program.source)
        native = Command((str(host),))
        for where, pair in (("user", commands(guest)), ("system", bare_metal_commands(elf))):
            contenders = {
                TANDEMU: _set("on", pair[TANDEMU]),
                QEMU: pair[QEMU],
                NATIVE: native,
                STENCILS: _set("off", pair[TANDEMU]),
            }
            yield Case("hot", f"{where}-{program.name}", contenders, expect=checksum)
