"""The console device: Virtio 1.2, section 5.3. One console, and ports with names besides.

Port 0 is a console (Linux: ``hvc0``) and hears of the terminal's size. The others are streams
(``/dev/virtio-ports/NAME``), each connected with who connects to its Unix socket on the host.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from tandemu.device.registers import DeviceError, state
from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtqueue.layout import Status as QueueStatus
from tandemu.device.virtqueue.queue import Chain, QueueFault, copy_in, copy_out

MOST_PORTS = 16
ROOM_BYTES = 64 << 10
"""Input that is kept for a port until the guest has buffers for it."""
_SIZE, _MULTIPORT, _EMERGENCY = 1 << 0, 1 << 1, 1 << 2
_CONTROL_RECEIVE, _CONTROL_TRANSMIT = 2, 3
_QUEUE_SIZE = 128
_MESSAGE = struct.Struct("<IHH")
_LARGEST_PIECE = 64 << 10
_EMERGENCY_OFFSET = 8
_MOST_WAITING = 256
_LONGEST_OUTPUT = 1 << 20


class Event(IntEnum):
    """What a control message says."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_READY = 3
    CONSOLE = 4
    RESIZE = 5
    OPEN = 6
    NAME = 7


class NamedPort(NamedTuple):
    """A port called *name*; *listener* is a listening, non-blocking Unix socket."""

    name: str
    listener: socket.socket


