"""The file below an image: vectored reads and writes at offsets, holes, and safety from power loss.

What a format is written over is the protocol `Storage`; `HostFile` is the one there is, and
tests put a disk that loses its power in its place.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Protocol

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.locks import lock_image
from tandemu.host.disk.vectors import Buffers, cut, fill_zeros, length_of, zeros

_MAX_VECTORS = 1024
"""What preadv(2) takes at once (UIO_MAXIOV)."""
_Call = Callable[[int, Buffers, int], int]
"""`os.preadv` or `os.pwritev`: descriptor, buffers, offset; how many bytes were moved."""
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
"""Modes of fallocate(2)."""
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


class Storage(Protocol):
    """Bytes below an image. Reads beyond the end give zeros, writes beyond it make it longer."""

    path: str
    read_only: bool
    is_regular: bool
    """Whether it can grow, and what was never written reads as zeros."""

    def size(self) -> int:
        """How many bytes it has now."""

    def readv(self, offset: int, buffers: Buffers) -> None:
        """Fill *buffers* from *offset*."""

    def writev(self, offset: int, buffers: Buffers) -> None:
        """Write *buffers* at *offset*."""

    def flush(self) -> None:
        """Return when all that was written is safe."""

    def truncate(self, size: int) -> None:
        """Make it *size* bytes long."""

    def extend(self, size: int) -> None:
        """Make it at least *size* bytes long beside others who write; or leave it as it is."""

    def punch(self, offset: int, length: int) -> None:
        """Give the space of a range back, which then reads as zeros; or leave it as it is."""

    def zero(self, offset: int, length: int, may_unmap: bool) -> None:
        """Make a range zero; *may_unmap*: its space may be given back."""

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, is_data) of a range, in order; what is not data reads as zeros."""

    def allocated_bytes(self) -> int:
        """How much of the host's disk it takes."""

    def close(self) -> None:
        """Let it go."""


def read_at(storage: Storage, offset: int, length: int) -> bytes:
    """*length* bytes at *offset*, as a copy."""
    data = bytearray(length)
    storage.readv(offset, [memoryview(data)])
    return bytes(data)


def write_at(storage: Storage, offset: int, data: bytes | bytearray | memoryview) -> None:
    """Write *data* at *offset*."""
    storage.writev(offset, [memoryview(data)])


