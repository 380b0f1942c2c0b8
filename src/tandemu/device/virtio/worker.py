"""A thread that serves a device: it waits for kicks and host descriptors and runs what they mean.

Nothing of the device runs outside it, save while it rests: whoever wants to change the device
brings it to rest first. It takes no processor time while nothing happens.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable

_SWITCH_INTERVAL_S = 0.0002
"""How long a Python thread may keep the others waiting: the usual 5 ms would be the latency of a
device, and of each access to one."""


class Worker:
    """Calls *callbacks* on a thread of its own; started by the first `start`, ended by `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._poll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._claims = 0
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN | select.EPOLLET)

    def add_kick(self, callback: Callable[[], None]) -> int:
        """Call *callback* after each write to the event descriptor that is returned.

        Several writes may be one call. Never lost: one that comes during the call means another.
        """
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(descriptor, callback, select.EPOLLIN | select.EPOLLET)
        return descriptor

    def watch(
        self, descriptor: int, callback: Callable[[], None], events: int = select.EPOLLIN
    ) -> None:
        """Call *callback* while *descriptor* is ready for *events*, or broken."""
        known = descriptor in self._callbacks
        self._callbacks[descriptor] = callback
        (self._poll.modify if known else self._poll.register)(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Watch *descriptor*, which is still open, no more."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._thread is None:
            sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it to rest or end: a long callback then returns early."""
        return self._claims > 0 or self._closing

    def rest(self) -> None:
        """Return when no callback runs, and let none run until `go_on`. Any thread but its own."""
        with self._changed:
            self._claims += 1
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: not self._busy)

    def go_on(self) -> None:
        """The end of `rest`."""
        with self._changed:
            self._claims -= 1
            self._changed.notify_all()

    def _enter(self) -> bool:
        with self._changed:
            while self._claims and not self._closing:
                self._changed.wait()
            self._busy = not self._closing
            return self._busy

    def _leave(self) -> None:
        with self._changed:
            self._busy = False
            if self._claims:
                self._changed.notify_all()

    def _run(self) -> None:
        poll = self._poll.poll
        while not self._closing:
            for descriptor, _ in poll():
                callback = self._callbacks.get(descriptor)
                if callback is None:
                    continue
                if not self._enter():
                    return
                try:
                    callback()
                finally:
                    self._leave()

    def close(self) -> None:
        """End the thread and free what it has; kicks' descriptors are closed too."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        self._callbacks.clear()
        self._poll.close()
        os.close(self._wake)
