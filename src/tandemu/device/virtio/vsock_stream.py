"""One connection of the socket device: a stream between a guest's port and a host's socket.

Each side says how much it can hold; neither sends more than that. So a slow program on the host
holds up its own connection, and no other.
"""

from __future__ import annotations

import contextlib
import select
import socket
from enum import Enum, auto

from tandemu.device.virtio.vsock_packet import NO_RECEIVE, NO_SEND

ROOM_BYTES = 256 << 10
"""What we hold for the host's program, and say so."""
_WORD = (1 << 32) - 1


class Phase(Enum):
    """How far a connection is."""

    ASKING = auto()
    """The host's program has said which port it wants, and the guest was asked."""
    OPEN = auto()
    CLOSED = auto()


class Stream:
    """A connection from guest port *guest_port* to host port *host_port* over *socket*."""

    def __init__(self, guest_port: int, host_port: int, socket: socket.socket, phase: Phase):
        self.guest_port, self.host_port, self.socket, self.phase = (
            *(guest_port, host_port, socket, phase),
        )
        self.to_host = bytearray()
        """Data of the guest's that the host's program has not taken yet."""
        self.taken = 0
        """Bytes that the program has taken in all; what the guest was last told of them."""
        self.told = 0
        self.peer_room = self.peer_taken = self.sent = 0
        self.host_sends = self.host_receives = True
        """Whether the host's program may still send, and takes what comes."""
        self.guest_sends = self.guest_receives = True

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from others: the two ports."""
        return self.guest_port, self.host_port

    @property
    def credit(self) -> int:
        """How many bytes the guest can hold now."""
        return max(0, self.peer_room - (self.sent - self.peer_taken & _WORD))

    def heard(self, room: int, taken: int) -> None:
        """The guest said what it can hold."""
        self.peer_room, self.peer_taken = room, taken

    def accept(self, data: bytes) -> bool:
        """Keep *data* of the guest's for the program; False if it sends more than we can hold."""
        if len(self.to_host) + len(data) > ROOM_BYTES:
            return False
        if self.host_receives:
            self.to_host += data
        else:
            self.taken = self.taken + len(data) & _WORD
        return True

    def hand_on(self) -> bool:
        """Give the program what it takes; False if it is gone."""
        while self.to_host:
            try:
                done = self.socket.send(self.to_host)
            except BlockingIOError:
                return True
            except OSError:
                return False
            del self.to_host[:done]
            self.taken = self.taken + done & _WORD
        if not self.guest_sends:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
        return True

    def shut(self, flags: int) -> None:
        """The guest will not receive, or not send, any more."""
        if flags & NO_RECEIVE:
            self.guest_receives = False
        if flags & NO_SEND:
            self.guest_sends = False

    @property
    def owes_credit(self) -> bool:
        """Whether the guest should hear that we have room again."""
        return (self.taken - self.told & _WORD) >= ROOM_BYTES // 4

    @property
    def wanted_events(self) -> int:
        """What of its socket is worth waking for."""
        events = select.EPOLLOUT if self.to_host else 0
        if self.phase is Phase.OPEN and self.host_sends and self.guest_receives and self.credit:
            events |= select.EPOLLIN | select.EPOLLRDHUP
        return events
