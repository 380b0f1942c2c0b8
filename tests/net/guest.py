"""A guest on a user network, made of frames by hand: it answers as it likes."""

from __future__ import annotations

import select
import struct
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from tandemu.net.link import HEADER_BYTES, Network, Offload
from tandemu.net.packets import ICMP, TCP, UDP, Envelope, icmp_frame, ones_sum, udp_frame

MAC, ROUTER_MAC = bytes.fromhex("525400000001"), bytes.fromhex("525500746d02")
ADDRESS, ROUTER, NAMES = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2)), bytes((10, 0, 2, 3))
ADDRESS6 = bytes.fromhex("fd00746d00000000525400fffe000001")
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
WAIT_S = 30


class Segment(NamedTuple):
    """A TCP segment that came."""

    source: int
    target: int
    sequence: int
    acknowledged: int
    flags: int
    window: int
    data: bytes


class Guest:
    """The guest's side of *network*, without a card: a `net.link.Port`."""

    def __init__(self, network: Network, accepts: Offload = Offload.ALL, buffers: int = 1 << 30):
        self.network, self.accepts = network, accepts
        self.buffers = buffers
        """How many frames it takes still."""
        self.frames: deque[bytes] = deque()
        self._buffer = bytearray(70000)
        self._poll = select.epoll()
        self.callbacks: dict[int, Callable[[], None]] = {}
        network.attach(self)

    def room(self) -> list[memoryview] | None:
        return [memoryview(self._buffer)] if self.buffers else None

    def commit(self, size: int) -> None:
        self.buffers -= 1
        self.frames.append(bytes(self._buffer[:size]))

    def watch(self, descriptor: int, callback: Callable[[], None], events: int = 1) -> None:
        known = descriptor in self.callbacks
        self.callbacks[descriptor] = callback
        (self._poll.modify if known else self._poll.register)(descriptor, events)

    def forget(self, descriptor: int) -> None:
        if self.callbacks.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def turn(self, timeout_s: float = WAIT_S) -> bool:
        """Let the network do what its descriptors are ready for; whether any was."""
        events = self._poll.poll(timeout_s)
        for descriptor, _ in events:
            if descriptor in self.callbacks:
                self.callbacks[descriptor]()
        return bool(events)

    def send(self, frame: bytes, *cuts: int) -> None:
        """Send a frame, in pieces that end at *cuts*."""
        buffer = memoryview(bytearray(frame))
        places = [0, *cuts, len(frame)]
        self.network.send([buffer[a:b] for a, b in pairwise(places)], len(frame))
        self.network.flush()

    def get(self) -> bytes:
        """The next frame that comes, without its header."""
        while not self.frames:
            assert self.turn(), "nothing came"
        return self.frames.popleft()[HEADER_BYTES:]

    def close(self) -> None:
        self.network.close()
        self._poll.close()

    # Packets

    def envelope(self, target: bytes, protocol: int) -> Envelope:
        source = ADDRESS if len(target) == 4 else ADDRESS6
        return Envelope(MAC, ROUTER_MAC, source, target, protocol)

    def send_udp(self, target: bytes, source_port: int, port: int, data: bytes) -> None:
        frame = udp_frame(self.envelope(target, UDP), source_port, port, data, open_sum=False)
        self.send(frame)

    def get_udp(self) -> tuple[int, int, bytes]:
        """Ports and content of the next datagram."""
        data = self.get_packet(UDP)
        source, target, length, _ = struct.unpack_from(">HHHH", data)
        assert length == len(data)
        return source, target, data[8:]

    def get_packet(self, protocol: int) -> bytes:
        """What is behind the IP header of the next packet of *protocol*."""
        while True:
            frame = self.get()
            kind = frame[12:14]
            if kind == b"\x08\0" and frame[14 + 9] == protocol:
                assert ones_sum(frame[14:34]) == 0xFFFF, "the header's checksum is wrong"
                return frame[34 : 14 + int.from_bytes(frame[16:18], "big")]
            if kind == b"\x86\xdd" and frame[14 + 6] == protocol:
                return frame[54 : 54 + int.from_bytes(frame[18:20], "big")]

    def ping(self, target: bytes) -> bytes:
        message = bytes((8, 0, 0, 0, 1, 2, 0, 1)) + b"payload"
        self.send(icmp_frame(self.envelope(target, ICMP), message))
        return self.get_packet(ICMP)

    def send_tcp(
        self, target: bytes, source_port: int, port: int, sequence: int, acknowledged: int,
        flags: int, data: bytes = b"", window: int = 65535, options: bytes = b"",
    ) -> None:  # fmt: skip
        header = struct.pack(
            ">HHIIBBHHH", source_port, port, sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF,
            5 + len(options) // 4 << 4, flags, window, 0, 0,
        ) + options  # fmt: skip
        self.send(self.envelope(target, TCP).frame(header, 16, data))

    def get_tcp(self) -> Segment:
        data = self.get_packet(TCP)
        source, target, sequence, acknowledged, length, flags, window, _, _ = struct.unpack_from(
            ">HHIIBBHHH", data
        )
        return Segment(
            source, target, sequence, acknowledged, flags, window, data[(length >> 4) * 4 :]
        )


class Connection:
    """The guest's end of a TCP connection to *port* of *target*."""

    def __init__(self, guest: Guest, target: bytes, port: int, own_port: int = 1000) -> None:
        self.guest, self.target, self.port, self.own_port = guest, target, port, own_port
        self.sequence, self.expected = 5000, 0

    def open(self, options: bytes = b"\x02\x04\xff\x00\x01\x03\x03\x07") -> Segment:
        self.emit(SYN, options=options)
        self.sequence += 1
        answer = self.guest.get_tcp()
        if answer.flags == SYN | ACK:
            self.expected = answer.sequence + 1
            self.emit(ACK)
        return answer

    def emit(self, flags: int, data: bytes = b"", **more: int | bytes) -> None:
        self.guest.send_tcp(
            self.target, self.own_port, self.port, self.sequence, self.expected, flags, data,
            **more,  # type: ignore[arg-type]
        )  # fmt: skip

    def send(self, data: bytes) -> None:
        self.emit(ACK | PSH, data)
        self.sequence += len(data)

    def receive(self, size: int) -> bytes:
        """*size* bytes, acknowledged as they come."""
        found = b""
        while len(found) < size:
            segment = self.guest.get_tcp()
            assert not segment.flags & RST
            if segment.data and segment.sequence == self.expected & 0xFFFFFFFF:
                found += segment.data
                self.expected += len(segment.data)
                self.emit(ACK)
        return found
