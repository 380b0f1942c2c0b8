"""The block device: Virtio 1.2, section 5.2, over a disk image.

Flush, discard, write zeroes, read-only disks, an identity, topology, several queues. A request
becomes one call of the image on the guest's own buffers.

Left out: zoned devices, secure erase, lifetime (those features are not offered).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from tandemu.device.registers import DeviceError, state
from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtqueue.layout import Status as QueueStatus
from tandemu.device.virtqueue.queue import Chain, QueueFault, copy_in, copy_out, split_at

SECTOR_BYTES = 512
IDENTITY_BYTES = 20
MOST_QUEUES = 16
QUEUE_SIZE = 256
_MOST_SEGMENTS = QUEUE_SIZE - 2

_SEGMENT_MAXIMUM, _READ_ONLY, _BLOCK_SIZE, _FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
_TOPOLOGY, _WRITE_BACK, _QUEUES, _DISCARD, _WRITE_ZEROES = (
    *(1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14),
)
_HEADER = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QII")
_UNMAP = 1
_MOST_RANGES = 64
_MOST_SECTORS = 1 << 22  # 2 GiB in one range
_CONFIGURATION = struct.Struct("<QIIHBBIBBHIBBHIIIIIB3x")
_WRITE_BACK_OFFSET = 32


class Request(IntEnum):
    """Kinds of requests."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
"""What the last byte of a request says."""

Buffers = Sequence[memoryview]


