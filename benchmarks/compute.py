"""Compute in the full system: bare-metal programs, integer and double precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import build
from benchmarks.case import NATIVE, QEMU, TANDEMU, Case, Command, qemu_system, tandemu


class Program(NamedTuple):
    """A kernel in benchmarks/baremetal: what it is called, its source, its macros."""

    name: str
    source: str
    defines: tuple[str, ...] = ()


PROGRAMS = (
    Program("int-sort", "sort.c"),
    Program("int-sha256", "sha256.c"),
    Program("int-cipher", "cipher.c"),
    Program("int-compress", "compress.c"),
    Program("int-matrix", "matrix.c"),
    Program("int-interpreter-switch", "interpreter.c"),
    Program("int-interpreter-goto", "interpreter.c", ("COMPUTED_GOTO",)),
    Program("int-text", "text.c"),
    Program("int-parser", "parser.c"),
    Program("int-pointers", "pointers.c"),
    Program("int-recursion", "recursion.c"),
    Program("float-nbody", "nbody.c"),
    Program("float-mandelbrot", "mandelbrot.c"),
    Program("float-fft", "fft.c"),
)


def bare_metal_commands(elf: Path) -> dict[str, Command]:
    """Run the M-mode program *elf* on the same machine under both."""
    return {
        TANDEMU: tandemu(
            *("run", "--arch", "riscv64", "--memory", "128M"),
            *("--firmware", "none", "--kernel", elf),
        ),
        QEMU: qemu_system("-m", "128", "-bios", "none", "-kernel", elf),
    }


def cases(folder: Path) -> Iterator[Case]:
    """Compile every program into *folder*; the native build tells the right checksum."""
    for program in PROGRAMS:
        sources = [build.BAREMETAL / program.source, build.BAREMETAL / "runtime.c"]
        host = build.native(sources, folder / f"{program.name}.native", defines=program.defines)
        elf = build.baremetal(sources, folder / f"{program.name}.elf", defines=program.defines)
        yield Case(
            "compute",
            program.name,
            {**bare_metal_commands(elf), NATIVE: Command((str(host),))},
            expect=build.checksum(host, program.source),
        )
