"""PL031 real-time clock: Arm DDI 0224, chapter 3.

A counter of seconds with one match register. It shows the host's time, in seconds since 1970 modulo
2**32, until a guest sets another. A clock with a battery runs when its machine starts: the control
register says so, and nothing stops it. A load counts from the host's next full second, as the
hardware's waits for the next tick.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tandemu.device.primecell import IDENTIFICATION, PrimeCell, identification
from tandemu.device.registers import (
    Access,
    Field,
    InterruptLine,
    Peripheral,
    Register,
    RegisterMap,
    state,
)

_U32 = 0xFFFF_FFFF
_SECOND_NS = 1_000_000_000
_LONGEST_WAIT_S = 86_400
"""A match further away is asked for again after so long."""


class Pl031(PrimeCell, Peripheral):
    """The clock. *clock* is the host's time in ns since 1970.

    *set_alarm* takes how many ns from now `alarm` is to be called, from any thread, or None for not
    at all.
    """

    identity = identification(0x031, revision=0)
    registers = RegisterMap(
        Register("data", 0x00, access=Access.RO),
        Register("match", 0x04),
        Register("load_value", 0x08),
        Register("control", 0x0C, 4, (Field("enabled", 0, access=Access.RO, reset=1),)),
        Register("mask", 0x10, 4, (Field("enabled", 0),)),
        Register("raw_status", 0x14, 4, (Field("matched", 0, access=Access.RO),)),
        Register("masked_status", 0x18, 4, (Field("matched", 0, access=Access.RO),)),
        Register("clear", 0x1C, 4, (Field("matched", 0, access=Access.WO),)),
        IDENTIFICATION,
    )

    clock: Callable[[], int]
    set_alarm: Callable[[int | None], None]
    irq: InterruptLine

    offset: int = state(32)
    """Guest's seconds minus the host's, modulo 2**32."""
    checked: int = state(32)
    """The counter when it was last compared with the match register."""
    match: int = registers.match.state()
    load_value: int = registers.load_value.state()
    control: int = registers.control.state()
    mask: int = registers.mask.state()
    raw_status: int = registers.raw_status.state()

    def prepare(self) -> None:
        self._lock = threading.Lock()

    def restored(self) -> None:
        with self._lock:
            self.irq(bool(self.raw_status & self.mask))
            self._compare()

    def alarm(self) -> None:
        """The time asked for has passed, or a part of it. Any thread."""
        with self._lock:
            self._compare()

    def read_data(self) -> int:
        return self._now()

    def write_match(self, value: int) -> None:
        with self._lock:
            self._compare()
            self.match = value
            self._begin_at(self.checked)

    def write_load_value(self, value: int) -> None:
        with self._lock:
            self._compare()
            self.load_value = value
            self.offset = (value - self.clock() // _SECOND_NS) & _U32
            self._begin_at(value)

    def _now(self) -> int:
        return (self.clock() // _SECOND_NS + self.offset) & _U32

    def _begin_at(self, now: int) -> None:
        """Match register or counter is new, and the counter is *now*."""
        self.checked = (now - 1) & _U32
        self._compare()

    def _compare(self) -> None:
        """Match if the counter has come by the match register since; ask for the next alarm."""
        now = self._now()
        since = (now - self.checked) & _U32
        if (self.match - self.checked - 1) & _U32 < since:
            self.raw_status = 1
            self._update()
        self.checked = now
        wait = min((self.match - now - 1) & _U32, _LONGEST_WAIT_S) + 1
        self.set_alarm(wait * _SECOND_NS - self.clock() % _SECOND_NS)
