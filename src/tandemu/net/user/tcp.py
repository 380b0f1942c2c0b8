"""The guest's TCP packets to their connections, and forwards' connections to the guest."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Callable

from tandemu.net.packets import TCP, between
from tandemu.net.user.connection import ACK, FIN, HEADER_BYTES, RST, SYN, Connection, Phase
from tandemu.net.user.hub import Hub, socket_family

_HEADER = struct.Struct(">HHIIBBHHH")
_MOST_CONNECTIONS = 4096
_MOST_UNOPENED = 512

Service = Callable[[], socket.socket]
"""What serves connections to an address of the network's own: it returns the guest's end."""


class TcpTable:
    """All TCP of one user network; *services* are by address and port."""

    def __init__(self, hub: Hub, services: dict[tuple[bytes, int], Service]) -> None:
        self.hub, self.services = hub, services
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(_MOST_CONNECTIONS, max(soft // 2, 16))
        self._next_port = 49152

    def take(
        self, source: bytes, target: bytes, head: bytes, at: int,
        views: list[memoryview], end: int,
    ) -> None:  # fmt: skip
        """A packet from *source* to *target*: its header is at *at* of *head*, its end at *end*."""
        if end - at < HEADER_BYTES or len(head) < at + HEADER_BYTES:
            self.hub.drop()
            return
        source_port, target_port, sequence, acknowledged, length, flags, window, _, _ = (
            _HEADER.unpack_from(head, at)
        )
        length = (length >> 4) * 4
        if not HEADER_BYTES <= length <= end - at:
            self.hub.drop()
            return
        key = source + target + head[at : at + 4]
        known = self.hub.connections.get(key)
        size = end - at - length
        if known is not None:
            data = between(views, at + length, end) if size else []
            options = head[at + HEADER_BYTES : at + length] if flags & SYN else b""
            known.take(sequence, acknowledged, flags, window, options, data, size)
        elif flags & (SYN | ACK | RST | FIN) == SYN:
            options = head[at + HEADER_BYTES : at + length]
            guest, remote = (source, source_port), (target, target_port)
            self._open(key, guest, remote, sequence, window, options)
        elif not flags & RST:
            self._refuse(source, target, head[at : at + 4], sequence, acknowledged, flags, size)

    def _refuse(
        self, source: bytes, target: bytes, ports: bytes, sequence: int, acknowledged: int,
        flags: int, size: int,
    ) -> None:  # fmt: skip
        """Answer a packet of no connection's (RFC 9293, section 3.10.7.1)."""
        size += bool(flags & SYN) + bool(flags & FIN)
        expected = 0 if flags & ACK else sequence + size & 0xFFFF_FFFF
        header = ports[2:] + ports[:2] + struct.pack(
            ">IIBBHHH", acknowledged if flags & ACK else 0, expected, 5 << 4,
            RST if flags & ACK else RST | ACK, 0, 0, 0,
        )  # fmt: skip
        self.hub.emit(self.hub.envelope(target, source, TCP).frame(header, 16, b""))

    def _open(
        self, key: bytes, guest: tuple[bytes, int], remote: tuple[bytes, int],
        sequence: int, window: int, options: bytes,
    ) -> None:  # fmt: skip
        """The guest wants a connection."""
        hub = self.hub

        def refuse() -> None:
            self._refuse(guest[0], remote[0], key[-4:], sequence, 0, SYN, 0)

        if not self._has_room():
            hub.drop()
            return
        service = self.services.get(remote)
        place = None if service else hub.target(*remote, "a connection")
        if service is None and place is None:
            refuse()
            return
        try:
            if service is not None:
                sock = service()
            else:
                assert place is not None
                sock = socket.socket(socket_family(place[0]), socket.SOCK_STREAM)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            refuse()
            return
        sock.setblocking(False)
        connection = Connection(hub, key, guest, remote, sock, Phase.CONNECTING)
        connection.begin(sequence, window, options)
        hub.connections[key] = connection
        hub.opening[connection] = None
        if place is None:
            connection.connected(0)
            return
        try:
            error = sock.connect_ex(place)
        except OSError as problem:
            error = problem.errno or 1
        if error in (0, 11, 115):  # EAGAIN, EINPROGRESS
            connection.watch()
        else:
            connection.connected(error)

    def _has_room(self) -> bool:
        """Whether there may be one connection more; the guest tries again if not."""
        hub = self.hub
        return len(hub.opening) < _MOST_UNOPENED and len(hub.connections) < self._most

    def call(self, sock: socket.socket, guest: bytes, port: int) -> None:
        """A program of the host's, behind *sock*, wants *port* of the guest at *guest*."""
        hub = self.hub
        if hub.port is None or not self._has_room():
            sock.close()
            return
        sock.setblocking(False)
        source = hub.plan.gateway6 if len(guest) == 16 else hub.plan.gateway4
        for _ in range(16384):
            self._next_port = 49152 + (self._next_port + 1 - 49152) % 16384
            key = guest + source + struct.pack(">HH", port, self._next_port)
            if key not in hub.connections:
                break
        else:
            sock.close()
            return
        remote = source, self._next_port
        connection = Connection(hub, key, (guest, port), remote, sock, Phase.CALLING)
        hub.connections[key] = connection
        hub.opening[connection] = None
        connection.call()

    def flush(self) -> None:
        """Tell the guest what was taken of it in this batch."""
        owing = self.hub.owing
        if owing:
            connections = list(owing)
            owing.clear()
            for connection in connections:
                if connection.owes:
                    connection.answer()

    def look_after(self, now_s: float) -> bool:
        """Send again what is due; whether anything is waited for."""
        unanswered = self.hub.unanswered
        for connection in list(unanswered):
            if not connection.look_after(now_s):
                unanswered.pop(connection, None)
        return bool(unanswered)

    def close(self) -> None:
        """Forget all connections."""
        for connection in list(self.hub.connections.values()):
            connection.close(abort=True)
