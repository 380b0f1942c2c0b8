"""The FUSE protocol: numbers and structures of Linux's ``include/uapi/linux/fuse.h``, 7.38.

All of it is little-endian here: guests of the same byte order as the host.
"""

from __future__ import annotations

import struct
from enum import IntEnum

MAJOR, MINOR, OLDEST_MINOR = 7, 38, 31
ROOT = 1
IN_HEADER = struct.Struct("<IIQQIIIHH")
"""length, opcode, unique, nodeid, uid, gid, pid, length of extensions, padding"""
OUT_HEADER = struct.Struct("<IiQ")


class Opcode(IntEnum):
    """What is asked."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50


WITHOUT_REPLY = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})

# Features of INIT.
ASYNC_READ, ATOMIC_TRUNCATE, BIG_WRITES, DONT_MASK = 1 << 0, 1 << 3, 1 << 5, 1 << 6
AUTO_INVALIDATE, READDIRPLUS, READDIRPLUS_AUTO = 1 << 12, 1 << 13, 1 << 14
ASYNC_DIRECT, WRITEBACK_CACHE, PARALLEL_DIRECTORIES = 1 << 15, 1 << 16, 1 << 18
MAX_PAGES, CACHE_SYMLINKS, HANDLE_KILL_PRIVILEGES = 1 << 22, 1 << 23, 1 << 28
INIT_IN = struct.Struct("<IIII")
INIT_OUT = struct.Struct("<IIIIHHIIHHIIII16x")

ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize,
flags"""
ENTRY_OUT = struct.Struct("<QQQQII")
"""nodeid, generation, seconds that entry and attributes are valid, their nanoseconds"""
ATTR_OUT = struct.Struct("<QII")
GETATTR_IN = struct.Struct("<IIQ")
SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
MKNOD_IN = struct.Struct("<IIII")
MKDIR_IN = struct.Struct("<II")
RENAME_IN, RENAME2_IN = struct.Struct("<Q"), struct.Struct("<QII")
LINK_IN = struct.Struct("<Q")
OPEN_IN, OPEN_OUT = struct.Struct("<II"), struct.Struct("<QII")
CREATE_IN = struct.Struct("<IIII")
RELEASE_IN = struct.Struct("<QIIQ")
FLUSH_IN = struct.Struct("<QIIQ")
READ_IN = struct.Struct("<QQIIQII")
WRITE_IN, WRITE_OUT = struct.Struct("<QQIIQII"), struct.Struct("<II")
STATFS_OUT = struct.Struct("<QQQQQIIII24x")
FSYNC_IN = struct.Struct("<QII")
SETXATTR_IN = struct.Struct("<II")
GETXATTR_IN, GETXATTR_OUT = struct.Struct("<II"), struct.Struct("<II")
FALLOCATE_IN = struct.Struct("<QQQII")
LSEEK_IN, LSEEK_OUT = struct.Struct("<QQII"), struct.Struct("<Q")
COPY_IN = struct.Struct("<QQQQQQQ")
FORGET_IN, BATCH_FORGET_IN, FORGET_ONE = (
    *(struct.Struct("<Q"), struct.Struct("<II"), struct.Struct("<QQ")),
)
DIRECTORY_ENTRY = struct.Struct("<QQII")
"""ino, offset of the next, length of the name, type; the name follows, filled up to 8 bytes"""

GETATTR_HANDLE = 1
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME = 1, 2, 4, 8, 16, 32
SET_HANDLE, SET_ATIME_NOW, SET_MTIME_NOW = 64, 128, 256
SET_KILL_PRIVILEGES, OPEN_KILL_PRIVILEGES, WRITE_KILL_PRIVILEGES = 1 << 11, 1, 1 << 2
OPEN_DIRECT, OPEN_KEEP_CACHE, OPEN_CACHE_DIRECTORY = 1 << 0, 1 << 1, 1 << 3
FSYNC_DATA_ONLY = 1