class HostFile:
    """A regular file or block device of the host, locked while it is open.

    *share*: without locks, for a look at an image that is in use. *create*: a new, empty file,
    which must not exist unless *replace*.
    """

    def __init__(
        self,
        path: str,
        *,
        read_only: bool = False,
        share: bool = False,
        create: bool = False,
        replace: bool = False,
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._fd = -1
        # Not to wait for the other end of a pipe that a file's name leads to.
        flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        flags |= os.O_RDONLY if read_only else os.O_RDWR
        if create:
            flags |= os.O_CREAT | (0 if replace else os.O_EXCL)
        try:
            # Opening alone may do something to a device: it is looked at before, and after again.
            if os.path.exists(path):
                _check_kind(path, os.stat(path).st_mode)
            fd = os.open(path, flags, 0o644)
        except FileExistsError:
            raise DiskError(
                f"{path} exists already: name another file, or replace it with --force",
                errno.EEXIST,
            ) from None
        except DiskError:
            raise
        except (OSError, ValueError) as error:
            raise _refused(path, "open", error) from error
        try:
            kind = os.fstat(fd).st_mode
            _check_kind(path, kind)
            os.set_blocking(fd, True)
            self.is_regular = stat.S_ISREG(kind)
            if not share:
                lock_image(fd, path, writing=not read_only)
            if create and replace and self.is_regular:
                os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def identity(self) -> tuple[int, int]:
        """What tells this file from every other: device and inode."""
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def size(self) -> int:
        """How many bytes it has now."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    def readv(self, offset: int, buffers: Buffers) -> None:
        """Fill *buffers* from *offset*; what is beyond the end of the file is zero."""
        try:
            fill_zeros(self._move(os.preadv, offset, buffers))
        except OSError as error:
            raise _refused(self.path, f"read at {offset}", error) from error

    def writev(self, offset: int, buffers: Buffers) -> None:
        """Write *buffers* at *offset*."""
        try:
            if self._move(os.pwritev, offset, buffers):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _refused(self.path, f"write at {offset}", error) from error

    def _move(self, call: _Call, offset: int, buffers: Buffers) -> Buffers:
        """Have *call* move all of *buffers*; what is left of them once it moves nothing more."""
        wanted = length_of(buffers)
        done = call(self._fd, buffers, offset) if len(buffers) <= _MAX_VECTORS else 0
        while done < wanted:
            rest = cut(buffers, done, wanted - done)
            count = call(self._fd, rest[:_MAX_VECTORS], offset + done)
            if not count:
                return rest
            done += count
        return ()

    def flush(self) -> None:
        """Return when all that was written is safe."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise _refused(self.path, "flush", error) from error

    def truncate(self, size: int) -> None:
        """Make it *size* bytes long. A block device keeps its size, which must be enough."""
        if not self.is_regular:
            if size > self.size():
                raise DiskError(
                    f"{self.path} is a device of {self.size()} bytes: {size} do not fit",
                    errno.ENOSPC,
                )
            return
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise _refused(self.path, f"make {size} bytes long", error) from error

    def extend(self, size: int) -> None:
        """Make it at least *size* bytes long, where the file system can.

        By ftruncate it could lose what another thread writes behind *size* meanwhile.
        """
        if self.is_regular and self.size() < size:
            self._allocate(0, size - 1, 1)

    def punch(self, offset: int, length: int) -> None:
        """Give the space of a range back, where the file system can."""
        if length > 0:
            self._allocate(_PUNCH_HOLE | _KEEP_SIZE, offset, length)

    def zero(self, offset: int, length: int, may_unmap: bool) -> None:
        """Make a range zero, by the file system where it can, else by writing."""
        mode = (_PUNCH_HOLE if may_unmap else _ZERO_RANGE) | _KEEP_SIZE
        if length <= 0 or self._allocate(mode, offset, length):
            return
        self._write_zeros(offset, length)

    def reserve(self, offset: int, length: int) -> None:
        """Take the space of a range from the host's disk now; `DiskError` if there is none."""
        if length > 0 and not self._allocate(0, offset, length):
            self._write_zeros(offset, length)

    def fill_holes(self) -> None:
        """Write zeros wherever nothing was ever written."""
        for offset, length, is_data in list(self.extents(0, self.size())):
            if not is_data:
                self._write_zeros(offset, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        for part in zeros(length):
            self.writev(offset, [part])
            offset += part.nbytes

    def _allocate(self, mode: int, offset: int, length: int) -> bool:
        """Call fallocate(2); whether it is supported here."""
        while _fallocate(self._fd, mode, offset, length):
            code = ctypes.get_errno()
            if code in _UNSUPPORTED:
                return False
            if code != errno.EINTR:
                error = OSError(code, os.strerror(code))
                raise _refused(self.path, f"allocate at {offset}", error) from error
        return True

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, is_data) of a range, in order."""
        end = offset + length
        while offset < end:
            try:
                data = min(os.lseek(self._fd, offset, os.SEEK_DATA), end)
            except OSError as error:
                # ENXIO: no data from here to the end; else: this file system cannot tell.
                data = end if error.errno == errno.ENXIO else offset
            if data > offset:
                yield offset, data - offset, False
                offset = data
                continue
            try:
                hole = min(os.lseek(self._fd, offset, os.SEEK_HOLE), end)
            except OSError:
                hole = end
            if hole <= offset:  # cut short meanwhile
                hole = end
            yield offset, hole - offset, True
            offset = hole

    def allocated_bytes(self) -> int:
        """How much of the host's disk it takes."""
        status = os.fstat(self._fd)
        return status.st_blocks * 512 if self.is_regular else self.size()

    def close(self) -> None:
        """Close the file, and with it its locks; again: nothing happens."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _check_kind(path: str, mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        what = "a folder" if stat.S_ISDIR(mode) else "no file that holds data"
        raise DiskError(
            f"{path} is {what}: an image must be a regular file or a block device", errno.EINVAL
        )


def _refused(path: str, what: str, error: OSError | ValueError) -> DiskError:
    why = getattr(error, "strerror", None) or str(error)
    return DiskError(f"{path}: cannot {what}: {why}", getattr(error, "errno", None) or errno.EIO)
