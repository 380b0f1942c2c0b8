"""Between a network card and the network behind it.

A frame is an Ethernet frame behind a header of 12 bytes (Virtio 1.2, section 5.1.6: struct
virtio_net_hdr) that says which checksum is still missing and how a large packet is to be cut. All
calls are made on the card's worker thread, or while that rests.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import Protocol

HEADER = struct.Struct("<BBHHHHH")
"""Flags, kind of segmentation, header length, segment size, where the checksum starts and is,
number of buffers."""
HEADER_BYTES = HEADER.size
PLAIN_HEADER = HEADER.pack(0, 0, 0, 0, 0, 0, 1)
"""The header of a frame that is complete."""
NEEDS_CHECKSUM = 1
"""Flag: the sum from the given start is to be completed."""
NO_SEGMENTS, TCP4_SEGMENTS, UDP_SEGMENTS, TCP6_SEGMENTS = 0, 1, 5, 4
LARGEST_FRAME = HEADER_BYTES + 14 + 65535
"""Bytes of a frame with its header."""


def scatter(data: bytes, views: Iterable[memoryview]) -> None:
    """Copy *data* into *views*, one behind the other, which have room for it."""
    place = 0
    for view in views:
        part = data[place : place + len(view)]
        view[: len(part)] = part
        place += len(part)
        if place == len(data):
            return


class Offload(IntFlag):
    """What one side leaves to the other."""

    CHECKSUM = 1
    TCP4 = 2
    TCP6 = 4
    ALL = 7


class Port(Protocol):
    """The card, as its network sees it."""

    accepts: Offload
    """What the guest has said that it takes: none before its driver is ready."""

    def room(self) -> list[memoryview] | None:
        """The guest's buffer for the next frame, the same until `commit`; None if it has none.

        Then `Network.resume` is called when it has one again.
        """

    def commit(self, size: int) -> None:
        """Hand over the first *size* bytes of what `room` returned."""

    def watch(
        self, descriptor: int, callback: Callable[[], None], events: int = select.EPOLLIN
    ) -> None:
        """Call *callback* on the worker while *descriptor* is ready for *events*."""

    def forget(self, descriptor: int) -> None:
        """Watch *descriptor*, which is still open, no more."""


class Network(Protocol):
    """What stands behind a card."""

    offloads: Offload
    """What the guest may leave to the network."""
    mtu: int
    """The largest packet, without Ethernet's header."""
    filters: bool
    """Whether frames for others may come, which the card has to sort out."""

    def attach(self, port: Port) -> None:
        """The driver is ready: from now on frames may come."""

    def detach(self) -> None:
        """The driver is gone: forget what belonged to it."""

    def send(self, views: list[memoryview], size: int) -> None:
        """Take the frame of *size* bytes that is in *views*, which are the guest's again
        afterwards.
        """

    def flush(self) -> None:
        """The guest's frames that were there have been sent."""

    def resume(self) -> None:
        """There are buffers again."""

    def statistics(self) -> dict[str, int]:
        """Counters by name. Any thread."""

    def close(self) -> None:
        """Give back what is the host's. The network is detached."""
