"""The one exception of disk images: an `OSError`, so that a device needs to know no other."""

from __future__ import annotations

import errno


class DiskError(OSError):
    """An image cannot be opened, read, written or made; the message says why and how to mend it.

    `errno` says the same to a device: EIO for a broken image, ENOSPC for a full one, EROFS for
    one that is not written to, EINVAL for a request outside it.
    """

    def __init__(self, message: str, code: int = errno.EIO) -> None:
        super().__init__(message)
        self.errno = code


class DiskUsageError(DiskError):
    """What was asked for cannot be done with such an image at all."""

    is_usage = True
    """The command line ends with the status of a wrong option."""

    def __init__(self, message: str) -> None:
        super().__init__(message, errno.EINVAL)
