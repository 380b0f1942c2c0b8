"""One alarm on the host's clock, for devices that count real time."""

from __future__ import annotations

import threading
from collections.abc import Callable

_LONGEST_S = 86_400.0


class Alarm:
    """Calls *ring* from a thread of its own when the time that was set has passed.

    The thread lives only while an alarm is set. An alarm further off than a day
    rings daily: whoever is called compares the time.
    """

    def __init__(self) -> None:
        self.ring: Callable[[], None] = lambda: None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._closed = False

    def set(self, delay_ns: int | None) -> None:
        """Ring in *delay_ns*, instead of whenever it was; None: not at all. Any thread."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if delay_ns is not None and not self._closed:
                self._timer = threading.Timer(min(delay_ns / 1e9, _LONGEST_S), self.ring)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Never ring again; a ring that has begun is over when this returns."""
        with self._lock:
            self._closed = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            if timer is not threading.current_thread():
                timer.join()