class Console(VirtioDevice):
    """A console whose output *transmit* takes; *room* hears that there is room for input again."""

    number = 3
    title = "virtio-console"
    pci_class = 0x07_8000

    transmit: Callable[[bytes], object]
    room: Callable[[], None]
    ports: Sequence[NamedPort] = ()

    columns: int = state(16)
    rows: int = state(16)
    opened: int = state(MOST_PORTS)
    """Ports that a program of the guest has open, bit by number."""
    ready: int = state(1)
    """Whether the guest wants to hear of ports."""

    def prepare(self) -> None:
        if len(self.ports) >= MOST_PORTS:
            raise DeviceError(f"a console with {len(self.ports)} ports: at most {MOST_PORTS - 1}")
        super().prepare()
        self._worker = self.workers[0]
        self._input = [bytearray() for _ in range(len(self.ports) + 1)]
        self._typing = threading.Lock()
        self._messages: deque[bytes] = deque()
        self._peers: dict[int, socket.socket] = {}
        self._held: dict[int, tuple[Chain, bytes]] = {}
        """What a port's peer has not taken: its chain goes back when it has."""

    def list_queues(self) -> tuple[int, ...]:
        return (_QUEUE_SIZE,) * (4 + 2 * len(self.ports))

    @property
    def features(self) -> int:
        return _SIZE | _MULTIPORT | _EMERGENCY

    def configuration(self) -> bytes:
        return struct.pack("<HHII", self.columns, self.rows, len(self.ports) + 1, 0)

    def write_configuration(self, offset: int, data: bytes) -> None:
        if offset == _EMERGENCY_OFFSET:
            self.transmit(data[:1])

    @staticmethod
    def receive_queue(port: int) -> int:
        """The queue of *port*'s input; that of its output follows."""
        return 2 * port + 2 if port else 0

    # The host's side of the console --------------------------------------------------------

    @property
    def listening(self) -> bool:
        """Whether the guest has the console open."""
        return bool(self.opened & 1) or (self.is_live(0) and not self.has(_MULTIPORT))

    def receive(self, data: bytes) -> int:
        """Type *data*; how many bytes were taken. Any thread."""
        with self._typing:
            taken = min(len(data), ROOM_BYTES - len(self._input[0]))
            self._input[0] += data[:taken]
        self.kick(0)
        return taken

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest of the terminal's size. Any thread."""
        self.columns, self.rows = columns & 0xFFFF, rows & 0xFFFF
        if self.has(_MULTIPORT):
            if self.ready:
                self._say_size()
                self.kick(_CONTROL_RECEIVE)
        else:
            self.change_configuration()

    def _say_size(self) -> None:
        self._say(0, Event.RESIZE, 0, struct.pack("<HH", self.columns, self.rows))

    # Queues --------------------------------------------------------------------------------

    def kicked(self, index: int) -> None:
        if index == _CONTROL_RECEIVE:
            self._send_messages()
        elif index % 2:
            if index not in self._held:
                self.drain(index)
            self._send_messages()
        else:
            self._fill(0 if index == 0 else index // 2 - 1)

    def serve(self, index: int, chain: Chain) -> int | None:
        if index == _CONTROL_TRANSMIT:
            data = copy_in(chain.readable, _MESSAGE.size)
            if len(data) == _MESSAGE.size:
                self._hear(*_MESSAGE.unpack(data))
            return 0
        port = 0 if index == 1 else index // 2 - 1
        if port == 0:
            for view in chain.readable:
                for start in range(0, len(view), _LARGEST_PIECE):
                    self.transmit(bytes(view[start : start + _LARGEST_PIECE]))
            return 0
        return self._output(port, index, chain)

    def drain(self, index: int) -> None:
        """As ever, but for a port whose peer is slow: one chain of it is held at a time."""
        while index not in self._held and (chain := self.take(index)) is not None:
            written = self.serve(index, chain)
            self.requests += 1
            if written is None:
                self.keep(index)
            else:
                self.complete(index, chain, written)

    def _hear(self, port: int, event: int, value: int) -> None:
        """The guest says something of a port."""
        if event == Event.DEVICE_READY:
            self.ready = value & 1
            for number in range(len(self.ports) + 1) if value else ():
                self._say(number, Event.PORT_ADD, 1)
        elif port > len(self.ports):
            return
        elif event == Event.PORT_READY and value:
            if port == 0:
                self._say(0, Event.CONSOLE, 1)
                if self.columns and self.rows:
                    self._say_size()
                self._say(0, Event.OPEN, 1)
            else:
                name = self.ports[port - 1].name.encode()
                self._say(port, Event.NAME, 1, name)
                if port in self._peers:
                    self._say(port, Event.OPEN, 1)
        elif event == Event.OPEN:
            self.opened = self.opened & ~(1 << port) | (value & 1) << port
            if port == 0:
                self.room()
            elif not value:
                self._hang_up(port)
            else:
                self._fill(port)

    def _say(self, port: int, event: Event, value: int, more: bytes = b"") -> None:
        if len(self._messages) < _MOST_WAITING:  # a guest that does not listen goes without
            self._messages.append(_MESSAGE.pack(port, event, value) + more)

    def _send_messages(self) -> None:
        while self._messages:
            chain = self.take(_CONTROL_RECEIVE)
            if chain is None:
                return
            written = copy_out(self._messages.popleft(), chain.writable)
            self.complete(_CONTROL_RECEIVE, chain, written)

    def _fill(self, port: int) -> None:
        """Hand a port's input over."""
        if port > len(self.ports):
            return
        queue, pending = self.receive_queue(port), self._input[port]
        handed = False
        while pending and (port == 0 or self.opened >> port & 1):
            chain = self.take(queue)
            if chain is None:
                break
            with self._typing:
                written = copy_out(pending, chain.writable)
                del pending[:written]
            self.complete(queue, chain, written)
            handed = True
        if handed and port == 0:
            self.room()
        elif port in self._peers:
            self._watch(port)

    # Ports with sockets --------------------------------------------------------------------

    def started(self) -> None:
        for port, one in enumerate(self.ports, 1):
            self._worker.watch(one.listener.fileno(), self.guarded(partial(self._accept, port)))

    def _accept(self, port: int) -> None:
        try:
            peer, _ = self.ports[port - 1].listener.accept()
        except OSError:
            return
        if port in self._peers:  # one at a time
            peer.close()
            return
        peer.setblocking(False)
        self._peers[port] = peer
        self._say(port, Event.OPEN, 1)
        self._send_messages()
        self._watch(port)

    def _watch(self, port: int) -> None:
        peer = self._peers[port]
        events = 0
        if len(self._input[port]) < ROOM_BYTES:
            events |= select.EPOLLIN
        if self.receive_queue(port) + 1 in self._held:
            events |= select.EPOLLOUT
        if events:
            self._worker.watch(peer.fileno(), self.guarded(partial(self._peer_ready, port)), events)
        else:
            self._worker.forget(peer.fileno())

    def _peer_ready(self, port: int) -> None:
        peer = self._peers.get(port)
        if peer is None:
            return
        try:
            data = peer.recv(ROOM_BYTES - len(self._input[port]) or 1)
            if not data:
                self._hang_up(port)
                return
            self._input[port] += data
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(port)
            return
        self._fill(port)
        queue = self.receive_queue(port) + 1
        held = self._held.pop(queue, None)
        if held is not None:
            chain, rest = held
            if self._give(port, queue, chain, rest):
                self.complete(queue, chain, 0)
                self.drain(queue)
        if port in self._peers:
            self._watch(port)

    def _output(self, port: int, queue: int, chain: Chain) -> int | None:
        if port not in self._peers:
            return 0  # nobody listens
        if chain.readable_bytes > _LONGEST_OUTPUT:  # it is copied: no driver sends so much at once
            raise QueueFault(QueueStatus.TOO_LONG)
        data = b"".join(bytes(view) for view in chain.readable)
        return 0 if self._give(port, queue, chain, data) else None

    def _give(self, port: int, queue: int, chain: Chain, data: bytes) -> bool:
        """Give *data* to a port's peer; False: the rest is held, and the chain with it."""
        while data and port in self._peers:
            try:
                data = data[self._peers[port].send(data) :]
            except BlockingIOError:
                self._held[queue] = chain, data
                self._watch(port)
                return False
            except OSError:
                self._hang_up(port)
        return True

    def _hang_up(self, port: int) -> None:
        """A port's peer is gone, or is to go."""
        peer = self._peers.pop(port, None)
        if peer is None:
            return
        self._worker.forget(peer.fileno())
        peer.close()
        self._input[port].clear()
        self._say(port, Event.OPEN, 0)
        queue = self.receive_queue(port) + 1
        held = self._held.pop(queue, None)
        if held is not None:
            self.complete(queue, held[0], 0)
        self._send_messages()

    # Life ----------------------------------------------------------------------------------

    def reset(self) -> None:
        """The terminal stays as large as it is."""
        columns, rows = self.columns, self.rows
        super().reset()
        self.columns, self.rows = columns, rows

    def stopped(self) -> None:
        self._held.clear()
        self._messages.clear()
        for one in self.ports:
            self._worker.forget(one.listener.fileno())
        for peer in self._peers.values():
            self._worker.forget(peer.fileno())
            with contextlib.suppress(OSError):
                peer.close()
        self._peers.clear()

    def stopped_queue(self, index: int) -> None:
        self._held.pop(index, None)

    def close(self) -> None:
        self.rest()
        self.stopped()
        self.go_on()
        super().close()
