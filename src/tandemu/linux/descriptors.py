"""The file descriptors of a program's process that are not the program's.

Tandemu's own are moved to high numbers as soon as they are made, and what the program
asks about its descriptors leaves them out (`proc.folders`).
"""

from __future__ import annotations

import os
from typing import Any

from tandemu.linux import host

_NONE = (1 << 32) - 1


WATCHED = 1 << 16
"""Descriptors that can be watched (`proc.watch`); calls on higher ones are Python's."""


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
