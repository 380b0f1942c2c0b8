"""A disk that loses its power: what was not flushed is there in part, sector by sector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

SECTOR = 512


class PowerCutError(Exception):
    """The power went; the disk takes nothing more."""


class FragileDisk:
    """Storage in memory that fails after *writes* sectors, and keeps what chance decides.

    Until a flush each sector that was written may or may not be there afterwards, whatever the
    order of writing. A sector is never torn.
    """

    path = "fragile"
    read_only = False
    is_regular = True

    def __init__(self, data: bytes = b"", *, writes: int = 1 << 60, random: Random) -> None:
        self.safe = bytearray(data)
        self.now = bytearray(data)
        self.pending: list[tuple[int, bytes]] = []
        self.left = writes
        self.flushes = 0
        self._random = random
        self._size_pending: list[int] = []

    def size(self) -> int:
        return len(self.now)

    def _reach(self, end: int) -> None:
        if end > len(self.now):
            self.now.extend(bytes(end - len(self.now)))

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            data = bytes(self.now[offset : offset + buffer.nbytes])
            buffer[:] = data + bytes(buffer.nbytes - len(data))
            offset += buffer.nbytes

    def writev(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._write(offset, b"".join(buffers))

    def _write(self, offset: int, data: bytes) -> None:
        self._reach(offset + len(data))
        while data:
            part = data[: SECTOR - offset % SECTOR]
            self.left -= 1
            if self.left < 0:
                raise PowerCutError
            self.now[offset : offset + len(part)] = part
            self.pending.append((offset, part))
            offset += len(part)
            data = data[len(part) :]

    def flush(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise PowerCutError
        self.flushes += 1
        self._apply(self.pending)
        self.safe.extend(bytes(len(self.now) - len(self.safe)))
        self.pending = []

    def _apply(self, writes: Sequence[tuple[int, bytes]]) -> None:
        for offset, data in writes:
            end = offset + len(data)
            if end > len(self.safe):
                self.safe.extend(bytes(end - len(self.safe)))
            self.safe[offset:end] = data

    def truncate(self, size: int) -> None:
        assert size >= len(self.now), "nothing here cuts a file off"
        self._reach(size)

    def extend(self, size: int) -> None:
        self._reach(max(size, len(self.now)))

    def punch(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.now))
        if offset < end:
            self._write(offset, bytes(end - offset))

    def zero(self, offset: int, length: int, may_unmap: bool) -> None:
        self._write(offset, bytes(length))

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        yield offset, length, True

    def allocated_bytes(self) -> int:
        return len(self.now)

    def close(self) -> None:
        """Nothing to do."""

    def after_power_cut(self) -> bytes:
        """What is on the disk when the power is back."""
        sectors: dict[int, list[tuple[int, bytes]]] = {}
        for offset, data in self.pending:
            sectors.setdefault(offset // SECTOR, []).append((offset, data))
        for writes in sectors.values():
            # Of the writes to one sector the first few are there, or all, or none.
            self._apply(writes[: self._random.randint(0, len(writes))])
        return bytes(self.safe)
