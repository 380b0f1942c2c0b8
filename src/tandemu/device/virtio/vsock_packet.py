"""Packets of the socket device: Virtio 1.2, section 5.10.6."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("<QQIIIHHIII")
HOST_CID, FIRST_GUEST_CID = 2, 3
STREAM = 1
NO_RECEIVE, NO_SEND = 1, 2
"""Flags of a shutdown: the sender will not receive, will not send."""


class Operation(IntEnum):
    """What a packet does."""

    REQUEST = 1
    RESPONSE = 2
    RESET = 3
    SHUTDOWN = 4
    DATA = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Packet(NamedTuple):
    """A packet's header; *length* bytes of data follow it."""

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    length: int
    kind: int
    operation: int
    flags: int
    room: int
    """Bytes that the sender can hold in all …"""
    taken: int
    """… and how many it has handed on, modulo 2**32."""

    @classmethod
    def unpack(cls, data: bytes) -> Packet:
        """The header that *data* begins with."""
        return cls(*HEADER.unpack_from(data))

    def pack(self) -> bytes:
        """The header as bytes."""
        return HEADER.pack(*self)
