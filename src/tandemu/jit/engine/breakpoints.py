"""A debugger's breakpoints and watched memory in the structure that processors share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tandemu.accel import AccelError, Watch
from tandemu.jit.shared.layout import BREAKPOINT_LIMIT, WATCH_LIMIT, WATCHES_READ, WATCHES_WRITE


class DebugTables:
    """Both tables of the live structure *shared* (`layout.MACHINE`)."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared
        self.breakpoints: tuple[int, ...] = ()
        self.watches: tuple[Watch, ...] = ()

    def set_breakpoints(self, addresses: Collection[int]) -> bool:
        """Put *addresses* there; whether that changes anything. `AccelError` if it is too many."""
        wanted = tuple(sorted(set(addresses)))
        if len(wanted) > BREAKPOINT_LIMIT:
            raise AccelError(f"{len(wanted)} breakpoints: must be at most {BREAKPOINT_LIMIT}")
        if wanted == self.breakpoints:
            return False
        self.breakpoints = wanted
        for number, address in enumerate(wanted):
            self._shared.breakpoints[number] = address
        self._shared.breakpoint_count = len(wanted)
        return True

    def set_watches(self, watches: Sequence[Watch]) -> bool:
        """Put *watches* there; the same."""
        wanted = tuple(watches)
        if len(wanted) > WATCH_LIMIT:
            raise AccelError(f"{len(wanted)} watchpoints: must be at most {WATCH_LIMIT}")
        if wanted == self.watches:
            return False
        self.watches = wanted
        for number, watch in enumerate(wanted):
            one = self._shared.watches[number]
            one.first, one.last = watch.first, watch.last
            one.accesses = WATCHES_READ * watch.reads | WATCHES_WRITE * watch.writes
        self._shared.watch_count = len(wanted)
        return True

    def cover(self, extents: Sequence[tuple[int, bytes]]) -> bool:
        """Whether there is a breakpoint in some of this guest code: addresses and bytes."""
        return any(
            start <= address < start + len(code)
            for address in self.breakpoints
            for start, code in extents
        )
