"""Disk images: conversions, and requests one after another, against qemu-img."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import QEMU, TANDEMU, Case, Command, Missing, tandemu

_DISK_BYTES = 256 << 20
_COUNT = 20_000
_ROOT = Path(__file__).parent


def _make_disk(path: Path) -> None:
    """A disk as disks are: some of it random, some text, a quarter never written."""
    chance = random.Random(1)
    with path.open("wb") as file:
        for number in range(_DISK_BYTES >> 20):
            file.seek(number << 20)
            if number % 4:
                text = b"line %d of a log file\n" % number
                half = chance.randbytes(1 << 19)
                file.write(half + (text * (len(half) // len(text) + 1))[: len(half)])
        file.truncate(_DISK_BYTES)


def _qemu_img(*words: str | Path) -> Command:
    return Command(("qemu-img", *map(str, words)))


def _requests(image: Path, *words: str | int) -> Command:
    return Command((sys.executable, str(_ROOT / "disk_requests.py"), str(image), *map(str, words)))


def cases(folder: Path) -> Iterator[Case]:
    """Conversions are timed as whole processes; requests take that much of theirs."""
    if shutil.which("qemu-img") is None:
        raise Missing("qemu-img: install qemu-utils")
    raw, qcow2, out = folder / "disk.raw", folder / "disk.qcow2", folder / "out"
    _make_disk(raw)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2], check=True)
    for name, source, form, words in (
        ("convert-raw-qcow2", raw, "qcow2", ()),
        ("convert-qcow2-raw", qcow2, "raw", ()),
        ("convert-compressed", raw, "qcow2", ("-c",)),
    ):
        yield Case(
            "disk",
            name,
            {
                TANDEMU: tandemu("disk", "convert", "--force", *words, "-O", form, source, out),
                QEMU: _qemu_img("convert", *words, "-O", form, source, out),
            },
            cores=2 if words else 1,
        )
    for name, size, writes in (
        ("read-4k", 4096, False),
        ("write-4k", 4096, True),
        ("read-1m", 1 << 20, False),
        ("write-1m", 1 << 20, True),
    ):
        count = _COUNT if size == 4096 else 1000
        bench: list[str | int] = ["bench", "-c", count, "-s", size, "-d", 1, "-S", size]
        bench += ["-f", "qcow2", "-t", "writeback", *(["-w"] if writes else [])]
        yield Case(
            "disk",
            name,
            {
                TANDEMU: _requests(qcow2, count, size, "write" if writes else "read"),
                QEMU: _qemu_img(*map(str, bench), qcow2),
            },
        )
