"""The guest's UDP and ICMP echo: a flow is a socket of the host's, forgotten when it is idle."""

from __future__ import annotations

import contextlib
import socket
import struct
from functools import partial

from tandemu.net.packets import ICMP, ICMPV6, UDP, icmp_frame, udp_frame
from tandemu.net.user.dns import learn_answers, query_name, refusal
from tandemu.net.user.hub import DNS_PORT, Hub, socket_family

_MOST_FLOWS = 1024
_IDLE_S = 120.0
_NAME_IDLE_S = 15.0
_DATAGRAMS_A_TURN = 32
_UNREACHABLE, _PORT, _REFUSED = 3, 3, 13
_UNREACHABLE6, _PORT6, _REFUSED6 = 1, 4, 1


class Flow:
    """Datagrams between the guest's *guest* and *remote*, over *socket*.

    *peer* is None where the socket is connected; else the program of the host's that a forward
    serves. *identity*: the guest's number of its echo requests, for ICMP.
    """

    __slots__ = (
        "echo", "envelope", "guest", "idle_s", "is_name", "peer", "remote", "socket", "used_at_s",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, guest: tuple[bytes, int], remote: tuple[bytes, int], sock: socket.socket,
        peer: tuple[str, int] | None = None, *, echo: bool = False,
    ) -> None:  # fmt: skip
        self.guest, self.remote, self.socket, self.peer, self.echo = guest, remote, sock, peer, echo
        six = len(guest[0]) == 16
        protocol = (ICMPV6 if six else ICMP) if echo else UDP
        self.envelope = hub.envelope(remote[0], guest[0], protocol)
        self.used_at_s = hub.now_s()
        self.is_name = remote[1] == DNS_PORT and not echo and peer is None
        self.idle_s = _NAME_IDLE_S if self.is_name else _IDLE_S


