"""Where the threads of a machine's processors come to rest, and wait to go on."""

from __future__ import annotations

import threading
from collections.abc import Collection


class Gate:
    """A gate that threads pass before they run guest code. While it is closed they stay outside.

    A thread that runs a processor is inside from `enter` to `leave`. It looks at *closed*
    between two exits and, if that is set, comes to rest: `leave`, then `enter` again.
    """

    def __init__(self) -> None:
        self.closed = False
        """Read without a lock, by threads that are inside."""
        self._inside: set[threading.Thread] = set()
        self._held: frozenset[threading.Thread] = frozenset()
        self._released = False
        self._changed = threading.Condition()

    def enter(self) -> bool:
        """Go inside as soon as the gate is open; False: it was released, the machine ends."""
        thread = threading.current_thread()
        with self._changed:
            self._changed.wait_for(
                lambda: self._released or not (self.closed or thread in self._held)
            )
            if self._released:
                return False
            self._inside.add(thread)
            return True

    def hold(self, threads: Collection[threading.Thread]) -> None:
        """Keep these, which are outside, there when it opens, and no others. Any thread."""
        with self._changed:
            self._held = frozenset(threads)
            self._changed.notify_all()

    def leave(self) -> None:
        """Be outside. Again: nothing happens."""
        with self._changed:
            self._inside.discard(threading.current_thread())
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and have those inside see it. Any thread."""
        with self._changed:
            self.closed = True

    def inside(self, timeout_s: float) -> frozenset[threading.Thread]:
        """The threads that are still inside once none is, or after *timeout_s*.

        The caller's own does not count.
        """

        def others() -> set[threading.Thread]:
            return self._inside - {threading.current_thread()}

        with self._changed:
            self._changed.wait_for(lambda: self._released or not others(), timeout_s)
            return frozenset(others())

    def open(self) -> None:
        """Let all go on. Any thread."""
        with self._changed:
            self.closed = False
            self._changed.notify_all()

    def release(self) -> None:
        """Have `enter` return False for good. Any thread."""
        with self._changed:
            self._released = True
            self._changed.notify_all()
