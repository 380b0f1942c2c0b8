"""Writes to one address that are kept for a while, so that not each of them is an exit.

A guest that prints writes to one register again and again. While many writes come, the engine
keeps them instead, in order, and they are taken together before anything else is done that made
a vCPU leave: nothing can tell the difference. Where no exit comes by itself a thread sees to it
within some milliseconds. Writes to a quiet port are exits, and there is no thread.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

BUSY_WRITES, BUSY_S = 64, 0.1
"""So many writes in so much time make a port a busy one."""
_TICK_S = 0.002
"""How often a busy port is looked at: a serial line of 115,200 baud empties its FIFO in 1.4 ms."""
_QUIET_TICKS = 50


class BusyPort(ABC):
    """One such port: *take* gets what was written. An engine says how writes are kept."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._draining = threading.Lock()
        self._switching = threading.Lock()
        self._busy = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._since_s = 0.0
        self._writes = 0
        self._taken = 0

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """Whether writes are kept that nobody has taken."""

    @abstractmethod
    def _keep_writes(self, keep: bool) -> None:
        """Begin or end to keep writes instead of leaving with each."""

    @abstractmethod
    def _kept(self) -> bytes:
        """Empty what is kept, oldest first. One thread at a time."""

    @abstractmethod
    def _look(self) -> None:
        """Have `drain` called soon, on whatever thread may."""

    def wrote(self) -> None:
        """A write came as an exit. On a vCPU's thread."""
        if self._busy:  # what keeps them is full
            return
        now_s = time.monotonic()
        if now_s - self._since_s > BUSY_S:
            self._since_s, self._writes = now_s, 0
        self._writes += 1
        if self._writes >= BUSY_WRITES:
            self._begin()

    def drain(self) -> None:
        """Hand over what was kept."""
        with self._draining:
            data = self._kept()
            self._taken += len(data)
            if data:
                self._take(data)

    def _begin(self) -> None:
        with self._switching:
            if self._busy or self._closing.is_set():
                return
            self._busy = True
            self._keep_writes(True)
            self._thread = threading.Thread(target=self._watch, name="busy port", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        """While the port is busy, see to it that nothing is kept for long."""
        quiet, seen = 0, -1
        while quiet < _QUIET_TICKS and not self._closing.wait(_TICK_S):
            if self._taken != seen:
                quiet, seen = 0, self._taken
            elif self.waiting:  # and no exit since the last tick
                self._look()
            else:
                quiet += 1
        with self._switching:
            self._keep_writes(False)
            self._since_s, self._busy = 0.0, False
        # What was written meanwhile is taken at the next exit, which need not come.
        self._look()

    def close(self) -> None:
        """End the thread. No vCPU may be running."""
        with self._switching:
            self._closing.set()
        if self._thread is not None:
            self._thread.join()
