"""Names: looking up, making, removing, renaming, linking; attributes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from tandemu.host.share import calls, owners
from tandemu.host.share import protocol as fuse
from tandemu.host.share.inodes import Inode, check_name, failure
from tandemu.host.share.owners import Owner
from tandemu.host.share.protocol import Opcode
from tandemu.host.share.request import Answer, Request, operation

if TYPE_CHECKING:
    from tandemu.host.share.server import Share

_SET_IDS = stat.S_ISUID | stat.S_ISGID
_RENAME_FLAGS = 1 | 2  # not to replace, to exchange


@operation(Opcode.LOOKUP)
def lookup(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    name = check_name(request.names(None, 1)[0])
    return share.entry(*share.table.look_up(parent, name))


@operation(Opcode.FORGET)
def forget(share: Share, request: Request) -> Answer:
    (count,) = request.unpack(fuse.FORGET_IN)
    share.table.forget(request.node, count)
    return b""


@operation(Opcode.BATCH_FORGET)
def batch_forget(share: Share, request: Request) -> Answer:
    count, _ = request.unpack(fuse.BATCH_FORGET_IN)
    places = range(fuse.BATCH_FORGET_IN.size, len(request.body), fuse.FORGET_ONE.size)
    for _, place in zip(range(count), places, strict=False):
        if place + fuse.FORGET_ONE.size <= len(request.body):
            share.table.forget(*fuse.FORGET_ONE.unpack_from(request.body, place))
    return b""


@operation(Opcode.GETATTR)
def get_attributes(share: Share, request: Request) -> Answer:
    inode = share.table.inode(request.node)
    return share.attributes_out(inode, os.fstat(inode.descriptor))


@operation(Opcode.SETATTR, writes=True)
def set_attributes(share: Share, request: Request) -> Answer:
    inode = share.table.inode(request.node)
    (valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = (
        request.unpack(fuse.SETATTR_IN)
    )
    if valid & (fuse.SET_UID | fuse.SET_GID):
        _set_owner(
            *(share, inode),
            uid if valid & fuse.SET_UID else -1,
            gid if valid & fuse.SET_GID else -1,
        )
    if valid & fuse.SET_MODE:
        set_mode(share, inode, mode)
    if valid & fuse.SET_SIZE:
        inode.require(stat.S_IFREG)
        if valid & fuse.SET_HANDLE:
            os.ftruncate(share.table.handle(handle).descriptor, size)
        else:
            descriptor = os.open(inode.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        if valid & fuse.SET_KILL_PRIVILEGES:
            drop_privileges(share, inode)
    times = fuse.SET_ATIME | fuse.SET_MTIME | fuse.SET_ATIME_NOW | fuse.SET_MTIME_NOW
    if valid & times:
        status = os.fstat(inode.descriptor)
        now = time.time_ns()
        accessed, modified = status.st_atime_ns, status.st_mtime_ns
        if valid & fuse.SET_ATIME_NOW:
            accessed = now
        elif valid & fuse.SET_ATIME:
            accessed = _nanoseconds(atime, atime_ns)
        if valid & fuse.SET_MTIME_NOW:
            modified = now
        elif valid & fuse.SET_MTIME:
            modified = _nanoseconds(mtime, mtime_ns)
        os.utime(inode.path, ns=(accessed, modified))
    return share.attributes_out(inode, os.fstat(inode.descriptor))


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    if nanoseconds >= 10**9:
        raise failure(errno.EINVAL)
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * 10**9 + nanoseconds


def _set_owner(share: Share, inode: Inode, uid: int, gid: int) -> None:
    if share.records and inode.kind in (stat.S_IFREG, stat.S_IFDIR):
        old = owners.read(inode.path, os.fstat(inode.descriptor))
        mode = old.mode & ~_SET_IDS if inode.kind == stat.S_IFREG else old.mode
        owners.write(
            inode.path,
            old._replace(
                uid=old.uid if uid < 0 else uid, gid=old.gid if gid < 0 else gid, mode=mode
            ),
        )
    elif share.records:
        shown = os.fstat(inode.descriptor)
        if uid not in (-1, 0, shown.st_uid) or gid not in (-1, 0, shown.st_gid):
            raise failure(errno.EPERM)
    else:
        os.chown(inode.path, uid, gid)
    share.drop_capability(inode)


def set_mode(share: Share, inode: Inode, mode: int) -> None:
    """Change a mode as the guest wants it."""
    if inode.kind == stat.S_IFLNK:
        raise failure(errno.EOPNOTSUPP)
    if share.records:
        old = owners.read(inode.path, os.fstat(inode.descriptor))
        if inode.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise failure(errno.EPERM)
        kept = stat.S_IFMT(old.mode)
        os.chmod(inode.path, owners.host_mode(mode & 0o7777 | inode.kind))
        owners.write(inode.path, old._replace(mode=mode & 0o7777 | kept))
    else:
        os.chmod(inode.path, mode & 0o7777)


def drop_privileges(share: Share, inode: Inode) -> None:
    """What a write to a file does to its set-user-ID and set-group-ID bits."""
    owner = share.owner(inode, os.fstat(inode.descriptor))
    mode = owner.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    if mode != owner.mode:
        set_mode(share, inode, mode)


@operation(Opcode.READLINK)
def read_link(share: Share, request: Request) -> Answer:
    inode = share.table.inode(request.node)
    inode.require(stat.S_IFLNK)
    return os.readlink(b"", dir_fd=inode.descriptor)


# Making -------------------------------------------------------------------------------------


def made(share: Share, parent: Inode, name: bytes, request: Request, mode: int) -> bytes:
    """The reply for *name*, just made in *parent*: it belongs to who asked, and has *mode*."""
    inode, _ = share.table.look_up(parent, name)
    try:
        own(share, parent, inode, request, mode)
        return share.entry(inode, os.fstat(inode.descriptor))
    except OSError:
        share.table.forget(inode.number, 1)
        with contextlib.suppress(OSError):
            remove = os.rmdir if inode.kind == stat.S_IFDIR else os.unlink
            remove(name, dir_fd=parent.descriptor)
        raise


def own(share: Share, parent: Inode, inode: Inode, request: Request, mode: int) -> None:
    """Give *inode*, which is new, its owner and mode, as a local file system would."""
    above = share.owner(parent, os.fstat(parent.descriptor))
    gid = request.gid
    if above.mode & stat.S_ISGID:
        gid = above.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    if share.records:
        if inode.kind in (stat.S_IFREG, stat.S_IFDIR):
            owners.write(inode.path, Owner(request.uid, gid, mode))
        return
    status = os.fstat(inode.descriptor)
    if share.may_chown and (status.st_uid, status.st_gid) != (request.uid, gid):
        os.chown(inode.path, request.uid, gid)
    if inode.kind != stat.S_IFLNK and status.st_mode & 0o7777 != mode & 0o7777:
        os.chmod(inode.path, mode & 0o7777)


@operation(Opcode.MKDIR, writes=True)
def make_directory(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    mode, _ = request.unpack(fuse.MKDIR_IN)
    name = check_name(request.names(fuse.MKDIR_IN, 1)[0])
    mode = mode & 0o7777 | stat.S_IFDIR
    os.mkdir(name, owners.host_mode(mode) if share.records else mode, dir_fd=parent.descriptor)
    return made(share, parent, name, request, mode)


@operation(Opcode.MKNOD, writes=True)
def make_node(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    mode, device, _, _ = request.unpack(fuse.MKNOD_IN)
    name = check_name(request.names(fuse.MKNOD_IN, 1)[0])
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    mode = mode & 0o7777 | kind
    if share.records:
        # A file on the host, whatever it is for the guest.
        os.mknod(name, stat.S_IFREG | 0o600, dir_fd=parent.descriptor)
        inode, status = share.table.look_up(parent, name)
        owners.write(inode.path, Owner(request.uid, request.gid, mode, device))
        return share.entry(inode, status)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        # The host would have a device there, open to whoever the guest likes.
        raise failure(errno.EPERM)
    os.mknod(name, mode, dir_fd=parent.descriptor)
    return made(share, parent, name, request, mode)


@operation(Opcode.SYMLINK, writes=True)
def make_symbolic_link(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    name, target = request.names(None, 2)
    os.symlink(target, check_name(name), dir_fd=parent.descriptor)
    return made(share, parent, name, request, stat.S_IFLNK | 0o777)


@operation(Opcode.LINK, writes=True)
def make_link(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    (number,) = request.unpack(fuse.LINK_IN)
    name = check_name(request.names(fuse.LINK_IN, 1)[0])
    inode = share.table.inode(number)
    os.link(os.fsencode(inode.path), name, dst_dir_fd=parent.descriptor, follow_symlinks=True)
    return share.entry(*share.table.look_up(parent, name))


@operation(Opcode.UNLINK, writes=True)
def unlink(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    os.unlink(check_name(request.names(None, 1)[0]), dir_fd=parent.descriptor)
    return b""


@operation(Opcode.RMDIR, writes=True)
def remove_directory(share: Share, request: Request) -> Answer:
    parent = share.table.directory(request.node)
    os.rmdir(check_name(request.names(None, 1)[0]), dir_fd=parent.descriptor)
    return b""


@operation(Opcode.RENAME, writes=True)
def rename(share: Share, request: Request) -> Answer:
    (target,) = request.unpack(fuse.RENAME_IN)
    return _rename(share, request, target, request.names(fuse.RENAME_IN, 2), 0)


@operation(Opcode.RENAME2, writes=True)
def rename_with_flags(share: Share, request: Request) -> Answer:
    target, flags, _ = request.unpack(fuse.RENAME2_IN)
    if flags & ~_RENAME_FLAGS:
        raise failure(errno.EINVAL)
    return _rename(share, request, target, request.names(fuse.RENAME2_IN, 2), flags)


def _rename(share: Share, request: Request, number: int, names: list[bytes], flags: int) -> bytes:
    old, new = share.table.directory(request.node), share.table.directory(number)
    old_name, new_name = map(check_name, names)
    calls.rename(old.descriptor, old_name, new.descriptor, new_name, flags)
    return b""
