"""The cases that need a real KVM, measured in the test bed (`tests.kvm.bed`).

Outside, `measured` boots the bed with QEMU and this package in it; inside, the command
``python -m benchmarks.kvm_bed`` measures and prints what `measured` reads.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import kvm, report
from benchmarks.case import ROOT, Case, Measured, Missing
from benchmarks.measure import measure
from tandemu.guests import GuestError, cpio

REPEAT = 3
PREFIX = "bed-"
GUEST = Path("/guest")
BEGIN, END = "RESULTS BEGIN", "RESULTS END"
BED_S = 1500.0
_FIRMWARE = ("bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin")
_FIRMWARE_FOLDERS = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))
_C_LIBRARY = re.compile(r"/(ld-linux-x86-64|lib(c|m|dl|rt|pthread|util|resolv))[.-]")


def inside() -> None:
    """Measure here, in the bed, and print the results."""
    folder = Path("/tmp")
    cases: Iterable[Case] = itertools.chain(
        kvm.small_cases(folder, PREFIX, kvm.BED_KIB),
        kvm.debian_cases(folder, PREFIX, GUEST / "kernel", (GUEST / "busybox").read_bytes()),
    )
    results = measure(cases, repeat=REPEAT, say=lambda line: print(line, flush=True))
    print(BEGIN, report.to_json({}, results), END, sep="\n", flush=True)


def _qemu() -> Iterator[cpio.Entry]:
    """QEMU with its firmware and those libraries that the bed's own C library is not."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise Missing("no qemu-system-x86_64 here; ./test installs it")
    needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"=> (/\S+) \(0x", needed)
    yield cpio.file("usr/bin/qemu-system-x86_64", Path(program).read_bytes(), 0o755)
    for path in map(Path, libraries):
        if not _C_LIBRARY.search(str(path)):
            name = f"usr/lib/x86_64-linux-gnu/{path.name}"
            yield cpio.file(name, path.read_bytes(), 0o755)
    for name in _FIRMWARE:
        found = [folder / name for folder in _FIRMWARE_FOLDERS if (folder / name).exists()]
        if found:
            yield cpio.file(f"usr/share/qemu/{name}", found[0].read_bytes())


def _package() -> Iterator[cpio.Entry]:
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        yield cpio.file(f"t/benchmarks/{path.name}", path.read_bytes())


def measured(folder: Path) -> Iterator[Measured]:
    """Boot the bed and read its results; `Missing` with the end of its console if it has none."""
    from tests.kvm import bed

    try:
        kernel, initrd = bed.build(
            folder, f"python{bed.PYTHON} -m benchmarks.kvm_bed", more=[*_qemu(), *_package()]
        )
    except (GuestError, OSError) as error:
        raise Missing(f"the test bed cannot be built: {error}") from error
    console = bed.boot(kernel, initrd, BED_S).console
    _, _, rest = console.partition(BEGIN)
    text, found, _ = rest.partition(END)
    if not found:
        raise Missing(f"the test bed gave no results; the end of its console:\n{console[-3000:]}")
    for path, outcomes in report.from_json(text).items():
        yield Measured(path, outcomes)


if __name__ == "__main__":
    inside()
