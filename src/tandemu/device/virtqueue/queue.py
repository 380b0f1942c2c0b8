"""A virtqueue as a device uses it: chains taken and handed back, by native code.

What the guest wrote is checked by the native programs; what comes out of them are views of
guest memory that lie in it for certain. One thread uses a queue at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from tandemu.device.virtqueue.layout import CHAIN, EXPLANATIONS, SEGMENT, VIRTQUEUE, Status
from tandemu.device.virtqueue.native import routine
from tandemu.memory import GuestMemory, RamRegion
from tandemu.memory.notes import PythonNotes
from tandemu.slots.routines import NativeNotes, memory_routines

_HEADER_WORDS = 6
_SEGMENT_WORDS = SEGMENT.size // 8
_PHYSICAL = 2
_COUNT, _READABLE, _READABLE_BYTES, _WRITABLE_BYTES = 2, 3, 4, 5
LARGEST_QUEUE = 1 << 15


class QueueFault(Exception):
    """The driver broke the queue's rules; the message says which."""

    def __init__(self, status: int) -> None:
        super().__init__(EXPLANATIONS.get(Status(status), "unknown fault"))
        self.status = Status(status)


class Chain:
    """Room for one request: its buffers, as the native code found them."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._buffer = ctypes.create_string_buffer(CHAIN.size)
        self._words = memoryview(self._buffer).cast("B").cast("Q")
        self.address = ctypes.addressof(self._buffer)
        self._regions: tuple[RamRegion, ...] = ()
        self._low = self._high = 0
        self._view = memoryview(b"")

    @property
    def readable_bytes(self) -> int:
        """The size of the buffers to be read."""
        return self._words[_READABLE_BYTES]

    @property
    def writable_bytes(self) -> int:
        """The size of the buffers to be written."""
        return self._words[_WRITABLE_BYTES]

    @property
    def readable(self) -> list[memoryview]:
        """The buffers that the driver has filled. Read once: the guest may change them."""
        return self._views(0, self._words[_READABLE])

    @property
    def writable(self) -> list[memoryview]:
        """The buffers for the device to fill, in order."""
        return self._views(self._words[_READABLE], self._words[_COUNT])

    @property
    def writable_addresses(self) -> list[int]:
        """The guest-physical address of each of `writable`."""
        words = self._words
        start = _HEADER_WORDS + words[_READABLE] * _SEGMENT_WORDS + _PHYSICAL
        return words[
            start : _HEADER_WORDS + words[_COUNT] * _SEGMENT_WORDS : _SEGMENT_WORDS
        ].tolist()

    def _views(self, first: int, last: int) -> list[memoryview]:
        start = _HEADER_WORDS + first * _SEGMENT_WORDS
        numbers = self._words[start : _HEADER_WORDS + last * _SEGMENT_WORDS].tolist()
        views = []
        for host, size in zip(numbers[::_SEGMENT_WORDS], numbers[1::_SEGMENT_WORDS], strict=True):
            if not self._low <= host < self._high:
                self._find(host)
            offset = host - self._low
            views.append(self._view[offset : offset + size])
        return views

    def _find(self, host: int) -> None:
        """Make the region that holds host address *host* the one looked at first."""
        for region in (*self._memory.regions, *self._regions):
            if 0 <= host - region.host_address < region.size:
                self._low = region.host_address
                self._high = self._low + region.size
                self._view = region.ram.view[region.offset : region.offset + region.size]
                # A region that is unmapped while a request uses it stays known.
                self._regions = self._memory.regions
                return
        raise QueueFault(Status.BAD_BUFFER)


class Virtqueue:
    """One queue. Its fields may be set while the device does not use it."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        if isinstance(memory.notes, PythonNotes):
            # The native programs change flags of pages too: from now on all do it atomically.
            memory.notes = NativeNotes(memory.address, memory_routines())
        self._buffer = ctypes.create_string_buffer(VIRTQUEUE.size)
        self.fields: Any = VIRTQUEUE.over(self._buffer)
        self._address = ctypes.addressof(self._buffer)
        self.set_packed(False)

    def set_packed(self, packed: bool) -> None:
        """Use the packed or the split layout."""
        kind = "packed" if packed else "split"
        self._pop = routine(f"{kind}_pop", 3)
        self._push = routine(f"{kind}_push", 4)

    def pop(self, chain: Chain) -> bool:
        """Take the next chain; False: there is none, and the driver will kick for the next.

        QueueFault if the driver broke the rules.
        """
        status: int = self._pop(self._address, self._memory.address, chain.address)
        if status < 0:
            raise QueueFault(status)
        return status == Status.FOUND

    def push(self, chain: Chain, written: int) -> bool:
        """Hand *chain* back, *written* bytes in; whether the driver wants an interrupt."""
        status: int = self._push(self._address, self._memory.address, chain.address, written)
        if status < 0:
            raise QueueFault(status)
        return status == 1


def copy_in(views: Sequence[memoryview], limit: int) -> bytes:
    """The first *limit* bytes of *views*, as they are now."""
    taken = bytearray()
    for view in views:
        taken += view[: limit - len(taken)]
        if len(taken) == limit:
            break
    return bytes(taken)


def copy_out(data: bytes | bytearray | memoryview, views: Sequence[memoryview]) -> int:
    """Write *data* into *views* as far as they go; how many bytes that was."""
    done = 0
    source = memoryview(data).cast("B")
    for view in views:
        part = min(len(view), len(source) - done)
        if not part:
            if done == len(source):
                break
            continue
        view[:part] = source[done : done + part]
        done += part
    return done


def split_at(
    views: Sequence[memoryview], position: int
) -> tuple[list[memoryview], list[memoryview]]:
    """*views* cut in two behind the first *position* bytes."""
    head: list[memoryview] = []
    for index, view in enumerate(views):
        if len(view) > position:
            if position:
                head.append(view[:position])
            return head, [view[position:], *views[index + 1 :]]
        head.append(view)
        position -= len(view)
    return head, []
