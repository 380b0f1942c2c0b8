"""Open files and directories."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tandemu.host.share import calls, owners
from tandemu.host.share import protocol as fuse
from tandemu.host.share.inodes import Handle, Inode, check_name, failure
from tandemu.host.share.names import drop_privileges, own
from tandemu.host.share.protocol import Opcode
from tandemu.host.share.request import Answer, Request, operation
from tandemu.host.share.settings import Caching

if TYPE_CHECKING:
    from tandemu.host.share.server import Share

_OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
_ALIGNMENT = 8
_FIRST_NAMES = (b".", b"..")


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size


def _open(share: Share, inode: Inode, flags: int) -> int:
    """Open a file with what of *flags* concerns the host."""
    inode.require(stat.S_IFREG)
    flags = _host_flags(share, flags)
    return os.open(inode.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)


def _host_flags(share: Share, flags: int) -> int:
    flags &= _OPEN_FLAGS
    if flags & os.O_ACCMODE != os.O_RDONLY and share.settings.read_only:
        raise failure(errno.EROFS)
    if share.writes_back:
        # The guest reads to fill pages up, and knows itself where the end is.
        flags &= ~os.O_APPEND
        if flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
    return flags


def _opened(share: Share, inode: Inode, descriptor: int, flags: int) -> bytes:
    """The reply for a file that was opened: whether the guest's cached content is still right."""
    writes = flags & os.O_ACCMODE != os.O_RDONLY
    handle = share.table.add_handle(Handle(descriptor, inode, writes=writes))
    answer = 0
    if share.settings.caching is Caching.NONE:
        answer = fuse.OPEN_DIRECT
    elif share.settings.caching is Caching.ALWAYS:
        answer = fuse.OPEN_KEEP_CACHE
    else:
        now = _state(os.fstat(descriptor))
        if now == inode.seen:
            answer = fuse.OPEN_KEEP_CACHE
        inode.seen = now
    return fuse.OPEN_OUT.pack(handle, answer, 0)


@operation(Opcode.OPEN)
def open_file(share: Share, request: Request) -> Answer:
    inode = share.table.inode(request.node)
    flags, open_flags = request.unpack(fuse.OPEN_IN)
    if flags & os.O_TRUNC and share.settings.read_only:
        raise failure(errno.EROFS)
    descriptor = _open(share, inode, flags)
    if open_flags & fuse.OPEN_KILL_PRIVILEGES:
        drop_privileges(share, inode)
    return _opened(share, inode, descriptor, flags)


