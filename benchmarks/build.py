"""Compiles what the cases run: bare-metal, native and guest Linux programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.case import ROOT, Missing

CROSS_COMPILER = "riscv64-linux-gnu-gcc"
NATIVE_COMPILER = "gcc"
BAREMETAL = ROOT / "benchmarks" / "baremetal"
# Results must agree to the last bit: no contraction into fused multiply-add, no errno.
_COMMON = ("-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno")
_BAREMETAL = (
    *("-march=rv64gc", "-mabi=lp64d", "-mcmodel=medany", "-static", "-no-pie", "-fno-pic"),
    *("-nostdlib", "-ffreestanding", "-fno-stack-protector", "-Wl,--build-id=none"),
    *("-T", str(BAREMETAL / "link.ld"), str(BAREMETAL / "crt0.S")),
)


def _compile(compiler: str, arguments: Sequence[str | Path], to: Path) -> Path:
    if shutil.which(compiler) is None:
        package = "gcc-riscv64-linux-gnu" if compiler == CROSS_COMPILER else "gcc"
        raise Missing(f"no {compiler} here; ./test installs it (Debian package {package})")
    command = [compiler, *map(str, arguments), "-o", str(to)]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        raise Missing(f"{compiler} failed:\n{answer.stderr[-2000:]}")
    return to


def baremetal(sources: Sequence[Path], to: Path, *, defines: Sequence[str] = ()) -> Path:
    """An ELF for M-mode on the riscv-virt board, linked to the start of its RAM."""
    options = [f"-D{name}" for name in defines]
    return _compile(CROSS_COMPILER, [*_COMMON, *_BAREMETAL, *options, *sources], to)


def native(sources: Sequence[Path], to: Path, *, defines: Sequence[str] = ()) -> Path:
    """The same program for this host."""
    options = [f"-D{name}" for name in ("NATIVE", *defines)]
    return _compile(NATIVE_COMPILER, [*_COMMON, *options, *sources], to)


def guest_linux(sources: Sequence[Path], to: Path, *, defines: Sequence[str] = ()) -> Path:
    """A static program for riscv64 Linux."""
    options = [f"-D{name}" for name in defines]
    return _compile(CROSS_COMPILER, [*_COMMON, "-static", *options, *sources], to)


def checksum(program: Path, source: str) -> str:
    """What the native build *program* of *source* prints: the right answer of every build."""
    answer = subprocess.run([program], check=False, capture_output=True, text=True, timeout=60)
    if answer.returncode or "checksum" not in answer.stdout:
        raise Missing(f"the native build of {source} does not work")
    return answer.stdout.strip()
