"""Copying one image's contents into another: what is zeros stays a hole.

Writing is done in order by the caller's thread, so that the new file is laid out as the disk is.
Where there is something to wait for or to compress, workers read ahead of it; for plain files
the kernel does that, and a hand-over between threads would cost more than it saves.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tandemu.host.disk.image import Content, Image
from tandemu.host.disk.vectors import is_zero, zeros

CHUNK_BYTES = 512 << 10
_ZERO_UNIT = 4096
_WORKERS = 4
"""As many on few processors too: most of them wait."""
_AHEAD = 8
"""Chunks that are read ahead of the one being written."""

Advance = Callable[[int, int], None]
"""Told (bytes done, bytes in all) now and then."""
Pack = Callable[[memoryview], bytes | None]
"""Compresses a cluster; None if it is not worth it."""
WritePacked = Callable[[int, bytes], None]
"""Puts a compressed cluster at a guest offset."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How a target takes compressed clusters of *unit* bytes."""

    unit: int
    pack: Pack
    write: WritePacked


class _Buffer:
    """Memory that one chunk at a time is read into, and its address."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.view = memoryview(self.data)
        self.words = self.view.cast("Q")
        self.address = ctypes.addressof((ctypes.c_char * size).from_buffer(self.data))

    def pieces(self, begin: int, end: int, unit: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, is_zero) of the bytes from *begin* to *end*, in order, by *unit*."""
        firsts = self.words[begin // 8 : -(-end // 8) : unit // 8].tolist()
        if all(firsts):
            yield begin, end - begin, False
            return
        since, state = begin, False
        for number, first in enumerate(firsts):
            offset = begin + number * unit
            zero = not first and is_zero(self.address + offset, min(unit, end - offset))
            if number and zero != state:
                yield since, offset - since, state
                since = offset
            state = zero
        yield since, end - since, state


def _pack_units(packing: Packing, buffer: _Buffer, length: int) -> Iterator[bytes | None]:
    """Each unit of the first *length* bytes packed; None where it is zeros or gets no shorter."""
    for begin in range(0, length, packing.unit):
        part = min(packing.unit, length - begin)
        if is_zero(buffer.address + begin, part):
            yield None
            continue
        if part < packing.unit:
            buffer.view[length : begin + packing.unit] = bytes(packing.unit - part)
        yield packing.pack(buffer.view[begin : begin + packing.unit])


def data_chunks(source: Image, size: int, unit: int) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, is_zero) of *source* up to *size*, in pieces of at most *unit*, aligned."""
    for extent in source.extents(0, size):
        offset, end = extent.offset, extent.offset + extent.length
        if extent.content is not Content.DATA:
            yield offset, end - offset, True
            continue
        while offset < end:
            stop = min(end, (offset // unit + 1) * unit)
            yield offset, stop - offset, False
            offset = stop


def copy(
    source: Image,
    target: Image,
    advance: Advance,
    *,
    is_empty: bool,
    unit: int = _ZERO_UNIT,
    packing: Packing | None = None,
) -> None:
    """Write all of *source* into *target*, which is as large at least, and flush it.

    *is_empty*: the target reads as zeros, so zeros need not be written. *unit*: zeros of that
    size, or more, are left out. *packing*: compress, where it gets shorter.
    """
    size = source.size_bytes
    chunk = max(CHUNK_BYTES, unit)
    step = chunk if packing is None else packing.unit * max(1, CHUNK_BYTES // packing.unit)
    pool = None
    if packing is not None or not (source.is_local and target.is_local):
        pool = ThreadPoolExecutor(_WORKERS, "disk-copy")
    free = deque(_Buffer(step) for _ in range(1 if pool is None else _AHEAD))
    waiting: deque[tuple[int, int, _Buffer, Future[list[bytes | None]]]] = deque()

    def read(offset: int, length: int, buffer: _Buffer) -> list[bytes | None]:
        source.readv(offset, [buffer.view[:length]])
        return [] if packing is None else list(_pack_units(packing, buffer, length))

    def write_plain(offset: int, buffer: _Buffer, begin: int, end: int) -> None:
        for at, part, zero in buffer.pieces(begin, end, unit):
            if not zero:
                target.writev(offset + at, [buffer.view[at : at + part]])
            elif not is_empty:
                target.write_zeroes(offset + at, part)

    def write_first() -> None:
        offset, length, buffer, reading = waiting.popleft()
        units = reading.result()
        if packing is None:
            write_plain(offset, buffer, 0, length)
        else:
            for number, packed in enumerate(units):
                begin = number * packing.unit
                if packed is not None:
                    packing.write(offset + begin, packed)
                else:
                    write_plain(offset, buffer, begin, min(begin + packing.unit, length))
        free.append(buffer)
        advance(offset + length, size)

    try:
        chunks = data_chunks(source, size, step)
        if packing is not None:
            chunks = _whole(chunks, step, size)
            if not is_empty:
                target.write_zeroes(0, size)
        for offset, length, zero in chunks:
            if zero:
                if not is_empty:
                    while waiting:
                        write_first()
                    target.write_zeroes(offset, length)
                continue
            if not free:
                write_first()
            buffer = free.popleft()
            if pool is None:
                reading: Future[list[bytes | None]] = Future()
                reading.set_result(read(offset, length, buffer))
            else:
                reading = pool.submit(read, offset, length, buffer)
            waiting.append((offset, length, buffer, reading))
        while waiting:
            write_first()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    advance(size, size)
    target.flush()


def _whole(
    chunks: Iterator[tuple[int, int, bool]], unit: int, size: int
) -> Iterator[tuple[int, int, bool]]:
    """Only whole units, each once, of which some part is data; the last may be short."""
    last = -1
    for offset, length, zero in chunks:
        if zero:
            continue
        for number in range(offset // unit, (offset + length - 1) // unit + 1):
            if number > last:
                last = number
                yield number * unit, min(unit, size - number * unit), False


def same_contents(one: Image, other: Image, offset: int, length: int) -> bool:
    """Whether two images hold the same in a range of a few MiB; beyond an end are zeros."""
    return _padded(one, offset, length) == _padded(other, offset, length)


def _padded(image: Image, offset: int, length: int) -> bytes:
    there = min(max(image.size_bytes - offset, 0), length)
    data = image.read(offset, there) if there else b""
    return data + b"".join(zeros(length - there))
