"""Rate limits: how many bytes and operations a second a machine may move on a disk.

Two token buckets, as Firecracker and QEMU have them: each fills steadily up to its burst, a
request takes from both, and waits until both are no longer in debt. A request is never cut:
one larger than the burst goes through once the bucket is full, and leaves it in debt, so the
rate holds over time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from tandemu.bits import Record
from tandemu.host.disk.errors import DiskUsageError
from tandemu.host.disk.image import Description, Extent, Image
from tandemu.host.disk.vectors import Buffers

_NAP_S = 0.02
"""For how long a request that waits does not look whether it is urgent."""


class Limits(Record):
    """What is allowed each second; 0: any number. A burst of 0 is that of one second."""

    bytes_per_s: int = 0
    operations_per_s: int = 0
    burst_bytes: int = 0
    burst_operations: int = 0

    def __post_init__(self) -> None:
        for name in ("bytes_per_s", "operations_per_s", "burst_bytes", "burst_operations"):
            value = getattr(self, name)
            if not 0 <= value < 1 << 62:
                raise DiskUsageError(f"a limit of {value} ({name}): must be 0 or more")
        if self.burst_bytes and not self.bytes_per_s:
            raise DiskUsageError("a burst of bytes needs a limit of bytes a second")
        if self.burst_operations and not self.operations_per_s:
            raise DiskUsageError("a burst of operations needs a limit of operations a second")

    @property
    def is_any(self) -> bool:
        """Whether anything is limited."""
        return bool(self.bytes_per_s or self.operations_per_s)


class Bucket:
    """Tokens that come at a *rate* a second, *burst* of them at most; it begins full.

    The caller says what time it is, in seconds.

    >>> bucket = Bucket(10, 20, now=0.0)
    >>> bucket.take(20, 0.0), bucket.take(5, 0.0), bucket.take(5, 1.0)
    (0.0, 0.5, 0.0)
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: int, burst: int, now: float) -> None:
        self._rate, self._burst = rate, burst or rate
        self._tokens, self._at = float(self._burst), now

    def take(self, count: int, now: float) -> float:
        """Take *count* tokens; after how many seconds the request may go on."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= count
        return max(0.0, -self._tokens / self._rate)


class LimitedImage(Image):
    """*image* within *limits*. A request that is too early waits in its own thread.

    Flushes are operations too; discards and zeros are operations that move no bytes.
    *is_urgent*: asked while a request waits; if it says so, that one goes on at once, and the next
    ones pay for it. A machine that is to be paused does not wait for its limits.
    """

    def __init__(
        self,
        image: Image,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.image = image
        self.format, self.path = image.format, image.path
        self.size_bytes, self.read_only = image.size_bytes, image.read_only
        self.backing, self.is_local = image.backing, image.is_local
        self._clock, self._sleep = clock, sleep
        self.is_urgent: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()
        now = clock()
        self._buckets: list[tuple[Bucket, bool]] = []
        if limits.bytes_per_s:
            self._buckets.append((Bucket(limits.bytes_per_s, limits.burst_bytes, now), True))
        if limits.operations_per_s:
            bucket = Bucket(limits.operations_per_s, limits.burst_operations, now)
            self._buckets.append((bucket, False))

    def _wait(self, length: int) -> None:
        with self._lock:
            now = self._clock()
            delay = max(
                (bucket.take(length if of_bytes else 1, now) for bucket, of_bytes in self._buckets),
                default=0.0,
            )
        end = now + delay
        while delay > 0 and not self.is_urgent():
            self._sleep(min(delay, _NAP_S))
            delay = end - self._clock()

    def _readv(self, offset: int, buffers: Buffers, length: int) -> None:
        self._wait(length)
        self.image.readv(offset, buffers)

    def _writev(self, offset: int, buffers: Buffers, length: int) -> None:
        self._wait(length)
        self.image.writev(offset, buffers)

    def _discard(self, offset: int, length: int) -> None:
        self._wait(0)
        self.image.discard(offset, length)

    def _write_zeroes(self, offset: int, length: int, may_unmap: bool) -> None:
        self._wait(0)
        self.image.write_zeroes(offset, length, may_unmap)

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self.image.extents(offset, length)

    def flush(self) -> None:
        """Flush the image, as one operation."""
        self._wait(0)
        self.image.flush()

    def describe(self) -> Description:
        """What the image says of itself."""
        return self.image.describe()

    def close(self) -> None:
        """Close the image."""
        self.image.close()