class FlowTable:
    """All flows of one user network."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.flows: dict[bytes, Flow] = {}
        """By the guest's and the other address, and both ports (or, for echo, an identity)."""
        self._by_peer: dict[tuple[int, tuple[str, int]], bytes] = {}
        self._buffer = bytearray(65536)
        self._view = memoryview(self._buffer)
        self._next_port = 49152

    # From the guest ------------------------------------------------------------------------

    def take(
        self, source: bytes, target: bytes, ports: bytes, data: list[memoryview], original: bytes
    ) -> None:
        """A datagram; *original* is the begin of its packet, for ICMP."""
        key = source + target + ports
        flow = self.flows.get(key)
        if flow is None:
            flow = self._open(key, source, target, ports, data, original)
            if flow is None:
                return
        elif flow.is_name and self._refuse_name(flow, data):
            return
        flow.used_at_s = self.hub.now_s()
        with contextlib.suppress(BlockingIOError):
            try:
                if flow.peer is None:
                    flow.socket.sendmsg(data)
                else:
                    flow.socket.sendmsg(data, (), 0, flow.peer)
            except ConnectionRefusedError:
                # The last one was refused: this one is another chance.
                with contextlib.suppress(OSError):
                    flow.socket.sendmsg(data)
            except OSError:
                self.hub.drop()

    def _open(
        self, key: bytes, source: bytes, target: bytes, ports: bytes, data: list[memoryview],
        original: bytes,
    ) -> Flow | None:  # fmt: skip
        hub = self.hub
        source_port, target_port = struct.unpack(">HH", ports)
        place = hub.target(target, target_port, "a datagram") if target_port else None
        if place is None:
            self.unreachable(source, target, original, refused=True)
            return None
        sock = self._connect(place, socket.SOCK_DGRAM, 0)
        if sock is None:
            self.unreachable(source, target, original, refused=False)
            return None
        flow = Flow(hub, (source, source_port), (target, target_port), sock)
        if flow.is_name and self._refuse_name(flow, data):
            sock.close()
            return None
        self._add(key, flow)
        return flow

    def _connect(self, place: tuple[str, int], kind: int, protocol: int) -> socket.socket | None:
        self._make_room()
        sock = None
        try:
            sock = socket.socket(socket_family(place[0]), kind, protocol)
            sock.setblocking(False)
            sock.connect(place)
        except OSError:
            if sock is not None:
                sock.close()
            return None
        return sock

    def _make_room(self) -> None:
        """Forget the flow that was not used for longest, if there are as many as may be."""
        if len(self.flows) >= _MOST_FLOWS:
            self._close(min(self.flows, key=lambda key: self.flows[key].used_at_s))

    def _add(self, key: bytes, flow: Flow) -> None:
        hub = self.hub
        self.flows[key] = flow
        hub.counters["flows"] += 1
        if flow.peer is None:
            assert hub.port is not None
            hub.port.watch(flow.socket.fileno(), partial(self._ready, key, flow))
        hub.wants_tick(_NAME_IDLE_S)

    def _refuse_name(self, flow: Flow, data: list[memoryview]) -> bool:
        if not self.hub.policy.rules:
            return False
        query = b"".join(data)
        name = query_name(query)
        if name is None or not self.hub.policy.refuses_name(name):
            return False
        self._reply(flow, refusal(query))
        return True

    def echo(self, source: bytes, target: bytes, message: bytes, original: bytes) -> None:
        """An echo request (RFC 792, 4443) with its header in *message*."""
        hub = self.hub
        six = len(source) == 16
        if hub.is_own(target):
            answer = bytes((129 if six else 0, 0, 0, 0)) + message[4:]
            hub.emit(icmp_frame(hub.envelope(target, source, ICMPV6 if six else ICMP), answer))
            return
        key = source + target + b"echo" + message[4:6]
        flow = self.flows.get(key)
        if flow is None:
            if hub.policy.refuses(target, None, "an echo request"):
                self.unreachable(source, target, original, refused=True)
                return
            protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
            place = socket.inet_ntop(socket.AF_INET6 if six else socket.AF_INET, target), 0
            sock = self._connect(place, socket.SOCK_DGRAM, protocol)
            if (
                sock is None
            ):  # the host lets nobody ping (net.ipv4.ping_group_range), or knows no way
                self.unreachable(source, target, original, refused=True)
                return
            flow = Flow(
                hub, (source, int.from_bytes(message[4:6], "big")), (target, 0), sock, echo=True
            )
            self._add(key, flow)
        flow.used_at_s = hub.now_s()
        with contextlib.suppress(OSError):
            flow.socket.send(message)

    def unreachable(self, source: bytes, target: bytes, original: bytes, *, refused: bool) -> None:
        """Tell the guest that its packet, which begins with *original*, cannot go on."""
        hub = self.hub
        if len(source) == 16:
            kind, code = _UNREACHABLE6, _REFUSED6 if refused else _PORT6
            sender, protocol = hub.plan.gateway6, ICMPV6
        else:
            kind, code = _UNREACHABLE, _REFUSED if refused else _PORT
            sender, protocol = hub.plan.gateway4, ICMP
        if not refused:
            sender = target
        message = bytes((kind, code, 0, 0, 0, 0, 0, 0)) + original[:548]
        hub.emit(icmp_frame(hub.envelope(sender, source, protocol), message))

    # To the guest --------------------------------------------------------------------------

    def _ready(self, key: bytes, flow: Flow) -> None:
        """Datagrams came for the guest, or news that one did not arrive."""
        for _ in range(_DATAGRAMS_A_TURN):
            if self.hub.waiting:
                self._block(key, flow)
                return
            try:
                size = flow.socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self._refused(flow)
                continue
            except OSError:
                return
            flow.used_at_s = self.hub.now_s()
            if flow.echo:
                message = bytearray(self._view[:size])
                if size >= 8:
                    message[2:4] = b"\0\0"
                    message[4:6] = flow.guest[1].to_bytes(2, "big")
                    self.hub.emit(icmp_frame(flow.envelope, bytes(message)))
                continue
            if flow.is_name and self.hub.policy.uses_names:
                learn_answers(bytes(self._view[:size]), self.hub.policy.learn)
            self._reply(flow, self._view[:size])

    def _block(self, key: bytes, flow: Flow) -> None:
        """The guest takes nothing: hear of its datagrams no more until it does."""
        hub = self.hub
        assert hub.port is not None
        hub.port.forget(flow.socket.fileno())

        def again() -> None:
            if self.flows.get(key) is flow and hub.port is not None:
                hub.port.watch(flow.socket.fileno(), partial(self._ready, key, flow))

        hub.blocked[again] = None

    def _refused(self, flow: Flow) -> None:
        udp = struct.pack(">HHHH", flow.guest[1], flow.remote[1], 8, 0)
        if len(flow.guest[0]) == 16:
            head = struct.pack(">IHBB", 6 << 28, 8, UDP, 64) + flow.guest[0] + flow.remote[0]
        else:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 28, 0, 0, 64, UDP, 0)
            head += flow.guest[0] + flow.remote[0]
        self.unreachable(flow.guest[0], flow.remote[0], head + udp, refused=False)

    def _reply(self, flow: Flow, data: bytes | memoryview) -> None:
        hub = self.hub
        if len(data) + 8 + flow.envelope.ip_bytes > hub.plan.mtu:
            hub.drop()
            return
        hub.emit(
            udp_frame(
                flow.envelope, flow.remote[1], flow.guest[1], data, open_sum=hub.checksums_open
            )
        )

    def forwarded(self, sock: socket.socket, guest: bytes, port: int) -> None:
        """Datagrams of the host's programs came to *sock*, a forward's, for the guest."""
        hub = self.hub
        for _ in range(_DATAGRAMS_A_TURN):
            try:
                size, peer = sock.recvfrom_into(self._buffer)
            except OSError:
                return
            if hub.port is None:
                continue
            mark = sock.fileno(), peer[:2]
            key = self._by_peer.get(mark)
            flow = self.flows.get(key) if key is not None else None
            if flow is None:
                self._make_room()
                source = hub.plan.gateway6 if len(guest) == 16 else hub.plan.gateway4
                self._next_port = 49152 + (self._next_port + 1 - 49152) % 16384
                remote = source, self._next_port
                key = guest + source + struct.pack(">HH", port, self._next_port)
                if key in self.flows:
                    self._close(key)
                flow = Flow(hub, (guest, port), remote, sock, peer)
                self._add(key, flow)
                self._by_peer[mark] = key
            flow.used_at_s = hub.now_s()
            self._reply(flow, self._view[:size])

    # Life ----------------------------------------------------------------------------------

    def _close(self, key: bytes) -> None:
        flow = self.flows.pop(key)
        if flow.peer is not None:
            self._by_peer.pop((flow.socket.fileno(), flow.peer[:2]), None)
            return
        if self.hub.port is not None:
            self.hub.port.forget(flow.socket.fileno())
        flow.socket.close()

    def forget_socket(self, sock: socket.socket) -> None:
        """A forward ends: so do its flows."""
        for key in [key for key, flow in self.flows.items() if flow.socket is sock]:
            self._close(key)

    def look_after(self, now_s: float) -> bool:
        """Forget idle flows; whether any are left."""
        for key in [k for k, f in self.flows.items() if now_s - f.used_at_s >= f.idle_s]:
            self._close(key)
        return bool(self.flows)

    def close(self) -> None:
        """Forget all flows."""
        for key in list(self.flows):
            self._close(key)
