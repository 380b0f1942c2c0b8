"""A Linux guest's panic, as a machine without a device for it can tell: by the kernel's own words.

``kernel/panic.c`` prints "Kernel panic - not syncing: CAUSE" before anything else, on every
console, and "---[ end Kernel panic …" as its last words where it does not restart
(``panic=0``): it then spins for ever. So a restart that follows the first is the end of a panic,
and a guest that fell silent after the second one while a processor is busy is one that spins.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

_REPORT = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")
_RESTART = b"reboot: Restarting system"
_LAST_WORDS = re.compile(
    rb"(?:^|\n)(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )?"
    rb"---\[ end Kernel panic - not syncing: ([^\r\n]*) \]---\s*$"
)
TAIL_BYTES = 16 << 10
"""So much of the output is looked at: a report with the registers of some processors."""
SPIN_S = 1.5
"""A processor that was busy so long after the last words, and most of the time, spins."""
_BUSY_SHARE = 0.1


def cause_before_reset(output: bytes) -> str:
    """The cause of the panic that ended in a reset; empty if *output* ends in none."""
    found = list(_REPORT.finditer(output))
    if not found or _RESTART in output[found[-1].end() :]:
        return ""
    # The last words repeat it.
    return found[-1][1].decode(errors="replace").removesuffix(" ]---").strip()


class SpinWatch:
    """Tells a guest that spins after a panic; `check` is called from time to time.

    *tail* returns how many bytes the guest has printed ever and the last `TAIL_BYTES` of them,
    *busy_s* the seconds each processor has computed so far.
    """

    def __init__(
        self, tail: Callable[[], tuple[int, bytes]], busy_s: Callable[[], list[float]]
    ) -> None:
        self._tail = tail
        self._busy_s = busy_s
        self._printed = -1
        self._cause = ""
        self._since_s = 0.0
        self._busy_then: list[float] = []

    def check(self) -> str:
        """The cause of the panic the guest spins after; empty while it does not."""
        printed, output = self._tail()
        if printed != self._printed:
            self._printed = printed
            match = _LAST_WORDS.search(output)
            self._cause = match[1].decode(errors="replace").strip() if match else ""
            if self._cause:
                self._since_s = time.monotonic()
                self._busy_then = self._busy_s()
            return ""
        if not self._cause:
            return ""
        busy = max(
            (now - then for now, then in zip(self._busy_s(), self._busy_then, strict=False)),
            default=0.0,
        )
        silent = time.monotonic() - self._since_s
        return self._cause if busy >= SPIN_S and busy >= silent * _BUSY_SHARE else ""
