"""Raw images: the file's bytes are the disk's. Sparse where the host's file system can."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.image import SECTOR_BYTES, Content, Description, Extent, Image
from tandemu.host.disk.probe import PROBED_BYTES, probe
from tandemu.host.disk.storage import Storage
from tandemu.host.disk.vectors import Buffers, cut, gather


class RawImage(Image):
    """A raw image over *storage*.

    *guarded*: nobody said that it is raw. Then the guest may not write what would make it look
    like another format the next time: such a header can name files of the host's.
    """

    format = "raw"

    def __init__(self, storage: Storage, *, guarded: bool = False) -> None:
        self._storage = storage
        self.path = storage.path
        self.read_only = storage.read_only
        self._guarded = guarded
        self._file_bytes = storage.size()
        # Guests count in sectors. What is missing of the last one reads as zeros.
        self.size_bytes = -(-self._file_bytes // SECTOR_BYTES) * SECTOR_BYTES

    def _readv(self, offset: int, buffers: Buffers, length: int) -> None:
        self._storage.readv(offset, buffers)

    def _writev(self, offset: int, buffers: Buffers, length: int) -> None:
        if self._guarded and offset < PROBED_BYTES:
            self._check_head(offset, cut(buffers, 0, PROBED_BYTES - offset))
        self._storage.writev(offset, buffers)

    def _check_head(self, offset: int, buffers: Buffers) -> None:
        head = bytearray(PROBED_BYTES)
        if self._file_bytes:
            self._storage.readv(0, [memoryview(head)])
        data = gather(buffers)
        head[offset : offset + len(data)] = data
        if (found := probe(bytes(head))) != "raw":
            raise DiskError(
                f"{self.path}: the guest writes the header of a {found} image onto a disk whose "
                "format was guessed to be raw. Next time it would be opened as that. If it is "
                "meant to, say that the format is raw",
                errno.EPERM,
            )

    def _discard(self, offset: int, length: int) -> None:
        self._storage.punch(offset, length)

    def _write_zeroes(self, offset: int, length: int, may_unmap: bool) -> None:
        self._storage.zero(offset, length, may_unmap)

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for begin, size, is_data in self._storage.extents(offset, length):
            content = Content.DATA if is_data else Content.ZERO
            yield Extent(begin, size, content, begin)

    def flush(self) -> None:
        """Return when all that was written before is safe from a loss of power."""
        if not self.read_only:
            self._storage.flush()

    def resize(self, size_bytes: int) -> None:
        """Make it longer, by zeros, or cut it off."""
        if self.read_only:
            raise self._unwritable()
        self._storage.truncate(size_bytes)
        self._file_bytes = self.size_bytes = size_bytes

    def describe(self) -> Description:
        """What there is to say about it."""
        return Description("raw", self.size_bytes, self._storage.allocated_bytes())

    def close(self) -> None:
        """Let the file go."""
        self._storage.close()
