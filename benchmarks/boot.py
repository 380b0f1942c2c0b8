"""A stock kernel from process start to /init to power-off: warm, with an empty cache, memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import AGAIN, STENCILS, TANDEMU, Case, cold, with_optimiser
from benchmarks.linux import boot_commands, initramfs

REACHED = "init-was-reached"
INIT = f"""#!/bin/sh
echo {REACHED}
poweroff -f
"""


def cases(folder: Path) -> Iterator[Case]:
    """Both on the same files; then Tandemu alone for what only it has."""
    commands = boot_commands(initramfs(folder / "boot.cpio", init=INIT))
    own = commands[TANDEMU]
    yield Case("boot", "linux", commands, expect=REACHED)
    # What this kernel's other work has left in the user's cache is not these boots'.
    optimisers = {
        contender: with_optimiser(word, own, folder / "boots")
        for contender, word in ((TANDEMU, "fresh"), (AGAIN, "on"), (STENCILS, "off"))
    }
    yield Case("boot", "optimiser", optimisers, expect=REACHED, cores=2)
    yield Case("boot", "memory", {TANDEMU: own}, expect=REACHED, watch_memory=True, once=True)
    yield Case("boot", "cold-cache", {TANDEMU: cold(own)}, expect=REACHED, once=True)
