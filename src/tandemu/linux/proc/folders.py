"""What a program finds in folders of /proc: its own descriptors and threads, none of ours."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from tandemu.linux.proc import subject

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

_Wanted = Callable[[bytes], bool]
_ENTRY = struct.Struct("<QqHB")
"""struct linux_dirent64 up to the name: inode, offset, length, type."""


def told(kernel: Kernel, descriptor: int, entries: bytes) -> bytes:
    """What getdents64(2) gave for the folder *descriptor*, without what is ours."""
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}").split("/")
    except OSError:
        return entries
    if path[-1] == "task" and path[-2].isdigit():
        of = subject.find(kernel, int(path[-2]))
        if of is not None:
            threads = {b"%d" % tid for tid in of.threads()}
            return _kept(entries, lambda name: not name.isdigit() or name in threads)
    # /proc/PID/fd, fdinfo beside it, and both under task/TID.
    elif path[-1] in ("fd", "fdinfo") and path[:3] == ["", "proc", str(os.getpid())]:
        hidden = {b"%d" % number for number in kernel.descriptors.hidden()}
        return _kept(entries, lambda name: name not in hidden)
    return entries


def _kept(entries: bytes, wanted: _Wanted) -> bytes:
    found = []
    start = 0
    while start < len(entries):
        length = _ENTRY.unpack_from(entries, start)[2]
        entry = entries[start : start + length]
        if wanted(entry[_ENTRY.size :].partition(b"\0")[0]):
            found.append(entry)
        start += length
    return b"".join(found)
