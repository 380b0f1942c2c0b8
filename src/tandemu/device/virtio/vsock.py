"""The socket device: Virtio 1.2, section 5.10, over Unix sockets of the host's.

The host's side is Firecracker's: who connects to the socket *path* and writes ``CONNECT PORT`` and
a newline is connected to that port of the guest, and is told ``OK PORT``; who listens at *path*
with ``_PORT`` behind it is what the guest connects to as that port of CID 2.

Left out: sequenced packets (the feature is not offered).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections import deque
from functools import partial

from tandemu.device.registers import DeviceError
from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtio.vsock_packet import (
    FIRST_GUEST_CID,
    HEADER,
    HOST_CID,
    NO_SEND,
    STREAM,
    Operation,
    Packet,
)
from tandemu.device.virtio.vsock_stream import ROOM_BYTES, Phase, Stream
from tandemu.device.virtqueue.queue import Chain, copy_in, copy_out, split_at

RECEIVE, TRANSMIT, EVENTS = range(3)
_QUEUE_SIZE = 128
_MOST_STREAMS = 1024
_MOST_WAITING = 1024
_FIRST_HOST_PORT = 1 << 30
_LONGEST_LINE = 32
_LARGEST_DATA = 64 << 10
_TRANSPORT_RESET = bytes(4)


class Vsock(VirtioDevice):
    """A guest's sockets; *listener* is a listening, non-blocking Unix socket at *path*."""

    number = 19
    title = "virtio-vsock"
    pci_class = 0x02_8000

    listener: socket.socket
    path: str
    cid: int = FIRST_GUEST_CID

    def prepare(self) -> None:
        if not FIRST_GUEST_CID <= self.cid < (1 << 32) - 1:
            raise DeviceError(f"a guest's CID of {self.cid}: must be 3 to {(1 << 32) - 2}")
        super().prepare()
        self._streams: dict[tuple[int, int], Stream] = {}
        self._strangers: dict[int, tuple[socket.socket, bytearray]] = {}
        """Programs that have not said yet which port they want."""
        self._waiting: deque[Packet] = deque()
        """Packets for the guest, that have no buffer yet."""
        self._next_port = _FIRST_HOST_PORT
        self._worker = self.workers[0]

    def list_queues(self) -> tuple[int, ...]:
        return (_QUEUE_SIZE,) * 3

    def configuration(self) -> bytes:
        return self.cid.to_bytes(8, "little")

    # From the guest ----------------------------------------------------------------------

    def kicked(self, index: int) -> None:
        if index == TRANSMIT:
            self.drain(index)
            self._send()
        elif index == RECEIVE:
            self._send()
            for stream in list(self._streams.values()):
                self._watch(stream)

    def serve(self, index: int, chain: Chain) -> int:
        readable = chain.readable
        if chain.readable_bytes < HEADER.size:
            return 0
        head, data = split_at(readable, HEADER.size)
        packet = Packet.unpack(copy_in(head, HEADER.size))
        if packet.source_cid == self.cid and packet.target_cid == HOST_CID:
            self._take(packet, data)
        return 0

    def _take(self, packet: Packet, data: list[memoryview]) -> None:
        stream = self._streams.get((packet.source_port, packet.target_port))
        if packet.kind != STREAM:
            self._refuse(packet)
            return
        if packet.operation == Operation.REQUEST:
            if stream is not None:
                self._drop(stream)
            self._connect(packet)
            return
        if stream is None:
            if packet.operation != Operation.RESET:
                self._refuse(packet)
            return
        stream.heard(packet.room, packet.taken)
        if packet.operation == Operation.RESPONSE and stream.phase is Phase.ASKING:
            stream.phase = Phase.OPEN
            with contextlib.suppress(OSError):
                stream.socket.send(b"OK %d\n" % stream.host_port)
        elif packet.operation == Operation.RESET:
            self._drop(stream, tell=False)
            return
        elif packet.operation == Operation.DATA and stream.phase is Phase.OPEN:
            content = copy_in(data, min(packet.length, _LARGEST_DATA))
            if len(content) != packet.length or not stream.accept(content):
                self._drop(stream)
                return
        elif packet.operation == Operation.SHUTDOWN:
            stream.shut(packet.flags)
        elif packet.operation == Operation.CREDIT_REQUEST:
            self._queue(stream, Operation.CREDIT_UPDATE)
        elif packet.operation != Operation.CREDIT_UPDATE:
            self._drop(stream)
            return
        self._serve_host(stream)

    def _connect(self, packet: Packet) -> None:
        """The guest connects to a port of the host's: a socket named after it."""
        if len(self._streams) >= _MOST_STREAMS:
            self._refuse(packet)
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(f"{self.path}_{packet.target_port}")
        except OSError:  # nobody listens, or too many wait: the guest may try again
            connection.close()
            self._refuse(packet)
            return
        stream = Stream(packet.source_port, packet.target_port, connection, Phase.OPEN)
        stream.heard(packet.room, packet.taken)
        self._add(stream)
        self._queue(stream, Operation.RESPONSE)

    # From the host -----------------------------------------------------------------------

    def started(self) -> None:
        self._worker.watch(self.listener.fileno(), self.guarded(self._accept))

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        if len(self._strangers) + len(self._streams) >= _MOST_STREAMS:
            connection.close()
            return
        connection.setblocking(False)
        number = connection.fileno()
        self._strangers[number] = connection, bytearray()
        self._worker.watch(number, self.guarded(partial(self._read_line, number)))

    def _read_line(self, number: int) -> None:
        """A program says what it wants: ``CONNECT PORT``, byte by byte as the rest is its data."""
        connection, line = self._strangers[number]
        try:
            while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                piece = connection.recv(1)
                if not piece:
                    break
                line += piece
        except BlockingIOError:
            return
        except OSError:
            line.clear()
        del self._strangers[number]
        self._worker.forget(number)
        words = line.split()
        if not line.endswith(b"\n") or len(words) != 2 or words[0].upper() != b"CONNECT":
            connection.close()
            return
        port = int(words[1]) if words[1].isdigit() else 1 << 32
        if port >= (1 << 32) - 1:
            connection.close()
            return
        stream = Stream(port, self._free_port(), connection, Phase.ASKING)
        self._add(stream)
        self._queue(stream, Operation.REQUEST)
        self._send()

    def _free_port(self) -> int:
        known = {stream.host_port for stream in self._streams.values()}
        while True:
            self._next_port = max(_FIRST_HOST_PORT, self._next_port + 1 & 0x7FFF_FFFF)
            if self._next_port not in known:
                return self._next_port

    # Streams -----------------------------------------------------------------------------

    def _add(self, stream: Stream) -> None:
        self._streams[stream.key] = stream
        self._watch(stream)

    def _watch(self, stream: Stream) -> None:
        if stream.phase is not Phase.CLOSED:
            events = stream.wanted_events
            number = stream.socket.fileno()
            if events:
                self._worker.watch(number, self.guarded(partial(self._ready, stream)), events)
            else:
                self._worker.forget(number)

    def _ready(self, stream: Stream) -> None:
        """The program has sent something, or takes more, or is gone."""
        self._serve_host(stream)
        self._send()

    def _serve_host(self, stream: Stream) -> None:
        if stream.phase is Phase.CLOSED:
            return
        if not stream.hand_on():
            self._drop(stream)
            return
        if not stream.guest_sends and not stream.guest_receives and not stream.to_host:
            self._drop(stream)
            return
        if stream.owes_credit:
            self._queue(stream, Operation.CREDIT_UPDATE)
        self._watch(stream)

    def _drop(self, stream: Stream, *, tell: bool = True) -> None:
        """Close a connection, and say so to the guest."""
        if stream.phase is Phase.CLOSED:
            return
        if tell:
            self._queue(stream, Operation.RESET)
        stream.phase = Phase.CLOSED
        self._streams.pop(stream.key, None)
        self._worker.forget(stream.socket.fileno())
        stream.socket.close()

    # To the guest ------------------------------------------------------------------------

    def _packet(
        self, stream: Stream, operation: Operation, length: int = 0, flags: int = 0
    ) -> Packet:
        stream.told = stream.taken
        return Packet(
            *(HOST_CID, self.cid, stream.host_port, stream.guest_port, length, STREAM),
            *(operation, flags, ROOM_BYTES, stream.taken),
        )

    def _queue(self, stream: Stream, operation: Operation, flags: int = 0) -> None:
        self._enqueue(self._packet(stream, operation, flags=flags))

    def _refuse(self, packet: Packet) -> None:
        self._enqueue(
            Packet(
                *(HOST_CID, self.cid, packet.target_port, packet.source_port, 0),
                *(packet.kind, Operation.RESET, 0, 0, 0),
            )
        )

    def _enqueue(self, packet: Packet) -> None:
        # A guest that sends and never takes answers goes without them.
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(packet)

    def _send(self) -> None:
        """Put into the guest's buffers what there is for it: answers first, then data."""
        while self._waiting:
            chain = self.take(RECEIVE)
            if chain is None:
                return
            packet = self._waiting.popleft()
            self.complete(RECEIVE, chain, copy_out(packet.pack(), chain.writable))
        for stream in list(self._streams.values()):
            self._send_data(stream)

    def _send_data(self, stream: Stream) -> None:
        while (
            stream.phase is Phase.OPEN
            and stream.host_sends
            and stream.guest_receives
            and stream.credit
            and self._has_data(stream)
        ):
            chain = self.take(RECEIVE)
            if chain is None:
                self._worker.forget(stream.socket.fileno())  # until there are buffers again
                return
            room = split_at(chain.writable, HEADER.size)[1]
            room = split_at(room, min(stream.credit, _LARGEST_DATA))[0]
            try:
                length = stream.socket.recvmsg_into(room)[0] if room else 0
            except OSError:
                length = 0
            if length:
                stream.sent = stream.sent + length & 0xFFFF_FFFF
                packet = self._packet(stream, Operation.DATA, length)
            else:
                stream.host_sends = False
                packet = self._packet(stream, Operation.SHUTDOWN, flags=NO_SEND)
            copy_out(packet.pack(), chain.writable)
            self.complete(RECEIVE, chain, HEADER.size + length)
        self._watch(stream)

    @staticmethod
    def _has_data(stream: Stream) -> bool:
        """Whether the program has sent something, or its end."""
        try:
            stream.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno != errno.EAGAIN
        return True

    # Life --------------------------------------------------------------------------------

    def stopped(self) -> None:
        for stream in list(self._streams.values()):
            self._drop(stream, tell=False)
        for number, (connection, _) in list(self._strangers.items()):
            self._worker.forget(number)
            connection.close()
        self._strangers.clear()
        self._waiting.clear()
        self._worker.forget(self.listener.fileno())

    def close(self) -> None:
        self.rest()
        self.stopped()
        self.go_on()
        super().close()


def listen(path: str) -> socket.socket:
    """A listening Unix socket at *path*, where one that nobody listens at any more may be."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or _answers(path):
                raise
            os.unlink(path)
            listener.bind(path)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


def _answers(path: str) -> bool:
    """Whether somebody listens at *path*, or it is no socket."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
