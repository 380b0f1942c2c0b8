"""Locks that keep two programs from using one image at once, as QEMU takes them.

QEMU locks single bytes of the image file by open file description (fcntl(2), "Open file
description locks"), one byte for each permission that it uses (from 100) and one for each that it
refuses to others (from 200): its `block/file-posix.c`, "raw_apply_lock_bytes". All of them are
read locks; whether somebody else holds one is asked with a test for a write lock. So Tandemu and
QEMU keep each other, and themselves, from an image that is in use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from tandemu.host.disk.errors import DiskError

_CONSISTENT_READ, _WRITE, _RESIZE = 0, 1, 3
_USED, _REFUSED = 100, 200
_FLOCK = struct.Struct("hhxxxxqqixxxx")
"""struct flock: type, whence, start, length, process."""
# File systems without such locks: images there are used without, as QEMU uses them.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


def _request(kind: int, start: int, length: int = 1) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


def _is_held(fd: int, byte: int) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, byte))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def lock_image(fd: int, path: str, *, writing: bool) -> None:
    """Take the locks of a reader or a writer on the open file *fd*, which hold until it is closed.

    A reader allows other readers; a writer allows nobody else. `DiskError` if the image is in
    use in a way that goes not together with that.
    """
    used = (_CONSISTENT_READ, _WRITE, _RESIZE) if writing else (_CONSISTENT_READ,)
    refused = (_WRITE, _RESIZE)
    taken = [_USED + one for one in used] + [_REFUSED + one for one in refused]
    against = [_REFUSED + one for one in used] + [_USED + one for one in refused]
    try:
        for byte in taken:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(fcntl.F_RDLCK, byte))
        # Only others' locks are reported. Of two that begin at once both may give up.
        in_use = any(_is_held(fd, byte) for byte in against)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        in_use = True
    if in_use:
        unlock_image(fd)
        how = "another program uses it" if writing else "another program writes to it"
        raise DiskError(
            f"{path} is locked: {how}. Two at once would destroy it: end the other, or give "
            "each an overlay of its own ('tandemu disk create --backing')",
            errno.EBUSY,
        )


def unlock_image(fd: int) -> None:
    """Let go of what `lock_image` took."""
    span = _REFUSED + 64 - _USED
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, _USED, span))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
