"""Owners and modes: the host's own, or recorded beside the file.

What is recorded is kept in the extended attribute ``user.containers.override_stat``, in the form
that fuse-overlayfs and Podman use: ``uid:gid:mode`` with the mode in octal, and behind that, for
a device that is no device on the host, ``:block-MAJOR-MINOR`` or ``:char-MAJOR-MINOR``. Files and
directories alone can have it: other kinds show the owner they have.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import NamedTuple

ATTRIBUTE = "user.containers.override_stat"
_RECORD = re.compile(
    rb"(\d{1,10}):(\d{1,10}):0?([0-7]{1,7})(?::(block|char|pipe|socket|file|dir)(?:-(\d+)-(\d+))?)?"
)
_KINDS = {
    b"block": stat.S_IFBLK,
    b"char": stat.S_IFCHR,
    b"pipe": stat.S_IFIFO,
    b"socket": stat.S_IFSOCK,
}
_NAMES = {kind: name.decode() for name, kind in _KINDS.items()}
_WORD = (1 << 32) - 1


class Owner(NamedTuple):
    """Who owns a file and what its mode is, with the kind of file; *device* of a device."""

    uid: int
    gid: int
    mode: int
    device: int = 0


def parse(text: bytes, kind: int) -> Owner | None:
    """The owner that *text* records for a file that is of *kind* on the host; None: nonsense."""
    match = _RECORD.fullmatch(text)
    if match is None:
        return None
    uid, gid, mode, name, major, minor = match.groups()
    if int(uid) > _WORD or int(gid) > _WORD:
        return None
    if kind == stat.S_IFREG:
        kind = _KINDS.get(name, kind)
    device = os.makedev(int(major) & 0xFFF, int(minor) & 0xFFFFF) if major else 0
    return Owner(int(uid), int(gid), int(mode, 8) & 0o7777 | kind, device)


def record(owner: Owner) -> bytes:
    """The text that records *owner*."""
    text = f"{owner.uid}:{owner.gid}:0{owner.mode & 0o7777:o}"
    name = _NAMES.get(stat.S_IFMT(owner.mode))
    if name in ("block", "char"):
        text += f":{name}-{os.major(owner.device)}-{os.minor(owner.device)}"
    elif name is not None:
        text += f":{name}"
    return text.encode()


def read(path: str | int, status: os.stat_result) -> Owner:
    """What is recorded for the file at *path*, which has *status*; else what it is."""
    kind = stat.S_IFMT(status.st_mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        try:
            found = parse(os.getxattr(path, ATTRIBUTE), kind)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
                raise
        else:
            if found is not None:
                return found
    return Owner(status.st_uid, status.st_gid, status.st_mode, status.st_rdev)


def host_mode(mode: int) -> int:
    """The mode a file has on the host so that we can use it, whatever the guest gave it."""
    return 0o700 if stat.S_ISDIR(mode) else 0o600 | mode & 0o111


def write(path: str | int, owner: Owner) -> None:
    """Record *owner* for the file or directory at *path*."""
    os.setxattr(path, ATTRIBUTE, record(owner))


def remove(path: str) -> None:
    """Forget what is recorded."""
    with contextlib.suppress(OSError):
        os.removexattr(path, ATTRIBUTE)
