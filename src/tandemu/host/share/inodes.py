"""What the guest knows of the folder: inodes by number, each held by a descriptor.

A descriptor with O_PATH is the inode itself, not its name: a rename on the host, or a symbolic
link put in its place, cannot lead elsewhere. A name is looked up in one directory at a time, is one
component, and is never followed: nothing outside the folder has a number.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import threading
from dataclasses import dataclass, field

from tandemu.host.share.protocol import ROOT

_LONGEST_NAME = 255


def failure(number: int) -> OSError:
    """An OSError of that number."""
    return OSError(number, os.strerror(number))


def allow_many_descriptors() -> None:
    """Raise this process's limit of open descriptors as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_name(name: bytes) -> bytes:
    """*name* if it is one component of a path; OSError otherwise."""
    if len(name) > _LONGEST_NAME:
        raise failure(errno.ENAMETOOLONG)
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise failure(errno.EINVAL)
    return name


@dataclass(slots=True, eq=False)
class Inode:
    """One inode that the guest has been told of *lookups* times."""

    number: int
    descriptor: int
    key: tuple[int, int]
    kind: int
    lookups: int = 0
    seen: tuple[int, int, int] = (0, 0, 0)
    """Change time, modification time and size when the guest's cached content was right."""

    @property
    def path(self) -> str:
        """A path that is this inode, whatever it is called: for calls that take no descriptor."""
        return f"/proc/self/fd/{self.descriptor}"

    def require(self, *kinds: int) -> None:
        """OSError if it is of none of these kinds (``stat.S_IFREG`` …)."""
        if self.kind not in kinds:
            raise failure(errno.EISDIR if self.kind == stat.S_IFDIR else errno.EINVAL)


@dataclass(slots=True, eq=False)
class Handle:
    """An open file or directory."""

    descriptor: int
    inode: Inode
    listing: list[tuple[bytes, int, int]] = field(default_factory=list)
    """A directory's names, inode numbers and kinds, as they were when it was begun."""
    writes: bool = False


class Table:
    """All inodes and handles of one share. Any thread."""

    def __init__(self, path: str) -> None:
        allow_many_descriptors()
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        self.device = status.st_dev
        self.root = Inode(ROOT, descriptor, (status.st_dev, status.st_ino), stat.S_IFDIR, 1)
        self._lock = threading.Lock()
        self._inodes = {ROOT: self.root}
        self._numbers = {self.root.key: ROOT}
        self._next = ROOT + 1
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1

    def inode(self, number: int) -> Inode:
        """The inode of that number; OSError if the guest was never told of it."""
        inode = self._inodes.get(number)
        if inode is None:
            raise failure(errno.ESTALE)
        return inode

    def directory(self, number: int) -> Inode:
        """The same for a directory."""
        inode = self.inode(number)
        if inode.kind != stat.S_IFDIR:
            raise failure(errno.ENOTDIR)
        return inode

    def look_up(self, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result]:
        """The inode called *name* in *parent*, of which the guest is told once more."""
        descriptor = os.open(
            name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.descriptor
        )
        try:
            status = os.fstat(descriptor)
            key = status.st_dev, status.st_ino
            with self._lock:
                number = self._numbers.get(key)
                if number is not None:
                    inode = self._inodes[number]
                    inode.lookups += 1
                else:
                    number, self._next = self._next, self._next + 1
                    kind = stat.S_IFMT(status.st_mode)
                    inode = Inode(number, descriptor, key, kind, 1)
                    self._inodes[number] = inode
                    self._numbers[key] = number
                    descriptor = -1
            return inode, status
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def forget(self, number: int, count: int) -> None:
        """The guest forgets *count* of the times it was told of an inode."""
        with self._lock:
            inode = self._inodes.get(number)
            if inode is None or number == ROOT:
                return
            inode.lookups -= min(count, inode.lookups)
            if inode.lookups:
                return
            del self._inodes[number]
            del self._numbers[inode.key]
        os.close(inode.descriptor)

    def add_handle(self, handle: Handle) -> int:
        """Keep *handle*; its number."""
        with self._lock:
            number, self._next_handle = self._next_handle, self._next_handle + 1
            self._handles[number] = handle
        return number

    def handle(self, number: int) -> Handle:
        """The handle of that number; OSError if there is none."""
        handle = self._handles.get(number)
        if handle is None:
            raise failure(errno.EBADF)
        return handle

    def release(self, number: int) -> Handle:
        """Forget a handle and close it."""
        with self._lock:
            handle = self._handles.pop(number, None)
        if handle is None:
            raise failure(errno.EBADF)
        os.close(handle.descriptor)
        return handle

    def forget_all(self) -> None:
        """The guest unmounts, or is reset: only the root is left."""
        with self._lock:
            handles, self._handles = self._handles, {}
            inodes, self._inodes = self._inodes, {ROOT: self.root}
            self._numbers = {self.root.key: ROOT}
        for handle in handles.values():
            os.close(handle.descriptor)
        for inode in inodes.values():
            if inode is not self.root:
                os.close(inode.descriptor)

    def close(self) -> None:
        """Close everything."""
        self.forget_all()
        os.close(self.root.descriptor)
