"""Long compute, where the optimiser counts: the kernels of `compute`, many times in a row.

As foreign programs against qemu-riscv64 and a native build, and on bare metal against
QEMU's machine. What Tandemu compiles is part of its time: it begins with nothing kept from
before. `again` begins with what the run before left on disk, `stencils` has no optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import (
    AGAIN,
    NATIVE,
    QEMU,
    STENCILS,
    TANDEMU,
    Case,
    Command,
    with_optimiser,
)
from benchmarks.compute import PROGRAMS, bare_metal_commands
from benchmarks.programs import commands

_USER, _SYSTEM = "user", "system"
_REPEATS = {_USER: 12, _SYSTEM: 8}
_MORE = {
    "int-interpreter-switch": {_USER: 40, _SYSTEM: 12},
    "int-interpreter-goto": {_USER: 40, _SYSTEM: 8},
    "int-pointers": {_USER: 24, _SYSTEM: 24},
    "int-recursion": {_USER: 20, _SYSTEM: 12},
    "int-text": {_USER: 8, _SYSTEM: 8},
}
"""How often: each is to take QEMU some two to six seconds."""


def cases(folder: Path) -> Iterator[Case]:
    """Compile every program into *folder*; the native build tells the right checksum."""
    for program in PROGRAMS:
        sources = [build.BAREMETAL / program.source, build.BAREMETAL / "runtime.c"]
        for where in (_USER, _SYSTEM):
            repeats = _MORE.get(program.name, _REPEATS)[where]
            defines = (*program.defines, f"REPEATS={repeats}")
            name = f"{program.name}.{where}"
            host = build.native(sources, folder / f"{name}.native", defines=defines)
            if where == _USER:
                guest = build.guest_linux(sources, folder / name, defines=("NATIVE", *defines))
                pair = commands(guest)
            else:
                pair = bare_metal_commands(
                    build.baremetal(sources, folder / f"{name}.elf", defines=defines)
                )
            contenders = {
                TANDEMU: with_optimiser("fresh", pair[TANDEMU]),
                QEMU: pair[QEMU],
                NATIVE: Command((str(host),)),
                AGAIN: with_optimiser("on", pair[TANDEMU]),
                STENCILS: with_optimiser("off", pair[TANDEMU]),
            }
            expect = build.checksum(host, program.source)
            # Two, for QEMU as for Tandemu, whose compiler works beside the guest.
            yield Case("hot", f"{where}-{program.name}", contenders, expect=expect, cores=2)
