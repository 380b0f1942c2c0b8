"""The clock of a machine as its devices see it: it stands while the machine does.

Time is the host's, counted from when the machine was made. `Vm.time` is the guest's own
clock, which generated code and the kernel read; a machine stops and starts both together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LONGEST_S = 86_400.0


class Clock:
    """Nanoseconds since the machine began, the time of day, and alarms."""

    def __init__(self, time_of_day: Callable[[], int] = time.time_ns) -> None:
        self._lock = threading.RLock()
        self._time_of_day = time_of_day
        self._lost = 0
        """How long it has stood."""
        self._stood_at: int | None = None
        self._alarms: list[Alarm] = []

    def now_ns(self) -> int:
        """The host's monotonic time, less all the time the machine stood."""
        stood_at = self._stood_at
        return (time.monotonic_ns() if stood_at is None else stood_at) - self._lost

    def time_of_day_ns(self) -> int:
        """Nanoseconds since 1970 by the host's clock, less all the time the machine stood."""
        stood_at = self._stood_at
        standing = 0 if stood_at is None else time.monotonic_ns() - stood_at
        return self._time_of_day() - standing - self._lost

    def alarm(self) -> Alarm:
        """A new alarm on this clock."""
        alarm = Alarm(self)
        with self._lock:
            self._alarms.append(alarm)
        return alarm

    @property
    def stands(self) -> bool:
        """Whether the machine is paused."""
        return self._stood_at is not None

    def stop(self) -> None:
        """Stand still. No alarm rings, and one that has begun to is over, when this returns."""
        with self._lock:
            if self._stood_at is not None:
                return
            self._stood_at = time.monotonic_ns()
            alarms = list(self._alarms)
        for alarm in alarms:
            alarm.hold()

    def start(self) -> None:
        """Go on."""
        with self._lock:
            if self._stood_at is None:
                return
            self._lost += time.monotonic_ns() - self._stood_at
            self._stood_at = None
            alarms = list(self._alarms)
        for alarm in alarms:
            alarm.go_on()

    def close(self) -> None:
        """No alarm rings any more; one that has begun to is over when this returns."""
        for alarm in self._alarms:
            alarm.close()


class Alarm:
    """Calls *ring* from a thread of its own when the time that was set has passed.

    The thread lives only while an alarm is set. An alarm further off than a day
    rings daily: whoever is called compares the time.
    """

    def __init__(self, clock: Clock) -> None:
        self.ring: Callable[[], None] = lambda: None
        self._clock = clock
        self._due: int | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._closed = False

    def set(self, delay_ns: int | None) -> None:
        """Ring in *delay_ns*, instead of whenever it was; None: not at all. Any thread."""
        with self._lock:
            self._due = None if delay_ns is None else self._clock.now_ns() + delay_ns
            self._wind()

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due is not None and not self._closed and not self._clock.stands:
            delay_s = max(self._due - self._clock.now_ns(), 0) / 1e9
            self._timer = threading.Timer(min(delay_s, _LONGEST_S), self._rings)
            self._timer.daemon = True
            self._timer.start()

    def _rings(self) -> None:
        with self._lock:
            if threading.current_thread() is not self._timer or self._clock.stands:
                return  # called off, or put off, at the last moment
            self._due = None
        self.ring()

    def hold(self) -> None:
        """The clock stands: ring when it goes on."""
        with self._lock:
            timer = self._timer
            self._wind()
        self._join(timer)

    def go_on(self) -> None:
        """The clock goes on."""
        with self._lock:
            self._wind()

    def close(self) -> None:
        """Never ring again; a ring that has begun is over when this returns."""
        with self._lock:
            self._closed = True
            timer, self._timer = self._timer, None
        self._join(timer)

    @staticmethod
    def _join(timer: threading.Timer | None) -> None:
        if timer is not None:
            timer.cancel()
            if timer is not threading.current_thread():
                timer.join()
