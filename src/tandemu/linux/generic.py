"""Structures of asm-generic, which newer architectures share, from those of an x86-64 host."""

from __future__ import annotations

import struct

from tandemu.linux.architecture import Buffer

# x86-64: dev ino nlink mode uid gid pad rdev size blksize blocks times.
_HOST_STAT = struct.Struct("<QQQIIIIQqqqQQQQQQ24x")
_STAT = struct.Struct("<QQIIIIQQqiiqQQQQQQII")


def generic_stat(host: Buffer) -> bytes:
    """struct stat of asm-generic, from that of x86-64."""
    (
        dev, ino, nlink, mode, uid, gid, _, rdev, size, block_size, blocks,
        atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns,
    ) = _HOST_STAT.unpack_from(host)  # fmt: skip
    return _STAT.pack(
        dev, ino, mode, nlink & 0xFFFFFFFF, uid, gid, rdev, 0, size, block_size, 0, blocks,
        atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns, 0, 0,
    )  # fmt: skip
