"""The NBD server: one image, offered to any number of clients.

Each connection has a few workers. One of them at a time waits for the next request, takes it
with its data, lets the next worker wait, and carries it out: no request is handed from thread
to thread. A client is hostile until proven otherwise: what it sends is bounded before memory
is taken for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.image import Content, Image
from tandemu.host.disk.nbd import protocol as p

_WORKERS = 4
_MOST_CONNECTIONS = 64
_HANDSHAKE_S = 30.0
_MOST_OPTIONS = 32
_MOST_EXTENTS = 4096
_HOLES_FROM_BYTES = 64 << 10
"""Shorter reads are answered in one piece."""


@dataclass(slots=True)
class _Session:
    """What a client has agreed on."""

    structured: bool = False
    allocation: bool = False
    no_zeroes: bool = False


class Connection:
    """One client."""

    def __init__(self, image: Image, name: str, peer: socket.socket) -> None:
        self._image = image
        self._name = name.encode("utf-8", "surrogateescape")
        self._peer = peer
        self._session = _Session()
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._gone = False

    # ---- negotiation ----------------------------------------------------------------------

    def negotiate(self) -> bool:
        """Agree with the client; whether it now sends requests."""
        peer = self._peer
        flags = p.FIXED_NEWSTYLE | p.NO_ZEROES
        p.send(peer, [struct.pack(">QQH", p.INIT_MAGIC, p.OPTION_MAGIC, flags)])
        (client_flags,) = struct.unpack(">I", p.receive(peer, 4))
        if client_flags & ~flags:
            return False
        self._session.no_zeroes = bool(client_flags & p.NO_ZEROES)
        for _ in range(_MOST_OPTIONS):
            magic, option, length = p.OPTION.unpack(p.receive(peer, p.OPTION.size))
            if magic != p.OPTION_MAGIC or length > p.MAX_OPTION_BYTES:
                return False
            data = p.receive(peer, length)
            done = self._option(option, data)
            if done is not None:
                return done
        return False

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        header = p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, kind, len(data))
        p.send(self._peer, [header, data])

    def _option(self, option: int, data: bytes) -> bool | None:
        """Answer one option; whether requests follow, or None if negotiation goes on."""
        if option == p.OPT_EXPORT_NAME:
            if data != self._name:
                return False
            padding = b"" if self._session.no_zeroes else bytes(124)
            size = struct.pack(">QH", self._image.size_bytes, self._flags())
            p.send(self._peer, [size, padding])
            return True
        if option == p.OPT_ABORT:
            self._reply(option, p.REP_ACK)
            return False
        if option in (p.OPT_INFO, p.OPT_GO):
            return self._info(option, data)
        if option == p.OPT_LIST:
            if data:
                self._reply(option, p.REP_INVALID)
            else:
                self._reply(option, p.REP_SERVER, struct.pack(">I", len(self._name)) + self._name)
                self._reply(option, p.REP_ACK)
        elif option == p.OPT_STRUCTURED_REPLY:
            if data:
                self._reply(option, p.REP_INVALID)
            else:
                self._session.structured = True
                self._reply(option, p.REP_ACK)
        elif option in (p.OPT_LIST_META, p.OPT_SET_META):
            self._contexts(option, data)
        else:
            self._reply(option, p.REP_UNSUPPORTED)
        return None

    def _flags(self) -> int:
        flags = p.HAS_FLAGS | p.SEND_FLUSH | p.SEND_FUA | p.MULTI_CONN | p.SEND_CACHE
        if self._session.structured:
            flags |= p.SEND_DF
        if self._image.read_only:
            return flags | p.READ_ONLY
        return flags | p.SEND_TRIM | p.SEND_WRITE_ZEROES

    def _info(self, option: int, data: bytes) -> bool | None:
        try:
            (length,) = struct.unpack_from(">I", data)
            (count,) = struct.unpack_from(">H", data, 4 + length)
        except struct.error:
            self._reply(option, p.REP_INVALID)
            return None
        if len(data) != 6 + length + 2 * count:
            self._reply(option, p.REP_INVALID)
        elif data[4 : 4 + length] != self._name:
            self._reply(option, p.REP_UNKNOWN)
        else:
            size = self._image.size_bytes
            self._reply(option, p.REP_INFO, struct.pack(">HQH", p.INFO_EXPORT, size, self._flags()))
            self._reply(
                option, p.REP_INFO, struct.pack(">HIII", p.INFO_BLOCK_SIZE, 1, 4096, p.MAX_BYTES)
            )
            self._reply(option, p.REP_ACK)
            return True if option == p.OPT_GO else None
        return None

    def _contexts(self, option: int, data: bytes) -> None:
        try:
            (length,) = struct.unpack_from(">I", data)
            name = data[4 : 4 + length]
            (count,) = struct.unpack_from(">I", data, 4 + length)
            at, queries = 8 + length, []
            for _ in range(min(count, 1000)):
                (size,) = struct.unpack_from(">I", data, at)
                queries.append(data[at + 4 : at + 4 + size])
                at += 4 + size
            valid = at == len(data)
        except struct.error:
            valid = False
        if not valid or (option == p.OPT_SET_META and not self._session.structured):
            self._reply(option, p.REP_INVALID)
            return
        if name != self._name:
            self._reply(option, p.REP_UNKNOWN)
            return
        wanted = p.ALLOCATION in queries
        if option == p.OPT_SET_META:
            self._session.allocation = wanted
        elif not queries or b"base:" in queries:
            wanted = True
        if wanted:
            self._reply(option, p.REP_META, struct.pack(">I", 0) + p.ALLOCATION)
        self._reply(option, p.REP_ACK)

    # ---- requests -------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until the client has gone."""
        workers = [
            threading.Thread(target=self._work, name="nbd-worker", daemon=True)
            for _ in range(_WORKERS - 1)
        ]
        for worker in workers:
            worker.start()
        self._work()
        for worker in workers:
            worker.join()
        with contextlib.suppress(OSError):
            self._image.flush()

    def _work(self) -> None:
        buffer = bytearray(1 << 16)
        while True:
            with self._receiving:
                if self._gone:
                    return
                try:
                    head = p.REQUEST.unpack(p.receive(self._peer, p.REQUEST.size))
                    magic, flags, command, handle, offset, length = head
                    takes = length if command == p.CMD_WRITE else 0
                    if magic != p.REQUEST_MAGIC or takes > p.MAX_BYTES:
                        raise p.Disconnected("no request")
                    needed = length if command in (p.CMD_READ, p.CMD_WRITE) else 0
                    if len(buffer) < needed <= p.MAX_BYTES:
                        buffer = bytearray(needed)
                    if takes:
                        p.receive_into(self._peer, [memoryview(buffer)[:length]])
                except OSError:
                    self._gone = True
                    return
                if command == p.CMD_DISCONNECT:
                    self._gone = True
                    return
            try:
                self._carry_out(command, flags, handle, offset, length, memoryview(buffer))
            except OSError:
                # Only sending raises: the client has gone. Whoever waits for it is woken.
                self._gone = True
                with contextlib.suppress(OSError):
                    self._peer.shutdown(socket.SHUT_RDWR)
                return

    def _carry_out(
        self, command: int, flags: int, handle: int, offset: int, length: int, data: memoryview
    ) -> None:
        image = self._image
        code = self._check(command, flags, offset, length)
        if code:
            self._answer(handle, code)
            return
        try:
            if command == p.CMD_READ:
                image.readv(offset, [data[:length]])
            elif command == p.CMD_WRITE:
                image.writev(offset, [data[:length]])
            elif command == p.CMD_TRIM:
                image.discard(offset, length)
            elif command == p.CMD_WRITE_ZEROES:
                image.write_zeroes(offset, length, not flags & p.FLAG_NO_HOLE)
            elif command == p.CMD_BLOCK_STATUS:
                states = self._states(offset, length, one=bool(flags & p.FLAG_ONE))
            if command == p.CMD_FLUSH or flags & p.FLAG_FUA:
                image.flush()
        except OSError as error:
            self._answer(handle, error.errno if error.errno in p.ERRORS else errno.EIO)
            return
        if command == p.CMD_READ:
            self._answer_read(handle, offset, data[:length], whole=bool(flags & p.FLAG_DF))
        elif command == p.CMD_BLOCK_STATUS:
            self._chunk(handle, p.CHUNK_DONE, p.CHUNK_STATUS, struct.pack(">I", 0), states)
        else:
            self._answer(handle, 0)

    def _check(self, command: int, flags: int, offset: int, length: int) -> int:
        """The error that a request deserves at once, or 0."""
        allowed = {
            p.CMD_READ: p.FLAG_DF,
            p.CMD_WRITE: p.FLAG_FUA,
            p.CMD_FLUSH: 0,
            p.CMD_TRIM: p.FLAG_FUA,
            p.CMD_CACHE: 0,
            p.CMD_WRITE_ZEROES: p.FLAG_FUA | p.FLAG_NO_HOLE,
            p.CMD_BLOCK_STATUS: p.FLAG_ONE,
        }.get(command)
        # A client may always say that all is to be durable.
        if allowed is None or flags & ~(allowed | p.FLAG_FUA):
            return errno.EINVAL
        changes = command in (p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES)
        if changes and self._image.read_only:
            return errno.EPERM
        if command == p.CMD_FLUSH:
            return errno.EINVAL if offset or length else 0
        if not length or (command == p.CMD_READ and length > p.MAX_BYTES):
            return errno.EINVAL
        if command == p.CMD_BLOCK_STATUS and not self._session.allocation:
            return errno.EINVAL
        if offset + length > self._image.size_bytes:
            return errno.ENOSPC if changes else errno.EINVAL
        return 0

    def _states(self, offset: int, length: int, *, one: bool) -> bytes:
        """Descriptors of what is allocated, for the context base:allocation."""
        found: list[list[int]] = []
        for extent in self._image.extents(offset, length):
            state = {
                Content.DATA: 0,
                Content.ZERO: p.STATE_HOLE | p.STATE_ZERO,
                Content.ABSENT: p.STATE_HOLE | p.STATE_ZERO,
            }[extent.content]
            if found and found[-1][1] == state:
                found[-1][0] += extent.length
            elif (one and found) or len(found) == _MOST_EXTENTS:
                break
            else:
                found.append([extent.length, state])
        return b"".join(struct.pack(">II", size, state) for size, state in found)

    def _answer(self, handle: int, code: int) -> None:
        if not self._session.structured:
            with self._sending:
                p.send(self._peer, [p.SIMPLE_REPLY.pack(p.SIMPLE_MAGIC, code, handle)])
        elif code:
            self._chunk(handle, p.CHUNK_DONE, p.CHUNK_ERROR + 1, struct.pack(">IH", code, 0))
        else:
            self._chunk(handle, p.CHUNK_DONE, p.CHUNK_NONE)

    def _chunk(self, handle: int, flags: int, kind: int, *pieces: bytes | memoryview) -> None:
        length = sum(map(len, pieces))
        head = p.CHUNK.pack(p.STRUCTURED_MAGIC, flags, kind, handle, length)
        with self._sending:
            p.send(self._peer, [head, *pieces])

    def _answer_read(self, handle: int, offset: int, data: memoryview, *, whole: bool) -> None:
        if not self._session.structured:
            with self._sending:
                head = p.SIMPLE_REPLY.pack(p.SIMPLE_MAGIC, 0, handle)
                p.send(self._peer, [head, data])
            return
        parts = [(offset, len(data), False)]
        if not whole and len(data) >= _HOLES_FROM_BYTES:
            parts = list(self._parts(offset, len(data)))
        for number, (begin, length, zero) in enumerate(parts, 1):
            done = p.CHUNK_DONE if number == len(parts) else 0
            if zero:
                self._chunk(handle, done, p.CHUNK_HOLE, struct.pack(">QI", begin, length))
            else:
                piece = data[begin - offset : begin - offset + length]
                self._chunk(handle, done, p.CHUNK_DATA, struct.pack(">Q", begin), piece)

    def _parts(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, is_zero) of a range."""
        try:
            extents = list(self._image.extents(offset, length))
        except OSError:
            extents = []
        if not 0 < len(extents) <= 16:
            yield offset, length, False
            return
        for one in extents:
            yield one.offset, one.length, one.content is not Content.DATA


class Server:
    """Listens on a Unix *socket_path*, or on *host* and *port*, and offers *image* as *name*.

    `DiskError` if it cannot listen there.
    """

    def __init__(
        self, image: Image, *, name: str = "", socket_path: str = "", host: str = "", port: int = 0
    ) -> None:
        self._image = image
        self._name = name
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._socket_path = socket_path
        where = socket_path or f"{host}:{port}"
        try:
            if socket_path:
                self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._listener.bind(socket_path)
                self._listener.listen(16)
                self.address = p.Address(socket=socket_path, export=name)
            else:
                family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
                self._listener = socket.create_server((host, port), family=family, backlog=16)
                bound = self._listener.getsockname()[1]
                self.address = p.Address(host=host, port=bound, export=name)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise DiskError(f"cannot listen on {where}: {why}") from error

    def serve(self, *, once: bool = False, on_client: Callable[[], None] = lambda: None) -> None:
        """Serve clients until `close`; *once*: until the first that sent requests has gone."""
        while not self._closed:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closed or len(self._connections) >= _MOST_CONNECTIONS:
                    peer.close()
                    continue
                thread = threading.Thread(
                    target=self._serve_one, args=(peer, once), name="nbd", daemon=True
                )
                self._connections[peer] = thread
            on_client()
            thread.start()

    def _serve_one(self, peer: socket.socket, once: bool) -> None:
        transmitted = False
        try:
            if peer.family != socket.AF_UNIX:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.settimeout(_HANDSHAKE_S)
            connection = Connection(self._image, self._name, peer)
            if connection.negotiate():
                transmitted = True
                peer.settimeout(None)
                connection.serve()
        except OSError:
            pass  # the client has gone
        finally:
            with self._lock:
                self._connections.pop(peer, None)
            peer.close()
            if transmitted and once:
                self.stop()

    def stop(self) -> None:
        """Take no more clients; `serve` returns. May be called in a signal handler."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it: clients are cut off, after what they asked for is answered or not."""
        self.stop()
        with self._lock:
            connections = list(self._connections.items())
        for peer, thread in connections:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            thread.join()
        self._listener.close()
        if self._socket_path:
            with contextlib.suppress(OSError):
                os.unlink(self._socket_path)
