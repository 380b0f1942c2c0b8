"""One TCP connection of the guest's (RFC 9293), whose other end is a socket of the host's.

The link to the guest loses nothing but what the guest itself drops, so this end is simple: what the
guest sends out of order is asked for again, and what it does not acknowledge is sent again. The
window that the guest is told of is the room there is for what the host's socket does not take, and
what is on its way to the guest is bounded too: neither side's memory grows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections import deque
from enum import Enum, auto

from tandemu.net.link import NO_SEGMENTS, TCP4_SEGMENTS, TCP6_SEGMENTS, Offload
from tandemu.net.packets import TCP, between
from tandemu.net.user.hub import Hub

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
_HEADER = struct.Struct(">HHIIBBHHH")
HEADER_BYTES = _HEADER.size
_CHECKSUM_PLACE = 16
_ROOM_BYTES = 1 << 20
_ROOM_SHIFT = 5
_MOST_IN_FLIGHT = 2 << 20
_LARGEST_SEGMENT = 65535 - 60 - HEADER_BYTES
_SEGMENTS_A_TURN = 16
_RETRY_S, _LONGEST_RETRY_S, _MOST_RETRIES = 0.4, 8.0, 7
_LINGER_S = 60.0
_WORD = 0xFFFF_FFFF
_HALF = 1 << 31


class Phase(Enum):
    """How far a connection is."""

    CONNECTING = auto()
    """The guest has asked; the host's socket is not connected yet."""
    ANSWERED = auto()
    """The guest was told that it is, and has not confirmed."""
    CALLING = auto()
    """A program of the host's wants the guest, which has not answered."""
    OPEN = auto()
    CLOSED = auto()


def behind(a: int, b: int) -> int:
    """How far sequence number *a* is behind *b*: negative if it is before."""
    return (a - b + _HALF & _WORD) - _HALF


def read_options(data: bytes) -> tuple[int, int | None]:
    """The largest segment and the window scale in the options of a SYN (sections 3.2, RFC 7323)."""
    size, scale = 536, None
    while data and data[0] != 0:
        if data[0] == 1:
            data = data[1:]
            continue
        if len(data) < 2 or not 2 <= data[1] <= len(data):
            break
        if data[:2] == b"\x02\x04":
            size = max(int.from_bytes(data[2:4], "big"), 64)
        elif data[:2] == b"\x03\x03":
            scale = min(data[2], 14)
        data = data[data[1] :]
    return size, scale


