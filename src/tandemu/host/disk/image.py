"""What every disk image offers, whatever its format: sectors read and written, and a map.

Requests may come from several threads at once. Buffers are the guest's own memory: they are
read from and written to without a copy where the format allows it.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from enum import Enum

from tandemu.bits import Record
from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.vectors import Buffers, length_of, zeros

SECTOR_BYTES = 512


class Content(Enum):
    """What a part of an image holds."""

    DATA = "data"
    ZERO = "zero"
    """It reads as zeros, and this image says so."""
    ABSENT = "absent"
    """Nothing in this image: zeros, or what the backing image holds."""


class Extent(Record):
    """*length* bytes from *offset* that hold one kind of *content*.

    *host_offset*: where the data stands in the image's file, if it does as it is. *depth*: how
    many images down the backing chain. *packed*: compressed.
    """

    offset: int
    length: int
    content: Content
    host_offset: int | None = None
    depth: int = 0
    packed: bool = False


class Description(Record):
    """What `tandemu disk info` tells of an image: its *format* and *facts* in their order.

    *host_bytes*: what it takes of the host's disk; *backing*: the image below, as it is named.
    """

    format: str
    size_bytes: int
    host_bytes: int
    backing: str = ""
    backing_format: str = ""
    facts: Mapping[str, object] = {}


class Image(ABC):
    """An open disk image.

    *size_bytes* is what a guest sees. Offsets and lengths are bytes; a device asks for whole
    sectors of 512. Whatever fails is an `OSError`, and what was written since the last
    `flush` may be lost with the host's power, what was written before may not.
    """

    format: str
    path: str
    size_bytes: int
    read_only: bool
    backing: Image | None = None
    """The image below, if there is one."""
    is_local: bool = True
    """Whether its data stand in files of this host, rather than behind a connection."""

    def readv(self, offset: int, buffers: Buffers) -> None:
        """Fill *buffers* with what stands at *offset*."""
        length = length_of(buffers)
        if offset < 0 or offset + length > self.size_bytes:
            raise self._outside(offset, length)
        self._readv(offset, buffers, length)

    def writev(self, offset: int, buffers: Buffers) -> None:
        """Write *buffers* at *offset*. All of it, or an error: then any part may be written."""
        length = length_of(buffers)
        self._check_change(offset, length)
        if length:
            self._writev(offset, buffers, length)

    def discard(self, offset: int, length: int) -> None:
        """The guest needs these bytes no more: what they hold afterwards is not said.

        Space is given back where it is cheap; parts smaller than the format's unit stay.
        """
        self._check_change(offset, length)
        if length:
            self._discard(offset, length)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """Make these bytes zero; *may_unmap*: their space may be given back."""
        self._check_change(offset, length)
        if length:
            self._write_zeroes(offset, length, may_unmap)

    def read(self, offset: int, length: int) -> bytes:
        """The *length* bytes at *offset*, as a copy."""
        data = bytearray(length)
        self.readv(offset, [memoryview(data)])
        return bytes(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write *data* at *offset*."""
        self.writev(offset, [memoryview(data)])

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What stands where in a range, in order and without gaps; neighbours may be alike."""
        if offset < 0 or offset + length > self.size_bytes:
            raise self._outside(offset, length)
        if length:
            yield from self._extents(offset, length)

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was written before is safe from a loss of power."""

    @abstractmethod
    def close(self) -> None:
        """Write what is due and let the file go; again: nothing happens."""

    @abstractmethod
    def describe(self) -> Description:
        """What there is to say about it."""

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _readv(self, offset: int, buffers: Buffers, length: int) -> None: ...

    def _writev(self, offset: int, buffers: Buffers, length: int) -> None:
        raise self._unwritable()

    def _discard(self, offset: int, length: int) -> None:
        # Nothing is given back unless a format can.
        return

    def _write_zeroes(self, offset: int, length: int, may_unmap: bool) -> None:
        for part in zeros(length):
            self._writev(offset, [part], part.nbytes)
            offset += part.nbytes

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, Content.DATA)

    def _check_change(self, offset: int, length: int) -> None:
        if self.read_only:
            raise self._unwritable()
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise self._outside(offset, length)

    def _outside(self, offset: int, length: int) -> DiskError:
        return DiskError(
            f"{self.path}: {length} bytes at {offset} reach outside the image, which has "
            f"{self.size_bytes}",
            errno.EINVAL,
        )

    def _unwritable(self) -> DiskError:
        return DiskError(f"{self.path} is open for reading only", errno.EROFS)
