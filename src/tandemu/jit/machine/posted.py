"""The port of `jit.memory.posted`, as Python switches and empties it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from tandemu.accel.busy_port import BusyPort
from tandemu.jit.shared.layout import INVALID, POSTED_BYTES, POSTED_PORT


class PostedPort(BusyPort):
    """Writes of one byte to *address*, kept in *port* (`POSTED_PORT`, live) while many come.

    What is read at *status* is what `show` was told last; *take* gets the bytes on any thread.
    """

    def __init__(self, port: Any, address: int, status: int, take: Callable[[bytes], None]) -> None:
        super().__init__(take)
        self.address = address
        self._status = status
        self._port = port
        place = ctypes.addressof(port) + POSTED_PORT.offset("first")
        self._ends = memoryview((ctypes.c_uint64 * 2).from_address(place)).cast("B").cast("Q")
        """The numbers *first* and *last*: looked at after each exit."""
        self._shown: int | None = None
        self._keeps = False

    def show(self, value: int | None) -> None:
        """Let reads of the status give *value*; None: let them be exits. Any thread."""
        self._shown = value
        self._switch()

    def _switch(self) -> None:
        shown, port = self._shown, self._port
        if shown is not None:
            port.value = shown
        port.status = self._status if self._keeps and shown is not None else INVALID

    @property
    def waiting(self) -> bool:
        """Whether bytes are kept that nobody has taken."""
        ends = self._ends
        return ends[0] != ends[1]

    def _keep_writes(self, keep: bool) -> None:
        self._keeps = keep
        self._switch()
        self._port.writes = self.address if keep else INVALID

    def _kept(self) -> bytes:
        port = self._port
        first, last = port.first, port.last
        data = bytes(port.kept)
        begin, end = first % POSTED_BYTES, last % POSTED_BYTES
        taken = data[begin:end] if begin < end or first == last else data[begin:] + data[:end]
        port.first = last
        return taken

    def _look(self) -> None:
        self.drain()