@operation(Opcode.CREATE, writes=True)
def create(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    flags, mode, _, _ = request.unpack(fuse.CREATE_IN)
    name = check_name(request.names(fuse.CREATE_IN, 1)[0])
    mode = mode & 0o7777 | stat.S_IFREG
    host = _host_flags(share, flags)
    new = True
    try:
        descriptor = os.open(
            name,
            host | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            owners.host_mode(mode) if share.records else mode,
            dir_fd=parent.descriptor,
        )
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        new = False
        descriptor = -1
    try:
        inode, _ = share.table.look_up(parent, name)
        if new:
            own(share, parent, inode, request, mode)
        else:
            descriptor = _open(share, inode, flags)
    except OSError:
        if descriptor >= 0:
            os.close(descriptor)
        raise
    entry = share.entry(inode, os.fstat(inode.descriptor))
    return entry + _opened(share, inode, descriptor, flags)


@operation(Opcode.READ)
def read(share: Share, request: Request) -> Answer:
    number, offset, size, *_ = request.unpack(fuse.READ_IN)
    handle = share.table.handle(number)
    room = request.room
    if request.room_bytes > size:
        room = _first(room, size)
    if not room:
        return b""
    return os.preadv(handle.descriptor, room, offset)


@operation(Opcode.WRITE, writes=True)
def write(share: Share, request: Request) -> Answer:
    number, offset, size, write_flags, *_ = request.unpack(fuse.WRITE_IN)
    handle = share.table.handle(number)
    data = _first(request.data, size)
    if write_flags & fuse.WRITE_KILL_PRIVILEGES:
        drop_privileges(share, handle.inode)
    if handle.writes:  # once for each that is open is enough
        handle.writes = False
        share.drop_capability(handle.inode)
    written = os.pwritev(handle.descriptor, data, offset) if data else 0
    return fuse.WRITE_OUT.pack(written, 0)


def _first(buffers: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first *size* bytes of *buffers*."""
    taken = []
    for buffer in buffers:
        if size <= 0:
            break
        taken.append(buffer[:size])
        size -= len(buffer)
    return taken


@operation(Opcode.RELEASE)
def release(share: Share, request: Request) -> Answer:
    number, flags, *_ = request.unpack(fuse.RELEASE_IN)
    handle = share.table.handle(number)
    if flags & os.O_ACCMODE != os.O_RDONLY:
        # What the guest has cached of it is what it wrote.
        handle.inode.seen = _state(os.fstat(handle.descriptor))
    share.table.release(number)
    return b""


@operation(Opcode.FSYNC)
def synchronise(share: Share, request: Request) -> Answer:
    number, flags, _ = request.unpack(fuse.FSYNC_IN)
    handle = share.table.handle(number)
    (os.fdatasync if flags & fuse.FSYNC_DATA_ONLY else os.fsync)(handle.descriptor)
    return b""


@operation(Opcode.SYNCFS)
def synchronise_all(share: Share, request: Request) -> Answer:
    descriptor = os.open(share.table.root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        calls.syncfs(descriptor)
    finally:
        os.close(descriptor)
    return b""


@operation(Opcode.FALLOCATE, writes=True)
def allocate(share: Share, request: Request) -> Answer:
    number, offset, length, mode, _ = request.unpack(fuse.FALLOCATE_IN)
    if max(offset, length) >> 63:
        raise failure(errno.EINVAL)
    calls.fallocate(share.table.handle(number).descriptor, mode, offset, length)
    return b""


@operation(Opcode.LSEEK)
def seek(share: Share, request: Request) -> Answer:
    number, offset, whence, _ = request.unpack(fuse.LSEEK_IN)
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE) or offset >> 63:
        raise failure(errno.EINVAL)
    found = os.lseek(share.table.handle(number).descriptor, offset, whence)
    return fuse.LSEEK_OUT.pack(found)


@operation(Opcode.COPY_FILE_RANGE, writes=True)
def copy_range(share: Share, request: Request) -> Answer:
    source, source_at, _, target, target_at, length, flags = request.unpack(fuse.COPY_IN)
    if flags or max(source_at, target_at, length) >> 63:
        raise failure(errno.EINVAL)
    copied = os.copy_file_range(
        share.table.handle(source).descriptor,
        share.table.handle(target).descriptor,
        min(length, 1 << 30),
        source_at,
        target_at,
    )
    return fuse.WRITE_OUT.pack(copied, 0)


# Directories --------------------------------------------------------------------------------


@operation(Opcode.OPENDIR)
def open_directory(share: Share, request: Request) -> Answer:
    inode = share.table.directory(request.node)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    handle = Handle(os.open(inode.path, flags), inode)
    answer = 0
    if share.settings.caching is Caching.ALWAYS:
        answer = fuse.OPEN_KEEP_CACHE | fuse.OPEN_CACHE_DIRECTORY
    return fuse.OPEN_OUT.pack(share.table.add_handle(handle), answer, 0)


def _listing(share: Share, handle: Handle, offset: int) -> list[tuple[bytes, int, int]]:
    """The names of a directory, read when the guest begins at its start."""
    if offset == 0 or not handle.listing:
        own_number = handle.inode.key[1]
        found = [(name, own_number, stat.S_IFDIR) for name in _FIRST_NAMES]
        with os.scandir(handle.descriptor) as entries:
            for entry in entries:
                kind = 0
                if entry.is_symlink():
                    kind = stat.S_IFLNK
                elif entry.is_dir(follow_symlinks=False):
                    kind = stat.S_IFDIR
                elif entry.is_file(follow_symlinks=False) and not share.records:
                    kind = stat.S_IFREG
                found.append((os.fsencode(entry.name), entry.inode(), kind))
        handle.listing = found
    return handle.listing


def _read_directory(share: Share, request: Request, *, plus: bool) -> bytes:
    number, offset, size, *_ = request.unpack(fuse.READ_IN)
    handle = share.table.handle(number)
    if handle.inode.kind != stat.S_IFDIR:
        raise failure(errno.ENOTDIR)
    limit = min(size, request.room_bytes)
    listing = _listing(share, handle, offset)
    answer = bytearray()
    head = share.entry_bytes if plus else 0
    for index in range(min(offset, len(listing)), len(listing)):
        name, inode_number, kind = listing[index]
        length = fuse.DIRECTORY_ENTRY.size + len(name)
        padded = length + -length % _ALIGNMENT
        if len(answer) + head + padded > limit:
            break
        if plus:
            answer += _entry_of(share, handle.inode, name)
        answer += fuse.DIRECTORY_ENTRY.pack(inode_number, index + 1, len(name), kind >> 12)
        answer += name.ljust(padded - fuse.DIRECTORY_ENTRY.size, b"\0")
    return bytes(answer)


def _entry_of(share: Share, parent: Inode, name: bytes) -> bytes:
    """What LOOKUP would answer; nothing for a name that is gone, and for the first two."""
    if name not in _FIRST_NAMES:
        try:
            return share.entry(*share.table.look_up(parent, name))
        except OSError:
            pass
    return bytes(share.entry_bytes)


@operation(Opcode.READDIR)
def read_directory(share: Share, request: Request) -> Answer:
    return _read_directory(share, request, plus=False)


@operation(Opcode.READDIRPLUS)
def read_directory_plus(share: Share, request: Request) -> Answer:
    return _read_directory(share, request, plus=True)


@operation(Opcode.RELEASEDIR)
def release_directory(share: Share, request: Request) -> Answer:
    share.table.release(request.unpack(fuse.RELEASE_IN)[0])
    return b""


@operation(Opcode.FSYNCDIR)
def synchronise_directory(share: Share, request: Request) -> Answer:
    os.fsync(share.table.handle(request.unpack(fuse.FSYNC_IN)[0]).descriptor)
    return b""
