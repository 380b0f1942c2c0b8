"""Numbers and structures of the NBD protocol, and addresses of exports.

Source: doc/proto.md and doc/uri.md of the NetworkBlockDevice project.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tandemu.host.disk.errors import DiskUsageError
from tandemu.host.disk.vectors import cut, length_of

INIT_MAGIC, OPTION_MAGIC = 0x4E42444D41474943, 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF

FIXED_NEWSTYLE, NO_ZEROES = 1, 2
"""Handshake flags."""

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY, OPT_LIST_META, OPT_SET_META = 6, 7, 8, 9, 10

REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
REP_ERROR = 1 << 31
REP_UNSUPPORTED, REP_INVALID, REP_UNKNOWN = REP_ERROR + 1, REP_ERROR + 3, REP_ERROR + 6

INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA = 1, 2, 4, 8
SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF, MULTI_CONN, SEND_CACHE = 32, 64, 128, 256, 1024
"""Transmission flags."""

CMD_READ, CMD_WRITE, CMD_DISCONNECT, CMD_FLUSH = 0, 1, 2, 3
CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 4, 5, 6, 7
FLAG_FUA, FLAG_NO_HOLE, FLAG_DF, FLAG_ONE = 1, 2, 4, 8

CHUNK_DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS = 0, 1, 2, 5
CHUNK_ERROR = 1 << 15
STATE_HOLE, STATE_ZERO = 1, 2
ALLOCATION = b"base:allocation"

REQUEST = struct.Struct(">IHHQQI")
SIMPLE_REPLY = struct.Struct(">IIQ")
CHUNK = struct.Struct(">IHHQI")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")

MAX_BYTES = 32 << 20
"""The most that one request may move (what peers take unless they agree on other sizes)."""
MAX_OPTION_BYTES = 64 << 10
DEFAULT_PORT = 10809

ERRORS = frozenset(
    {
        errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW,
        errno.ENOTSUP, errno.ESHUTDOWN,
    }
)  # fmt: skip
"""What may be answered; the numbers are Linux's."""


class Disconnected(ConnectionError):
    """The peer has gone, or says what it must not."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an export is: a Unix *socket*, or *host* and *port*; and its *export* name."""

    socket: str = ""
    host: str = ""
    port: int = DEFAULT_PORT
    export: str = ""

    @property
    def uri(self) -> str:
        """It as a URI."""
        if self.socket:
            return f"nbd+unix:///{quote(self.export)}?socket={quote(self.socket)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nbd://{host}:{self.port}/{quote(self.export)}"


def parse_uri(text: str) -> Address:
    """The address that a URI names; `DiskUsageError` if it names none.

    >>> parse_uri("nbd://host/disk").port
    10809
    >>> parse_uri("nbd+unix:///?socket=/run/x").socket
    '/run/x'
    """
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORT
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError as error:
        raise DiskUsageError(f"{text} is no NBD address: {error}") from None
    export = unquote(parts.path[1:])
    paths = query.pop("socket", [])
    if query or parts.username or parts.fragment:
        raise DiskUsageError(f"{text} has parts that an NBD address here cannot have")
    if parts.scheme == "nbd+unix":
        if len(paths) != 1 or parts.netloc:
            raise DiskUsageError(f"{text} must be nbd+unix:///NAME?socket=FILE")
        return Address(socket=paths[0], export=export)
    if paths or not parts.hostname:
        raise DiskUsageError(f"{text} must be nbd://HOST[:PORT]/NAME")
    return Address(host=parts.hostname, port=port, export=export)


def receive_into(peer: socket.socket, buffers: Sequence[memoryview]) -> None:
    """Fill *buffers*; `Disconnected` if the peer goes before."""
    wanted, done = length_of(buffers), 0
    while done < wanted:
        rest = cut(buffers, done, wanted - done) if done else list(buffers)
        count = peer.recvmsg_into(rest[:1024])[0]
        if not count:
            raise Disconnected("the peer has closed the connection")
        done += count


def receive(peer: socket.socket, length: int) -> bytes:
    """The next *length* bytes."""
    data = bytearray(length)
    if length:
        receive_into(peer, [memoryview(data)])
    return bytes(data)


def send(peer: socket.socket, pieces: Sequence[bytes | memoryview]) -> None:
    """Send all *pieces*."""
    views = [memoryview(piece) for piece in pieces if len(piece)]
    wanted, done = length_of(views), 0
    while done < wanted:
        rest = cut(views, done, wanted - done) if done else views
        done += peer.sendmsg(rest[:1024])
