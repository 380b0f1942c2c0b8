"""The FUSE server of one folder: requests taken apart, carried out, answered.

The guest checks permissions itself, by the attributes it is told (``default_permissions``, as
virtio-fs mounts have it); what it may not leave is the folder (`inodes`).

Left out: locks across guests (each guest's own work, in its kernel), POSIX access control lists,
device nodes where owners are the host's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from typing import Protocol

from tandemu.host.share import attributes, files, names, owners
from tandemu.host.share import protocol as fuse
from tandemu.host.share.inodes import Inode, Table, failure
from tandemu.host.share.owners import Owner
from tandemu.host.share.protocol import IN_HEADER, OUT_HEADER, WITHOUT_REPLY, Opcode
from tandemu.host.share.request import OPERATIONS, WRITING, Answer, Request, operation
from tandemu.host.share.settings import Caching, ShareError, ShareSettings

__all__ = ["FileServer", "Share", "attributes", "files", "names"]

_LARGEST_WRITE = 1 << 20
_PAGE_BYTES = 4096
_LONGEST_BODY = 1 << 17
_SECOND, _FOR_EVER = 1, 1 << 31
_WORD, _WORD64 = (1 << 32) - 1, (1 << 64) - 1
_OFFERED = (
    fuse.ASYNC_READ
    | fuse.ATOMIC_TRUNCATE
    | fuse.BIG_WRITES
    | fuse.AUTO_INVALIDATE
    | fuse.READDIRPLUS
    | fuse.READDIRPLUS_AUTO
    | fuse.ASYNC_DIRECT
    | fuse.PARALLEL_DIRECTORIES
    | fuse.MAX_PAGES
    | fuse.HANDLE_KILL_PRIVILEGES
)

Buffers = Sequence[memoryview]


class FileServer(Protocol):
    """What the virtio-fs device asks of a file server."""

    def handle(self, readable: Buffers, writable: Buffers) -> int:
        """Carry out the request in *readable*; how many bytes of *writable* are the reply."""

    def restart(self) -> None:
        """The guest is gone: forget what it knew."""


class Share:
    """A folder being served; any thread may bring a request. `ShareError` if it cannot be."""

    def __init__(self, settings: ShareSettings) -> None:
        self.settings = settings
        try:
            self.table = Table(settings.path)
        except OSError as error:
            raise ShareError(
                f"{settings.path} cannot be shared: {error.strerror}. It must be a folder"
            ) from error
        self.records = settings.record_owners
        self.may_chown = os.geteuid() == 0
        if self.records and not settings.read_only:
            self._check_attributes()
        validity = {Caching.NONE: 0, Caching.AUTO: _SECOND, Caching.ALWAYS: _FOR_EVER}
        self._valid_s = validity[settings.caching]
        self.writes_back = False
        self._initialised = False
        self.entry_bytes = fuse.ENTRY_OUT.size + fuse.ATTRIBUTES.size
        self.requests = 0

    def _check_attributes(self) -> None:
        root = self.table.root.path
        try:
            os.setxattr(root, "user.tandemu.probe", b"")
            os.removexattr(root, "user.tandemu.probe")
        except OSError as error:
            self.table.close()
            raise ShareError(
                f"{self.settings.path}: its file system keeps no extended attributes "
                f"({error.strerror}), in which the guest's owners would be recorded. Share it "
                "read-only, or use a folder on ext4, XFS or Btrfs"
            ) from error

    # Requests ----------------------------------------------------------------------------

    def handle(self, readable: Buffers, writable: Buffers) -> int:
        """Carry out a request; how many bytes of *writable* are its reply. 0: there is none."""
        head, data = _cut(readable, IN_HEADER.size)
        if len(head) < IN_HEADER.size:
            return 0
        _, number, unique, node, uid, gid, _, _, _ = IN_HEADER.unpack(head)
        try:
            opcode = Opcode(number)
        except ValueError:
            return _reply(writable, unique, errno.ENOSYS, b"")
        self.requests += 1
        try:
            if opcode is Opcode.WRITE:
                body, data = _cut(data, fuse.WRITE_IN.size)
            else:
                body, data = _cut(data, _LONGEST_BODY)
            room = _cut(writable, OUT_HEADER.size)[1]
            answer = self._carry_out(opcode, Request(node, uid, gid, body, data, room))
            error = 0
        except OSError as problem:
            error, answer = problem.errno or errno.EIO, b""
        except (ValueError, OverflowError):  # numbers and names no system call takes
            error, answer = errno.EINVAL, b""
        if opcode in WITHOUT_REPLY:
            return 0
        return _reply(writable, unique, error, answer)

    def _carry_out(self, opcode: Opcode, request: Request) -> Answer:
        function = OPERATIONS.get(opcode)
        if function is None:
            raise failure(errno.ENOSYS)
        if not self._initialised and opcode is not Opcode.INIT:
            raise failure(errno.EIO)
        if opcode in WRITING and self.settings.read_only:
            raise failure(errno.EROFS)
        return function(self, request)

    def initialise(self, request: Request) -> bytes:
        """INIT: agree on a version and on features."""
        major, minor, readahead, wanted = request.unpack(fuse.INIT_IN)
        if major != fuse.MAJOR:
            # A newer guest asks again in our version; an older one cannot be served.
            if major > fuse.MAJOR:
                return fuse.INIT_OUT.pack(fuse.MAJOR, fuse.MINOR, *[0] * 12)
            raise failure(errno.EPROTO)
        if minor < fuse.OLDEST_MINOR:
            raise failure(errno.EPROTO)
        self.table.forget_all()
        offered = _OFFERED
        if self.settings.caching is Caching.ALWAYS:
            offered |= fuse.CACHE_SYMLINKS
            if not self.settings.read_only:
                offered |= fuse.WRITEBACK_CACHE
        agreed = wanted & offered
        self.writes_back = bool(agreed & fuse.WRITEBACK_CACHE)
        self._initialised = True
        pages = _LARGEST_WRITE // _PAGE_BYTES
        return fuse.INIT_OUT.pack(
            *(fuse.MAJOR, min(minor, fuse.MINOR), readahead, agreed, 64, 48),
            *(_LARGEST_WRITE, 1, pages, 0, 0, 0, 0, 0),
        )

    def restart(self) -> None:
        """The guest is gone: forget what it knew."""
        self._initialised = False
        self.table.forget_all()

    def close(self) -> None:
        """Close everything."""
        self.table.close()

    # What replies are made of ------------------------------------------------------------

    def owner(self, inode: Inode, status: os.stat_result) -> Owner:
        """Who owns a file and what it is, for the guest."""
        if not self.records:
            return Owner(status.st_uid, status.st_gid, status.st_mode, status.st_rdev)
        if inode.kind in (stat.S_IFREG, stat.S_IFDIR):
            return owners.read(inode.path, status)
        # What cannot be recorded is root's, if it is ours.
        uid = 0 if status.st_uid == os.geteuid() else status.st_uid
        gid = 0 if status.st_gid == os.getegid() else status.st_gid
        return Owner(uid, gid, status.st_mode, status.st_rdev)

    def attributes(self, inode: Inode, status: os.stat_result) -> bytes:
        """The attributes of an inode."""
        owner = self.owner(inode, status)
        number = status.st_ino
        if status.st_dev != self.table.device:  # another file system below: numbers of its own
            number ^= status.st_dev << 48 & _WORD64
        accessed, accessed_ns = divmod(status.st_atime_ns, 10**9)
        modified, modified_ns = divmod(status.st_mtime_ns, 10**9)
        changed, changed_ns = divmod(status.st_ctime_ns, 10**9)
        return fuse.ATTRIBUTES.pack(
            *(number, status.st_size, status.st_blocks),
            *(accessed & _WORD64, modified & _WORD64, changed & _WORD64),
            *(accessed_ns, modified_ns, changed_ns, owner.mode, status.st_nlink & _WORD),
            *(owner.uid, owner.gid, owner.device & _WORD, status.st_blksize & _WORD, 0),
        )

    def attributes_out(self, inode: Inode, status: os.stat_result) -> bytes:
        """The reply to a request for attributes."""
        return fuse.ATTR_OUT.pack(self._valid_s, 0, 0) + self.attributes(inode, status)

    def entry(self, inode: Inode, status: os.stat_result) -> bytes:
        """The reply to a request that names an inode."""
        head = fuse.ENTRY_OUT.pack(inode.number, 0, self._valid_s, self._valid_s, 0, 0)
        return head + self.attributes(inode, status)

    def drop_capability(self, inode: Inode) -> None:
        """A file that was changed has no capabilities any more."""
        if inode.kind == stat.S_IFREG:
            with contextlib.suppress(OSError):
                os.removexattr(inode.path, attributes.CAPABILITY)


@operation(Opcode.INIT)
def initialise(share: Share, request: Request) -> Answer:
    return share.initialise(request)


@operation(Opcode.DESTROY)
def destroy(share: Share, request: Request) -> Answer:
    share.restart()
    return b""


@operation(Opcode.INTERRUPT)
def interrupt(share: Share, request: Request) -> Answer:
    return b""  # nothing here waits


@operation(Opcode.STATFS)
def file_system(share: Share, request: Request) -> Answer:
    found = os.fstatvfs(share.table.inode(request.node).descriptor)
    return fuse.STATFS_OUT.pack(
        *(found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree),
        *(found.f_bsize & _WORD, found.f_namemax, found.f_frsize & _WORD, 0),
    )


def _cut(buffers: Buffers, size: int) -> tuple[bytes, Buffers]:
    """The first *size* bytes, copied as they are now, and the buffers behind them."""
    if buffers and len(buffers[0]) >= size:
        first = buffers[0]
        rest = buffers[1:] if len(first) == size else [first[size:], *buffers[1:]]
        return bytes(first[:size]), rest
    taken = bytearray()
    for index, buffer in enumerate(buffers):
        part = size - len(taken)
        if len(buffer) > part:
            taken += buffer[:part]
            return bytes(taken), [buffer[part:], *buffers[index + 1 :]]
        taken += buffer
    return bytes(taken), []


def _reply(writable: Buffers, unique: int, error: int, answer: Answer) -> int:
    """Write the reply; what does not fit is an error instead."""
    room = sum(map(len, writable))
    if room < OUT_HEADER.size:
        return 0
    length = OUT_HEADER.size + (answer if isinstance(answer, int) else len(answer))
    if length > room:
        error, answer, length = errno.EIO, b"", OUT_HEADER.size
    head = OUT_HEADER.pack(length, -error, unique)
    if isinstance(answer, bytes):
        head += answer
    done = 0
    for buffer in writable:
        part = min(len(buffer), len(head) - done)
        buffer[:part] = head[done : done + part]
        done += part
        if done == len(head):
            break
    return length
