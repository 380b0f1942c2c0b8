"""Extended attributes.

A guest's ``user.`` attributes are the host's. Its ``security.`` and ``trusted.`` ones mean nothing
to the host and must not: they are kept under another name there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from tandemu.host.share import owners
from tandemu.host.share import protocol as fuse
from tandemu.host.share.inodes import Inode, failure
from tandemu.host.share.protocol import Opcode
from tandemu.host.share.request import Answer, Request, operation

if TYPE_CHECKING:
    from tandemu.host.share.server import Share

_KEPT_APART = b"user.tandemu."
_OURS = (_KEPT_APART, owners.ATTRIBUTE.encode())
_LONGEST_NAME, _LONGEST_VALUE = 255, 1 << 16
CAPABILITY = _KEPT_APART + b"security.capability"


def _host_name(name: bytes) -> bytes:
    """What the guest's attribute *name* is called on the host."""
    if name.startswith(b"user."):
        if name.startswith(_OURS):
            raise failure(errno.EPERM)
        return name
    if name.startswith((b"security.", b"trusted.")):
        return _KEPT_APART + name
    raise failure(errno.EOPNOTSUPP)


def _guest_name(name: bytes) -> bytes | None:
    """The reverse; None if the guest does not see it."""
    if name.startswith(_KEPT_APART):
        return name[len(_KEPT_APART) :]
    return name if name.startswith(b"user.") and not name.startswith(_OURS) else None


def _inode(share: Share, request: Request, *, missing: int) -> Inode:
    inode = share.table.inode(request.node)
    if inode.kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise failure(missing)
    return inode


def _sized(value: bytes, size: int) -> bytes:
    """*value*, or only its length if the guest asks for that."""
    if size == 0:
        return fuse.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise failure(errno.ERANGE)
    return value


@operation(Opcode.GETXATTR)
def get_attribute(share: Share, request: Request) -> Answer:
    inode = _inode(share, request, missing=errno.ENODATA)
    size, _ = request.unpack(fuse.GETXATTR_IN)
    name = _host_name(request.names(fuse.GETXATTR_IN, 1)[0])
    return _sized(os.getxattr(inode.path, name), size)


@operation(Opcode.SETXATTR, writes=True)
def set_attribute(share: Share, request: Request) -> Answer:
    inode = _inode(share, request, missing=errno.EPERM)
    size, flags = request.unpack(fuse.SETXATTR_IN)
    name = request.names(fuse.SETXATTR_IN, 1)[0]
    value = request.body[fuse.SETXATTR_IN.size + len(name) + 1 :]
    if len(value) < size or size > _LONGEST_VALUE:
        raise failure(errno.EINVAL)
    os.setxattr(inode.path, _host_name(name), value[:size], flags)
    return b""


@operation(Opcode.LISTXATTR)
def list_attributes(share: Share, request: Request) -> Answer:
    size, _ = request.unpack(fuse.GETXATTR_IN)
    inode = share.table.inode(request.node)
    names = []
    if inode.kind in (stat.S_IFREG, stat.S_IFDIR):
        names = [_guest_name(os.fsencode(name)) for name in os.listxattr(inode.path)]
    return _sized(b"".join(name + b"\0" for name in names if name is not None), size)


@operation(Opcode.REMOVEXATTR, writes=True)
def remove_attribute(share: Share, request: Request) -> Answer:
    inode = _inode(share, request, missing=errno.ENODATA)
    os.removexattr(inode.path, _host_name(request.names(None, 1)[0]))
    return b""
