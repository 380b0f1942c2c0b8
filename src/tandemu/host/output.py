"""Guest output to a file descriptor: prompt, in few system calls, with back-pressure.

A guest transmits byte by byte on a vCPU's thread. The bytes are gathered and a
thread of their own writes them: the first at once, the following in batches as far apart as
the frames of a screen. A descriptor that takes no more (a slow terminal, a stopped pager)
makes the guest wait once *limit_bytes* are gathered.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable

_BATCH_INTERVAL_S = 0.016
_POLL_S = 0.1
_SLICE_S = 0.5
_LIMIT_BYTES = 256 << 10


def _nothing(error: OSError) -> None:
    """Default of *lost*."""


class OutputPump:
    """Writes to *descriptor*; *lost* is called once, with the reason, if that is not possible."""

    def __init__(
        self,
        descriptor: int,
        *,
        lost: Callable[[OSError], None] = _nothing,
        limit_bytes: int = _LIMIT_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._lost = lost
        self._limit = limit_bytes
        self._pending = bytearray()
        self._lock = threading.RLock()  # cheaper than the condition, for every character
        self._changed = threading.Condition(self._lock)
        self._writing = False
        self._held = False
        self._closing = False
        self._discarding = False
        self._written = 0
        self._pause = threading.Event()
        self.last_byte = b"\n"
        """The last byte that was written: whether the cursor stands at a line's start."""
        self._thread = threading.Thread(target=self._run, name="console output", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take *data*; blocks while too much is waiting. Any thread."""
        with self._lock:
            if len(self._pending) >= self._limit:
                self._changed.wait_for(lambda: self._discarding or len(self._pending) < self._limit)
            if self._discarding:
                return
            self._pending += data
            if len(self._pending) == len(data):
                self._changed.notify_all()

    def hold(self, held: bool) -> None:
        """Stop writing, or go on; the monitor prompt has the terminal meanwhile."""
        with self._changed:
            self._held = held
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing, timeout=1)

    def close(self, patience_s: float | None = 1.0) -> None:
        """Write what is left, as long as the reader takes some every *patience_s* (None: for ever).

        What is left then is lost, and from then on output is discarded.
        """
        with self._changed:
            self._closing = True
            self._held = False
            self._changed.notify_all()
        self._pause.set()
        written = -1
        while self._thread.is_alive() and (patience_s is None or written != self._written):
            written = self._written
            self._thread.join(_SLICE_S if patience_s is None else patience_s)
        with self._changed:
            abandoned = self._thread.is_alive() and not self._discarding
            self._discarding = True
            self._changed.notify_all()
        if abandoned:
            self._lost(TimeoutError(errno.ETIMEDOUT, f"nobody read it for {patience_s:g} s"))
        self._thread.join(_POLL_S * 2)

    def _take(self) -> bytes:
        """The next batch; empty when there is none and none will come."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._discarding
                    or (self._pending and not self._held)
                    or (self._closing and not self._pending)
                )
            )
            if self._discarding:
                return b""
            batch = bytes(self._pending)
            self._pending.clear()
            self._writing = bool(batch)
            self._changed.notify_all()
            return batch

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._write_all(batch)
            except OSError as error:  # the reader or the terminal is gone, the disk full
                with self._changed:
                    self._discarding = True
                    self._writing = False
                    self._changed.notify_all()
                self._lost(error)
                return
            with self._changed:
                self._writing = False
                self._changed.notify_all()
            self._pause.wait(_BATCH_INTERVAL_S)

    def _write_all(self, batch: bytes) -> None:
        rest = memoryview(batch)
        # Not select, which takes no descriptor above 1023.
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while rest and not self._discarding:
            # Waiting here, not in write(), lets close() end a pump that is stuck.
            if not room.poll(_POLL_S * 1000):
                continue
            try:
                written = os.write(self._descriptor, rest[:4096])
            except BlockingIOError:
                continue
            self.last_byte = bytes(rest[written - 1 : written]) or self.last_byte
            self._written += written
            rest = rest[written:]