class Disk(Protocol):
    """What the device asks of an image (`host.disk.Image`): whole sectors; OSError on failure."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    def readv(self, offset: int, buffers: Buffers) -> None: ...

    def writev(self, offset: int, buffers: Buffers) -> None: ...

    def flush(self) -> None: ...

    def discard(self, offset: int, length: int) -> None: ...

    def write_zeroes(self, offset: int, length: int, may_unmap: bool) -> None: ...


class Block(VirtioDevice):
    """A disk with *disk*'s content; *identity* is its serial number, at most 20 bytes.

    *block_bytes* is what the guest takes for a block, a multiple of 512.
    """

    number = 2
    title = "virtio-blk"
    pci_class = 0x01_0000

    disk: Disk
    identity: bytes = b""
    read_only: bool = False
    queue_count: int = 1
    block_bytes: int = SECTOR_BYTES

    write_back: int = state(1, 1)
    """Whether the disk has a cache that the guest flushes."""

    def prepare(self) -> None:
        if len(self.identity) > IDENTITY_BYTES:
            raise DeviceError(f"a disk's serial of {len(self.identity)} bytes: at most 20")
        if not 0 < self.queue_count <= MOST_QUEUES:
            raise DeviceError(f"a disk with {self.queue_count} queues: 1 to {MOST_QUEUES}")
        if self.block_bytes % SECTOR_BYTES or not 0 < self.block_bytes <= 1 << 16:
            raise DeviceError(f"a disk's block of {self.block_bytes} bytes: a multiple of 512")
        self._writable = not (self.read_only or self.disk.read_only)
        self.bytes_read = self.bytes_written = self.errors = 0
        super().prepare()

    def list_queues(self) -> tuple[int, ...]:
        return (QUEUE_SIZE,) * self.queue_count

    def worker_of(self, index: int) -> int:
        return index

    @property
    def features(self) -> int:
        features = _SEGMENT_MAXIMUM | _BLOCK_SIZE | _FLUSH | _TOPOLOGY | _WRITE_BACK
        if self.queue_count > 1:
            features |= _QUEUES
        if self._writable:
            return features | _DISCARD | _WRITE_ZEROES
        return features | _READ_ONLY

    @property
    def sectors(self) -> int:
        """The disk's size."""
        return self.disk.size_bytes // SECTOR_BYTES

    def configuration(self) -> bytes:
        return _CONFIGURATION.pack(
            *(self.sectors, 0, _MOST_SEGMENTS, 0, 0, 0, self.block_bytes),
            # Topology: blocks are physical ones, aligned, no optimal size is known.
            *(0, 0, 1, 0),
            *(self.write_back, 0, self.queue_count),
            *(_MOST_SECTORS, _MOST_RANGES, self.block_bytes // SECTOR_BYTES),
            *(_MOST_SECTORS, _MOST_RANGES, 1),
        )

    def write_configuration(self, offset: int, data: bytes) -> None:
        if offset == _WRITE_BACK_OFFSET and len(data) == 1 and self.has(_WRITE_BACK):
            self.write_back = data[0] & 1

    def statistics_of_requests(self) -> dict[str, int]:
        return {
            **super().statistics_of_requests(),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "errors": self.errors,
        }

    # Requests ----------------------------------------------------------------------------

    def serve(self, index: int, chain: Chain) -> int:
        readable, writable = chain.readable, chain.writable
        size = chain.writable_bytes
        if chain.readable_bytes < _HEADER.size or size < 1:
            raise QueueFault(QueueStatus.BAD_BUFFER)
        first = readable[0]
        if len(first) == _HEADER.size:
            kind, _, sector = _HEADER.unpack_from(first)
            data = readable[1:]
        else:
            kind, _, sector = _HEADER.unpack(copy_in(readable, _HEADER.size))
            data = split_at(readable, _HEADER.size)[1]
        last = writable[-1]
        if len(last) == 1:
            target = writable[:-1]
        else:
            target = [*writable[:-1], last[:-1]]
            last = last[-1:]
        try:
            status = self._carry_out(kind, sector, data, target, chain)
        except OSError as error:
            self.errors += 1
            status = UNSUPPORTED if error.errno == errno.EOPNOTSUPP else IO_ERROR
        last[0] = status
        # The status is the last byte of all: what lies before it counts as written.
        return size

    def _carry_out(
        self, kind: int, sector: int, data: list[memoryview], target: Buffers, chain: Chain
    ) -> int:
        """Carry out a request that wants *target* filled, or has *data*; its status."""
        if kind == Request.IN:
            length = chain.writable_bytes - 1
            if not self._within(sector, length):
                return IO_ERROR
            self.disk.readv(sector * SECTOR_BYTES, target)
            self.bytes_read += length
            return OK
        if kind == Request.OUT:
            length = chain.readable_bytes - _HEADER.size
            if not self._writable or not self._within(sector, length):
                return IO_ERROR
            self.disk.writev(sector * SECTOR_BYTES, data)
            self.bytes_written += length
            if not self.write_back or not self.has(_FLUSH):
                self.disk.flush()
            return OK
        if kind == Request.FLUSH:
            self.disk.flush()
            return OK
        if kind == Request.GET_ID:
            copy_out(self.identity.ljust(IDENTITY_BYTES, b"\0"), target)
            return OK
        if kind in (Request.DISCARD, Request.WRITE_ZEROES):
            return self._erase(kind, copy_in(data, _MOST_RANGES * _RANGE.size + 1))
        return UNSUPPORTED

    def _within(self, sector: int, length: int) -> bool:
        count, rest = divmod(length, SECTOR_BYTES)
        return rest == 0 and sector + count <= self.sectors

    def _erase(self, kind: int, ranges: bytes) -> int:
        """Discard ranges, or fill them with zeroes; all are checked before the first."""
        if not self._writable:
            return IO_ERROR
        if not ranges or len(ranges) % _RANGE.size or len(ranges) > _MOST_RANGES * _RANGE.size:
            return UNSUPPORTED
        for sector, count, flags in _RANGE.iter_unpack(ranges):
            if flags & ~_UNMAP or (kind == Request.DISCARD and flags):
                return UNSUPPORTED
            if count > _MOST_SECTORS or sector + count > self.sectors:
                return IO_ERROR
        for sector, count, flags in _RANGE.iter_unpack(ranges):
            if not count:
                continue
            offset, length = sector * SECTOR_BYTES, count * SECTOR_BYTES
            if kind == Request.DISCARD:
                self.disk.discard(offset, length)
            else:
                self.disk.write_zeroes(offset, length, bool(flags & _UNMAP))
        if not self.write_back or not self.has(_FLUSH):
            self.disk.flush()
        return OK
