"""Messages over a stream socket: a length of four bytes, then so many bytes."""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct("<I")


def send(connection: socket.socket, data: bytes) -> None:
    """Send one message; OSError if the other side is gone."""
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes | None:
    """The next message; None if the other side is gone."""
    prefix = _exactly(connection, _LENGTH.size)
    return None if prefix is None else _exactly(connection, _LENGTH.unpack(prefix)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        try:
            part = connection.recv(min(size, 1 << 20))
        except ConnectionError:
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
