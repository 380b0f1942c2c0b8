"""The structures that the native virtqueue routines and Python share.

Constants are those of Virtio 1.2, sections 2.7 (split) and 2.8 (packed virtqueues).
"""

from __future__ import annotations

from enum import IntEnum

from tandemu.bits import U64, Layout

SEGMENT_LIMIT = 1024
"""Pieces that the buffers of one chain may consist of."""

VIRTQUEUE = Layout(
    "Virtqueue",
    size=U64,
    descriptors=U64,
    driver=U64,
    device=U64,
    event_index=U64,
    indirect=U64,
    next_available=U64,
    next_used=U64,
    available_wrap=U64,
    used_wrap=U64,
    silent=U64,
)
"""A queue: *size* descriptors; guest-physical addresses of its three areas; negotiated features.

*next_available* and *next_used* are where the device goes on: running 16-bit indices of a split
queue, positions in the ring of a packed one, with the wrap counters of those. *silent*: the driver
was told that it need not kick."""

SEGMENT = Layout("Segment", host=U64, size=U64, physical=U64)
"""*size* bytes of guest memory by host and by guest-physical address."""

CHAIN = Layout(
    "Chain",
    head=U64,
    descriptors=U64,
    count=U64,
    readable=U64,
    readable_bytes=U64,
    writable_bytes=U64,
    segments=SEGMENT[SEGMENT_LIMIT],
)
"""One request: *count* segments, of which the first *readable* are for the device to read and the
others to write. *head* is what the used ring names it by, *descriptors* the places of a packed
ring it takes."""

DESCRIPTOR_BYTES = 16
NEXT, WRITE, INDIRECT = 1, 2, 4
PACKED_AVAILABLE, PACKED_USED = 1 << 7, 1 << 15
NO_NOTIFY, NO_INTERRUPT = 1, 1
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESCRIPTOR = 0, 1, 2


class Status(IntEnum):
    """What the routines return; a status below 0 is a fault of the driver."""

    EMPTY = 0
    FOUND = 1
    BAD_AREA = -1
    BAD_INDEX = -2
    BAD_HEAD = -3
    BAD_NEXT = -4
    LOOP = -5
    BAD_INDIRECT = -6
    BAD_ORDER = -7
    BAD_BUFFER = -8
    TOO_LONG = -9


EXPLANATIONS = {
    Status.BAD_AREA: "an area of the queue is misaligned or not in RAM",
    Status.BAD_INDEX: "the driver made more descriptors available than the queue has",
    Status.BAD_HEAD: "a chain begins behind the end of the descriptor table",
    Status.BAD_NEXT: "a chain goes on behind the end of its table",
    Status.LOOP: "a chain is longer than its table: it is a loop",
    Status.BAD_INDIRECT: "an indirect table is empty, odd, within another, or was not negotiated",
    Status.BAD_ORDER: "a buffer to be read stands behind one to be written",
    Status.BAD_BUFFER: "a buffer is not in RAM, or is to be written and in ROM",
    Status.TOO_LONG: f"the buffers of a chain have more than {SEGMENT_LIMIT} pieces, or 4 GiB",
}
"""What each fault of the driver means."""
