"""Making images for tests: patterns, empty qcow2 files, and QEMU's tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from tandemu.host.disk.qcow2.create import Qcow2Options, write_new_image
from tandemu.host.disk.storage import HostFile

KIB, MIB = 1 << 10, 1 << 20
needs_qemu = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("qemu-img", "qemu-io")), reason="needs qemu-utils"
)


def make_qcow2(path: Path, size: int, options: Qcow2Options | None = None) -> str:
    """An empty image; its path."""
    storage = HostFile(str(path), create=True)
    write_new_image(storage, size, options or Qcow2Options())
    storage.close()
    return str(path)


def pattern(size: int, seed: int = 1) -> bytearray:
    """Data, text that packs well, and zeros, in pieces of several sizes."""
    random = Random(seed)
    data = bytearray(size)
    at = 0
    while at < size:
        length = min(random.choice((512, 4096, 65536, 200_000 // 512 * 512)), size - at)
        kind = random.random()
        if kind < 0.3:
            data[at : at + length] = random.randbytes(length)
        elif kind < 0.6:
            data[at : at + length] = (b"%9d;" % at * (length // 10 + 1))[:length]
        at += length
    return data


def tool(*words: str | Path, status: int | None = 0) -> str:
    """Run a tool, which must end with *status* (None: any); what it prints."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert status in (None, done.returncode), f"{words}: {done.stdout}{done.stderr}"
    return done.stdout
