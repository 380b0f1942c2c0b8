"""The NBD client: an image on another host, or in another program.

Requests of several threads are under way at once. Whoever waits for an answer while nobody
reads the socket reads it, for all: data goes straight into the guest's buffers, and no thread
stands between. A server is untrusted: what it sends is checked against what was asked.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.image import Content, Description, Extent, Image
from tandemu.host.disk.nbd import protocol as p
from tandemu.host.disk.vectors import Buffers, cut, fill_zeros

_CONNECT_S = 30.0
_MOST_REPLIES = 1000
_MOST_SIZE = 1 << 62


class _Request:
    """A request under way."""

    __slots__ = ("buffers", "command", "covered", "done", "error", "length", "offset", "states")

    def __init__(self, command: int, offset: int, length: int, buffers: Buffers) -> None:
        self.command, self.offset, self.length, self.buffers = command, offset, length, buffers
        self.covered = 0
        self.done = False
        self.error = 0
        self.states: list[tuple[int, int]] = []


class NbdImage(Image):
    """The export at *address*, as an image. Its connection is not made anew if it breaks."""

    format = "raw"
    is_local = False

    def __init__(self, address: p.Address, *, read_only: bool = False) -> None:
        self.address = address
        self.path = address.uri
        self._structured = self._allocation = False
        self._flags = 0
        self._most = p.MAX_BYTES
        self._least = 1
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._reading = False
        self._pending: dict[int, _Request] = {}
        self._next = 0
        self._trouble = ""
        self._closed = False
        try:
            self._peer = self._connect()
        except OSError as error:
            why = error.strerror or str(error)
            raise DiskError(f"{self.path}: cannot connect: {why}", error.errno or 5) from error
        try:
            self._negotiate()
        except OSError as error:
            self._peer.close()
            if isinstance(error, DiskError):
                raise
            raise DiskError(f"{self.path}: the server does not agree: {error}") from error
        self._peer.settimeout(None)
        self.read_only = read_only or bool(self._flags & p.READ_ONLY)
        if self.read_only and not read_only:
            self.close()
            raise DiskError(f"{self.path} is offered for reading only", errno.EROFS)

    def _connect(self) -> socket.socket:
        address = self.address
        if not address.socket:
            peer = socket.create_connection((address.host, address.port), timeout=_CONNECT_S)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return peer
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(_CONNECT_S)
        try:
            peer.connect(address.socket)
        except BaseException:
            peer.close()
            raise
        return peer

    # ---- negotiation ----------------------------------------------------------------------

    def _negotiate(self) -> None:
        peer = self._peer
        first, magic, flags = struct.unpack(">QQH", p.receive(peer, 18))
        if (first, magic) != (p.INIT_MAGIC, p.OPTION_MAGIC) or not flags & p.FIXED_NEWSTYLE:
            raise DiskError(f"{self.path}: no NBD server answers there, or one from before 2013")
        agreed = p.FIXED_NEWSTYLE | (flags & p.NO_ZEROES)
        p.send(peer, [struct.pack(">I", agreed)])
        name = self.address.export.encode("utf-8", "surrogateescape")
        named = struct.pack(">I", len(name)) + name
        self._structured = any(
            kind == p.REP_ACK for kind, _ in self._ask(p.OPT_STRUCTURED_REPLY, b"")
        )
        if self._structured:
            query = struct.pack(">II", 1, len(p.ALLOCATION)) + p.ALLOCATION
            for kind, data in self._ask(p.OPT_SET_META, named + query):
                if kind == p.REP_META and data[4:] == p.ALLOCATION:
                    self._allocation = True
                    (self._context,) = struct.unpack(">I", data[:4])
        self._go(named)

    def _go(self, named: bytes) -> None:
        size = None
        for kind, data in self._ask(p.OPT_GO, named + struct.pack(">HH", 1, p.INFO_BLOCK_SIZE)):
            if kind == p.REP_UNSUPPORTED:
                size = self._old_go()
            elif kind == p.REP_UNKNOWN:
                raise DiskError(
                    f"{self.path}: the server has no export {self.address.export!r}", errno.ENOENT
                )
            elif kind & p.REP_ERROR:
                why = data.decode("utf-8", "replace")
                raise DiskError(f"{self.path}: the server refuses: {why or hex(kind)}")
            elif kind == p.REP_INFO and len(data) >= 2:
                (what,) = struct.unpack_from(">H", data)
                if what == p.INFO_EXPORT and len(data) == 12:
                    size, self._flags = struct.unpack_from(">QH", data, 2)
                elif what == p.INFO_BLOCK_SIZE and len(data) == 14:
                    self._least, _, most = struct.unpack_from(">III", data, 2)
                    self._most = min(max(most, 4096), p.MAX_BYTES) & -4096
        if size is None or size > _MOST_SIZE:
            raise p.Disconnected("it does not say how large the export is")
        if self._least > 512:
            raise DiskError(
                f"{self.path} has blocks of {self._least} bytes: a disk here has sectors of 512"
            )
        self._bytes = size
        # What is missing of the last sector reads as zeros, and is not written to.
        self.size_bytes = -(-size // 512) * 512

    def _old_go(self) -> int:
        """Choose the export the way that every server knows."""
        name = self.address.export.encode("utf-8", "surrogateescape")
        p.send(self._peer, [p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, len(name)), name])
        size, self._flags = struct.unpack(">QH", p.receive(self._peer, 10))
        return int(size)

    def _ask(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        """Send an option; all its replies, the last of which ends them."""
        p.send(self._peer, [p.OPTION.pack(p.OPTION_MAGIC, option, len(data)), data])
        replies: list[tuple[int, bytes]] = []
        while len(replies) < _MOST_REPLIES:
            magic, about, kind, length = p.OPTION_REPLY.unpack(
                p.receive(self._peer, p.OPTION_REPLY.size)
            )
            if magic != p.OPTION_REPLY_MAGIC or about != option or length > p.MAX_OPTION_BYTES:
                raise p.Disconnected("its replies make no sense")
            replies.append((kind, p.receive(self._peer, length)))
            if kind == p.REP_ACK or kind & p.REP_ERROR:
                return replies
        raise p.Disconnected("its replies do not end")

    # ---- requests -------------------------------------------------------------------------

    def _transact(
        self, command: int, offset: int, length: int, buffers: Buffers = (), flags: int = 0
    ) -> _Request:
        """Send a request and wait for its answer."""
        request = _Request(command, offset, length, buffers)
        with self._state:
            self._check_alive()
            handle = self._next
            self._next += 1
            self._pending[handle] = request
        head = p.REQUEST.pack(p.REQUEST_MAGIC, flags, command, handle, offset, length)
        try:
            with self._sending:
                p.send(self._peer, [head, *(buffers if command == p.CMD_WRITE else ())])
        except OSError as error:
            self._break(error)
        with self._state:
            while not request.done:
                if self._reading:
                    self._state.wait()
                    continue
                self._reading = True
                self._state.release()
                try:
                    self._receive_answer()
                except OSError as error:
                    self._break(error)
                finally:
                    self._state.acquire()
                    self._reading = False
                    self._state.notify_all()
        if request.error:
            raise DiskError(
                self._trouble or f"{self.path}: the server fails: {os.strerror(request.error)}",
                request.error,
            )
        return request

    def _check_alive(self) -> None:
        if self._closed:
            raise DiskError(f"{self.path} is closed", errno.EBADF)
        if self._trouble:
            raise DiskError(self._trouble)

    def _break(self, error: OSError) -> None:
        """The connection is of no more use: all that wait for it fail."""
        with self._state:
            if not self._trouble:
                self._trouble = f"{self.path}: the connection is lost: {error}"
            for request in self._pending.values():
                request.error, request.done = errno.EIO, True
            self._pending.clear()
            self._state.notify_all()

    def _receive_answer(self) -> None:
        """Read one answer, or one chunk of one."""
        (magic,) = struct.unpack(">I", p.receive(self._peer, 4))
        if magic == p.SIMPLE_MAGIC and not self._structured:
            code, handle = struct.unpack(">IQ", p.receive(self._peer, 12))
            request = self._find(handle)
            if not code and request.command == p.CMD_READ:
                p.receive_into(self._peer, request.buffers)
                request.covered = request.length
            self._finish(handle, request, code)
        elif magic == p.STRUCTURED_MAGIC and self._structured:
            self._receive_chunk()
        elif magic == p.SIMPLE_MAGIC:
            # Allowed for all but reads.
            code, handle = struct.unpack(">IQ", p.receive(self._peer, 12))
            request = self._find(handle)
            if request.command == p.CMD_READ and not code:
                raise p.Disconnected("a read is answered in the wrong way")
            self._finish(handle, request, code)
        else:
            raise p.Disconnected("what it sends is no answer")

    def _find(self, handle: int) -> _Request:
        request = self._pending.get(handle)
        if request is None:
            raise p.Disconnected("it answers what nobody asked")
        return request

    def _receive_chunk(self) -> None:
        flags, kind, handle, length = struct.unpack(">HHQI", p.receive(self._peer, 16))
        request = self._find(handle)
        if kind == p.CHUNK_DATA and 8 < length <= request.length + 8:
            (offset,) = struct.unpack(">Q", p.receive(self._peer, 8))
            p.receive_into(self._peer, self._part(request, offset, length - 8))
        elif kind == p.CHUNK_HOLE and length == 12:
            offset, size = struct.unpack(">QI", p.receive(self._peer, 12))
            fill_zeros(self._part(request, offset, size))
        elif kind == p.CHUNK_STATUS and 4 < length <= 4 + (1 << 20) and not (length - 4) % 8:
            data = p.receive(self._peer, length)
            if request.command != p.CMD_BLOCK_STATUS or data[:4] != struct.pack(
                ">I", self._context
            ):
                raise p.Disconnected("it describes what nobody asked for")
            request.states.extend(struct.iter_unpack(">II", data[4:]))
        elif kind & p.CHUNK_ERROR and 6 <= length <= p.MAX_OPTION_BYTES:
            (code,) = struct.unpack_from(">I", p.receive(self._peer, length))
            request.error = code or errno.EIO
        elif not (kind == p.CHUNK_NONE and not length and flags & p.CHUNK_DONE):
            raise p.Disconnected("it sends a chunk that makes no sense")
        if flags & p.CHUNK_DONE:
            self._finish(handle, request, 0)

    def _part(self, request: _Request, offset: int, length: int) -> list[memoryview]:
        begin = offset - request.offset
        request.covered += length
        if (
            request.command != p.CMD_READ
            or not 0 <= begin < begin + length <= request.length
            or request.covered > request.length
        ):
            raise p.Disconnected("it sends data that nobody asked for")
        return cut(request.buffers, begin, length)

    def _finish(self, handle: int, request: _Request, code: int) -> None:
        if code and not request.error:
            request.error = code if code in p.ERRORS else errno.EIO
        missing = request.command == p.CMD_READ and request.covered != request.length
        if missing and not request.error:
            raise p.Disconnected("it leaves out a part of what was read")
        with self._state:
            self._pending.pop(handle, None)
            request.done = True

    # ---- the image ------------------------------------------------------------------------

    def _pieces(self, offset: int, length: int, most: int) -> Iterator[tuple[int, int, int]]:
        """(offset, begin, length) of requests that are not too large."""
        for begin in range(0, length, most):
            yield offset + begin, begin, min(most, length - begin)

    def _readv(self, offset: int, buffers: Buffers, length: int) -> None:
        if offset + length > self._bytes:
            there = max(self._bytes - offset, 0)
            fill_zeros(cut(buffers, there, length - there))
            buffers, length = cut(buffers, 0, there) if there else [], there
        for at, begin, size in self._pieces(offset, length, self._most):
            part = buffers if size == length else cut(buffers, begin, size)
            self._transact(p.CMD_READ, at, size, part)

    def _check_change(self, offset: int, length: int) -> None:
        super()._check_change(offset, length)
        if offset + length > self._bytes:
            raise DiskError(f"{self.path} ends within its last sector", errno.ENOSPC)

    def _writev(self, offset: int, buffers: Buffers, length: int) -> None:
        for at, begin, size in self._pieces(offset, length, self._most):
            part = buffers if size == length else cut(buffers, begin, size)
            self._transact(p.CMD_WRITE, at, size, part)

    def _discard(self, offset: int, length: int) -> None:
        if self._flags & p.SEND_TRIM:
            for at, _, size in self._pieces(offset, length, 1 << 30):
                self._transact(p.CMD_TRIM, at, size)

    def _write_zeroes(self, offset: int, length: int, may_unmap: bool) -> None:
        if not self._flags & p.SEND_WRITE_ZEROES:
            super()._write_zeroes(offset, length, may_unmap)
            return
        for at, _, size in self._pieces(offset, length, 1 << 30):
            self._transact(p.CMD_WRITE_ZEROES, at, size, flags=0 if may_unmap else p.FLAG_NO_HOLE)

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        last = offset + length
        end = min(last, self._bytes)
        while offset < end:
            size = min(end - offset, 1 << 30)
            if not self._allocation:
                yield Extent(offset, end - offset, Content.DATA)
                break
            states = self._transact(p.CMD_BLOCK_STATUS, offset, size).states
            begun = offset
            for part, state in states:
                here = min(part, end - offset)
                if here:
                    content = Content.ZERO if state & p.STATE_ZERO else Content.DATA
                    yield Extent(offset, here, content)
                offset += here
            if offset == begun:
                raise DiskError(f"{self.path}: the server does not say what is allocated")
        if last > end:
            yield Extent(end, last - end, Content.ZERO)

    def flush(self) -> None:
        """Return when the server says that all is safe."""
        if not self.read_only and self._flags & p.SEND_FLUSH:
            self._transact(p.CMD_FLUSH, 0, 0)

    def describe(self) -> Description:
        """What there is to say about it."""
        return Description("raw", self.size_bytes, 0, facts={"over": "NBD"})

    def close(self) -> None:
        """Say goodbye; again: nothing happens."""
        if self._closed:
            return
        try:
            if not self._trouble:
                if not self.read_only:
                    self.flush()
                head = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_DISCONNECT, 0, 0, 0)
                with self._sending:
                    p.send(self._peer, [head])
        except OSError as error:
            raise DiskError(f"{self.path}: {error}") from error
        finally:
            self._closed = True
            self._peer.close()