class Connection:
    """A connection between the guest's *guest* and *remote*, each a packed address and a port."""

    def __init__(
        self,
        hub: Hub,
        key: bytes,
        guest: tuple[bytes, int],
        remote: tuple[bytes, int],
        sock: socket.socket,
        phase: Phase,
    ) -> None:
        self.hub, self.key, self.socket, self.phase = hub, key, sock, phase
        self.guest_port, self.remote_port = guest[1], remote[1]
        self.envelope = hub.envelope(remote[0], guest[0], TCP)
        self.events = 0
        self.to_host = bytearray()
        """What the host's socket has not taken yet."""
        self.unacknowledged: deque[bytes] = deque()
        self.sent_to = int.from_bytes(os.urandom(4), "big")
        self.acknowledged = self.sent_to
        self.expected = 0
        """The sequence number that the guest sends next."""
        self.told_window = 0
        self.guest_window = 0
        self.guest_scale: int | None = None
        self.segment = 536
        self.repeats = self.retries = 0
        self.retry_at_s = 0.0
        self.owes = False
        """Whether the guest is to hear what was taken, or of more room."""
        self.guest_ended = self.host_ended = self.end_sent = False
        self.shut = False
        """Whether the host's socket was told that nothing more comes."""

    # Packets to the guest ------------------------------------------------------------------

    def _window(self) -> int:
        scale = _ROOM_SHIFT if self.guest_scale is not None else 0
        self.told_window = min(max(_ROOM_BYTES - len(self.to_host), 0) >> scale, 0xFFFF) << scale
        return self.told_window >> scale

    def _head(self, sequence: int, flags: int, sum_: int, options: bytes = b"") -> bytes:
        if flags & SYN:
            # The window of a SYN is never scaled (RFC 7323, section 2.2).
            window = min(_ROOM_BYTES, 0xFFFF)
            self.told_window = window
        else:
            window = self._window()
        return _HEADER.pack(
            self.remote_port, self.guest_port, sequence, self.expected if flags & ACK else 0,
            5 + len(options) // 4 << 4, flags, window, sum_, 0,
        ) + options  # fmt: skip

    def control(self, flags: int, sequence: int | None = None) -> None:
        """Send a packet without data."""
        if sequence is None:
            sequence = self.sent_to
        options = b""
        if flags & SYN:
            size = self.hub.plan.mtu - self.envelope.ip_bytes - HEADER_BYTES
            options = b"\x02\x04" + size.to_bytes(2, "big")
            if self.guest_scale is not None or self.phase is Phase.CALLING:
                options += bytes((1, 3, 3, _ROOM_SHIFT))
        self.owes = False
        self.hub.emit(self._frame(self._head(sequence, flags, 0, options), flags))

    def _frame(self, head: bytes, flags: int) -> bytes:
        if not self.hub.checksums_open:
            return self.envelope.frame(head, _CHECKSUM_PLACE, b"")
        front, sum_ = self.envelope.open_header(len(head), _CHECKSUM_PLACE)
        return front + head[:_CHECKSUM_PLACE] + sum_.to_bytes(2, "big") + head[18:]

    def answer(self) -> None:
        """Tell the guest what was taken."""
        if self.phase is Phase.OPEN:
            self.control(ACK)

    def _send(self, views: list[memoryview], sequence: int, data: bytes) -> None:
        """Put *data* into the guest's buffer."""
        hub = self.hub
        length = HEADER_BYTES + len(data)
        if hub.checksums_open:
            kind = NO_SEGMENTS
            if len(data) > self.segment:
                kind = TCP6_SEGMENTS if self.envelope.is_v6 else TCP4_SEGMENTS
            front, sum_ = self.envelope.open_header(
                length, _CHECKSUM_PLACE, kind, self.segment if kind else 0, HEADER_BYTES
            )
            frame = b"".join((front, self._head(sequence, ACK | PSH, sum_), data))
        else:
            frame = self.envelope.frame(self._head(sequence, ACK | PSH, 0), _CHECKSUM_PLACE, data)
        self.owes = False
        hub.put(views, frame)

    def _largest(self) -> int:
        """How many bytes one packet may carry."""
        port = self.hub.port
        wanted = Offload.TCP6 if self.envelope.is_v6 else Offload.TCP4
        if port is None or not port.accepts & wanted:
            return self.segment
        return max(_LARGEST_SEGMENT // self.segment, 1) * self.segment

    # What the guest sends ------------------------------------------------------------------

    def take(
        self, sequence: int, acknowledged: int, flags: int, window: int, options: bytes,
        data: list[memoryview], size: int,
    ) -> None:  # fmt: skip
        """A packet of the guest's, with *size* bytes of *data*."""
        if flags & RST:
            self._reset_by_guest(sequence)
            return
        if flags & SYN:
            self._take_syn(sequence, acknowledged, flags, window, options)
            return
        if self.phase in (Phase.CONNECTING, Phase.CALLING) or not flags & ACK:
            return
        new = behind(acknowledged, self.acknowledged)
        if new < 0 or behind(acknowledged, self.sent_to) > 0:
            if new > 0 or size:
                self.control(ACK)
            return
        before = self.guest_window
        self.guest_window = window << (self.guest_scale or 0)
        if self.phase is Phase.ANSWERED:
            if not new:
                return
            self._opened()
            self.acknowledged = self.acknowledged + 1 & _WORD
            new -= 1
        if new:
            self._acknowledge(new)
        elif self.unacknowledged and not size and self.guest_window == before:
            self.repeats += 1
            if self.repeats == 3:
                self.send_again()
        if size or flags & FIN:
            self._take_data(sequence, flags, data, size)
        self.push_again()

    def _reset_by_guest(self, sequence: int) -> None:
        if self.phase is Phase.CALLING or behind(sequence, self.expected) in range(_ROOM_BYTES):
            self.close(abort=True)

    def _take_syn(
        self, sequence: int, acknowledged: int, flags: int, window: int, options: bytes
    ) -> None:
        if self.phase is Phase.CALLING and flags & ACK:
            if acknowledged != self.sent_to:
                return
            self.begin(sequence, window, options)
            self.acknowledged = self.sent_to
            self._opened()
            self.control(ACK)
            self.push_again()
        elif self.phase is Phase.ANSWERED:
            self.control(SYN | ACK, self.acknowledged)
        elif self.phase is Phase.OPEN:
            self.control(ACK)

    def _opened(self) -> None:
        self.phase = Phase.OPEN
        self.retries = 0
        self.hub.counters["connections"] += 1
        self.hub.opening.pop(self, None)

    def begin(self, sequence: int, window: int, options: bytes) -> None:
        """The guest's SYN: what it can take."""
        size, self.guest_scale = read_options(options)
        self.segment = min(size, self.hub.plan.mtu - self.envelope.ip_bytes - HEADER_BYTES)
        self.expected = sequence + 1 & _WORD
        self.guest_window = window

    def _acknowledge(self, count: int) -> None:
        self.acknowledged = self.acknowledged + count & _WORD
        self.repeats = self.retries = 0
        self.retry_at_s = self.hub.now_s() + _RETRY_S
        queue = self.unacknowledged
        while count and queue:
            first = queue[0]
            if len(first) <= count:
                count -= len(first)
                queue.popleft()
            else:
                queue[0] = first[count:]
                count = 0

    def _take_data(self, sequence: int, flags: int, data: list[memoryview], size: int) -> None:
        known = behind(self.expected, sequence)
        self.owes = True
        self.hub.owing[self] = None
        if known < 0 or known > size or self.guest_ended:
            return  # out of order, or known already: the guest hears what is expected
        if known:
            data, size = between(data, known, size), size - known
        room = _ROOM_BYTES - len(self.to_host)
        taken = min(size, room)
        if taken and not self.shut:
            self._give(between(data, 0, taken) if taken < size else data, taken)
        self.expected = self.expected + taken & _WORD
        if flags & FIN and taken == size:
            self.expected = self.expected + 1 & _WORD
            self.guest_ended = True

    def _give(self, data: list[memoryview], size: int) -> None:
        """Give data of the guest's to the host's socket, or keep it."""
        done = 0
        if not self.to_host:
            try:
                done = self.socket.sendmsg(data)
            except BlockingIOError:
                done = 0
            except OSError:
                self.fail()
                return
        if done < size:
            for view in between(data, done, size):
                self.to_host += view
            self.watch()

    # What the host's socket does -----------------------------------------------------------

    def watch(self) -> None:
        """Hear of the host's socket what can be used now."""
        if self.phase is Phase.CLOSED:
            return
        events = 0
        if self.phase is Phase.CONNECTING or self.to_host:
            events |= select.EPOLLOUT
        if self.phase is Phase.OPEN and not self.host_ended and self._wants_more:
            events |= select.EPOLLIN | select.EPOLLRDHUP
        if events != self.events and self.hub.port is not None:
            self.events = events
            if events:
                self.hub.port.watch(self.socket.fileno(), self.ready, events)
            else:
                self.hub.port.forget(self.socket.fileno())

    _wants_more = True

    def ready(self) -> None:
        """The host's socket can be read or written, or is broken."""
        if self.phase is Phase.CONNECTING:
            self.connected(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            return
        if self.to_host and not self._drain():
            return
        self.push_again()

    def connected(self, error: int) -> None:
        """The host's socket is connected, or *error* says why not."""
        if error:
            self.hub.policy.log.append(f"a connection failed: {os.strerror(error)}")
            self.fail()
            return
        self.phase = Phase.ANSWERED
        self.control(SYN | ACK)
        self.sent_to = self.sent_to + 1 & _WORD
        self._expect_answer()
        self.watch()

    def call(self) -> None:
        """Ask the guest for the connection that a program of the host's wants."""
        self.control(SYN)
        self.sent_to = self.sent_to + 1 & _WORD
        self._expect_answer()

    def _expect_answer(self) -> None:
        self.retry_at_s = self.hub.now_s() + _RETRY_S
        self.hub.unanswered[self] = None
        self.hub.wants_tick()

    def _drain(self) -> bool:
        try:
            done = self.socket.send(self.to_host)
        except BlockingIOError:
            return True
        except OSError:
            self.fail()
            return False
        del self.to_host[:done]
        # Worth telling once the guest can send a good deal more than it knows of.
        room = _ROOM_BYTES - len(self.to_host)
        if room - self.told_window >= _ROOM_BYTES // 4:
            self.answer()
        return True

    def push(self) -> None:
        """Give the guest what the host's socket has for it, as far as both go."""
        if self.phase is not Phase.OPEN or self.host_ended:
            return
        hub = self.hub
        port = hub.port
        assert port is not None
        self._wants_more = True
        for _ in range(_SEGMENTS_A_TURN):
            flight = self.sent_to - self.acknowledged & _WORD
            limit = min(self.guest_window, _MOST_IN_FLIGHT) - flight
            size = min(limit, self._largest())
            if size <= 0 or (flight and size < min(self.segment, self.guest_window // 2)):
                self._wants_more = False
                break
            views = None if hub.waiting else port.room()
            if views is None:
                self._wants_more = False
                hub.blocked[self.push_again] = None
                break
            room = sum(map(len, views)) - 12 - self.envelope.offset - HEADER_BYTES
            size = min(size, room)
            if size <= 0:
                hub.drop()
                break
            try:
                data = self.socket.recv(size)
            except BlockingIOError:
                break
            except OSError:
                self.fail()
                return
            if not data:
                self.host_ended = True
                break
            self._send(views, self.sent_to, data)
            if not self.unacknowledged:
                self._expect_answer()
            self.unacknowledged.append(data)
            self.sent_to = self.sent_to + len(data) & _WORD
            if len(data) < size:
                break
        if self.host_ended and not self.end_sent:
            self.end_sent = True
            self.control(FIN | ACK)
            self.sent_to = self.sent_to + 1 & _WORD
            self._expect_answer()

    def push_again(self) -> None:
        """`push`, and then what follows from where the connection stands."""
        self.push()
        self._finish()
        self.watch()

    # The end -------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Hand the guest's end on, and forget the connection once both have ended."""
        if self.phase is not Phase.OPEN:
            return
        if self.guest_ended and not self.to_host and not self.shut:
            self.shut = True
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    self.fail()
                    return
        if self.shut and self.end_sent and self.acknowledged == self.sent_to:
            if self.owes:
                self.answer()
            self.close()

    def look_after(self, now_s: float) -> bool:
        """Send again what was not acknowledged; False: nothing is waited for."""
        if self.phase is Phase.CLOSED or self.acknowledged == self.sent_to:
            return False
        if now_s < self.retry_at_s:
            return True
        self.retries += 1
        if self.retries > _MOST_RETRIES:
            self.fail()
            return False
        self.retry_at_s = now_s + min(_RETRY_S * 2**self.retries, _LONGEST_RETRY_S)
        self.send_again()
        return True

    def send_again(self) -> None:
        """Send the first of what the guest has not acknowledged."""
        hub = self.hub
        hub.counters["retransmissions"] += 1
        if self.phase is Phase.ANSWERED:
            self.control(SYN | ACK, self.acknowledged)
        elif self.phase is Phase.CALLING:
            self.control(SYN, self.acknowledged)
        elif self.unacknowledged:
            views = hub.port.room() if hub.port is not None and not hub.waiting else None
            if views is not None:
                self._send(views, self.acknowledged, self.unacknowledged[0])
        elif self.end_sent:
            self.control(FIN | ACK, self.acknowledged)

    def fail(self) -> None:
        """The host's side is broken, or refuses: the guest is told, and that is the end."""
        if self.phase is not Phase.CLOSED:
            flags = RST if self.phase is Phase.CALLING else RST | ACK
            self.control(flags, 0 if self.phase is Phase.CONNECTING else self.sent_to)
            self.close(abort=True)

    def close(self, *, abort: bool = False) -> None:
        """Forget the connection without telling the guest; *abort*: the host sees a reset."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        hub = self.hub
        if self.events and hub.port is not None:
            hub.port.forget(self.socket.fileno())
        if abort:
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):  # not a TCP socket
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()
        self.to_host.clear()
        self.unacknowledged.clear()
        hub.blocked.pop(self.push_again, None)
        hub.owing.pop(self, None)
        hub.opening.pop(self, None)
        hub.unanswered.pop(self, None)
        hub.connections.pop(self.key, None)
