"""What goes through a card: counters, rate limits, a capture."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence

from tandemu.net.capture import Capture, Direction

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_BURST_S = 0.05


class Timer:
    """An event descriptor of the kernel's that becomes readable when its time is over."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self.descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def set(self, delay_s: float) -> None:
        """Become readable once in *delay_s* seconds; 0 stops it."""
        nanoseconds = int(delay_s * 1e9)
        value = (ctypes.c_int64 * 4)(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
        self._libc.timerfd_settime(self.descriptor, 0, ctypes.byref(value), None)

    def clear(self) -> None:
        """Be readable no more, until it is over again."""
        try:
            os.read(self.descriptor, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


class Limiter:
    """A token bucket: *bytes_per_s* (0: no limit), and *burst_bytes* at once."""

    def __init__(self, bytes_per_s: int = 0, burst_bytes: int = 0) -> None:
        self.bytes_per_s = bytes_per_s
        self.burst_bytes = burst_bytes or max(int(bytes_per_s * _LONGEST_BURST_S), 65536)
        self._level = float(self.burst_bytes)
        self._at_s = time.monotonic()
        self._seen = 0

    def delay_s(self) -> float:
        """How long the next frame has to wait; 0 if it may go."""
        if not self.bytes_per_s:
            return 0.0
        now_s = time.monotonic()
        filled = self._level + (now_s - self._at_s) * self.bytes_per_s
        self._level = min(filled, float(self.burst_bytes))
        self._at_s = now_s
        # A frame goes as soon as anything is left: the debt is paid before the next.
        return 0.0 if self._level > 0 else (1 - self._level) / self.bytes_per_s

    def take(self, size: int) -> None:
        """*size* bytes went through."""
        self._level -= size


class Traffic:
    """Counters, limits and the capture of one card, called *name*. It outlives resets."""

    def __init__(self, name: str, sending: Limiter, receiving: Limiter) -> None:
        self.name = name
        self.sent_frames = self.sent_bytes = self.received_frames = self.received_bytes = 0
        self.refused = 0
        """Frames of the guest's that were too short or too long."""
        self._timer = Timer()
        self.timer = self._timer.descriptor
        self._capture: Capture | None = None
        self.set_limits(sending, receiving)

    def set_limits(self, sending: Limiter, receiving: Limiter) -> None:
        """Limit the rate from the guest, and to it. The card rests."""
        self.sending, self.receiving = sending, receiving
        self.limited = bool(sending.bytes_per_s or receiving.bytes_per_s)
        self._watch()

    def set_capture(self, capture: Capture | None) -> None:
        """Write all frames to *capture* from now on; what was before is closed. The card rests."""
        if self._capture is not None:
            self._capture.close()
        self._capture = capture
        self._watch()

    def _watch(self) -> None:
        self.watched = self.limited or self._capture is not None
        """Whether `note_sent` and `note_received` want to hear of frames."""

    def note_sent(self, views: Sequence[memoryview], size: int) -> None:
        """The guest sent a frame."""
        self.sending.take(size)
        self._write(views, size, Direction.OUT)

    def note_received(self, views: Sequence[memoryview], size: int) -> None:
        """The guest gets a frame."""
        self.receiving.take(size)
        self._write(views, size, Direction.IN)

    def _write(self, views: Sequence[memoryview], size: int, direction: Direction) -> None:
        if self._capture is not None and not self._capture.write(views, size, direction):
            self.set_capture(None)

    def wake_after(self, delay_s: float) -> None:
        """Have the timer be over when the limit lets the next frame through."""
        self._timer.set(max(delay_s, 0.0005))

    def woken(self) -> None:
        """The timer was heard."""
        self._timer.clear()

    def statistics(self) -> dict[str, int]:
        """The counters by name."""
        return {
            "frames_sent": self.sent_frames,
            "bytes_sent": self.sent_bytes,
            "frames_received": self.received_frames,
            "bytes_received": self.received_bytes,
            "frames_refused": self.refused,
        }

    def close(self) -> None:
        """Close the capture and the timer."""
        self.set_capture(None)
        self._timer.close()
