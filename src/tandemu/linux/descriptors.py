"""The file descriptors of a program's process that are not the program's.

Tandemu's own are moved to high numbers as soon as they are made, and what the program
asks about its descriptors leaves them out.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from tandemu.linux import host

_NONE = (1 << 32) - 1
_ENTRY = struct.Struct("<QqHB")
"""struct linux_dirent64 up to the name: inode, offset, length, type."""


class Descriptors:
    """`accel.user.DescriptorKeeper` of one process."""

    def __init__(self) -> None:
        self._hidden: set[int] = set()
        self._process: Any = None
        self.is_shared = False
        """The process at hand has them with its parent: it forgets them and closes none."""

    def tell(self, process: Any) -> None:
        """Keep the native calls (`native.layout.PROCESS`) told of what is hidden."""
        self._process = process
        self._tell()

    def _tell(self) -> None:
        if self._process is not None:
            self._process.lowest_hidden = min(self._hidden, default=_NONE)

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._hidden

    def hidden(self) -> list[int]:
        """The numbers that are not the program's, lowest first."""
        return sorted(self._hidden)

    def hide(self, descriptor: int) -> int:
        """Take *descriptor*, just made, out of the program's way; its new number."""
        moved = host.high_descriptor(descriptor)
        self._hidden.add(moved)
        self._tell()
        return moved

    def close(self, descriptor: int) -> None:
        """Close one that was hidden."""
        self._hidden.discard(descriptor)
        self._tell()
        if not self.is_shared:
            os.close(descriptor)

    def without_hidden(self, descriptor: int, entries: bytes) -> bytes:
        """What getdents64(2) gave for the directory *descriptor*, without ours in its own list."""
        names = [b"%d\0" % number for number in self._hidden]
        if not any(name in entries for name in names):
            return entries
        directory = os.readlink(f"/proc/self/fd/{descriptor}").split("/")
        # /proc/PID/fd, fdinfo beside it, and both under task/TID.
        if directory[1:2] != ["proc"] or directory[2:3] != [str(os.getpid())]:
            return entries
        if directory[-1] not in ("fd", "fdinfo"):
            return entries
        kept = []
        start = 0
        while start < len(entries):
            length = _ENTRY.unpack_from(entries, start)[2]
            entry = entries[start : start + length]
            if not entry[_ENTRY.size :].startswith(tuple(names)):
                kept.append(entry)
            start += length
        return b"".join(kept)
