"""The user network: packets of the guest to the parts that serve them.

Left out: IP fragments (a guest's are dropped and counted; nothing is fragmented for it, for the
link takes whole datagrams at its usual MTU), multicast, and protocols but TCP, UDP and echo.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial

from tandemu.net.errors import NetError
from tandemu.net.link import HEADER_BYTES, Offload, Port
from tandemu.net.packets import ARP as ARP_TYPE
from tandemu.net.packets import ICMP, ICMPV6, IPV4, IPV6, TCP, UDP, between, udp_frame
from tandemu.net.policy import Policy
from tandemu.net.user import dhcp, dhcp6
from tandemu.net.user.hub import Hub, socket_family
from tandemu.net.user.neighbours import advertise, take_arp, take_ndp
from tandemu.net.user.plan import Forward, Plan, read_resolver
from tandemu.net.user.tcp import Service, TcpTable
from tandemu.net.user.udp import FlowTable

_START_BYTES = 160
"""As much of a frame as all headers take that are looked at."""
_IP = HEADER_BYTES + 14
_ECHO, _ECHO6 = 8, 128
_TICK_S, _SLOW_TICK_S = 0.2, 10.0
_BACKLOG = 256
_ALL_ONES = b"\xff\xff\xff\xff"


class UserNetwork:
    """A NAT between one card and the host's sockets; see `net.link.Network`."""

    filters = False
    offloads = Offload.ALL

    def __init__(
        self,
        plan: Plan | None = None,
        policy: Policy | None = None,
        forwards: Iterable[Forward] = (),
        services: dict[tuple[bytes, int], Service] | None = None,
    ) -> None:
        self.plan = plan or Plan()
        self.policy = policy or Policy()
        self.mtu = self.plan.mtu
        self.hub = Hub(self.plan, self.policy, read_resolver())
        self._tcp = TcpTable(self.hub, services or {})
        self._udp = FlowTable(self.hub)
        self._listeners: dict[Forward, list[socket.socket]] = {}
        self._port: Port | None = None
        try:
            for forward in forwards:
                self.add_forward(forward)
        except BaseException:
            self.close()
            raise

    # Forwards ------------------------------------------------------------------------------

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """What is forwarded now."""
        return tuple(self._listeners)

    def add_forward(self, forward: Forward) -> None:
        """Listen for *forward*. The card rests, if it is in use."""
        if forward in self._listeners:
            raise NetError(f"{forward} is forwarded already")
        kind = socket.SOCK_STREAM if forward.kind == "tcp" else socket.SOCK_DGRAM
        sockets: list[socket.socket] = []
        try:
            for number in range(forward.count):
                sock = socket.socket(socket_family(forward.host), kind)
                sockets.append(sock)
                sock.setblocking(False)
                if forward.kind == "tcp":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((forward.host, forward.host_port + number))
                if forward.kind == "tcp":
                    sock.listen(_BACKLOG)
        except OSError as error:
            for sock in sockets:
                sock.close()
            raise NetError(
                f"forward {forward}: {forward.kind} port {forward.host_port + len(sockets) - 1} of "
                f"{forward.host} cannot be had: {error.strerror}. Take another port, or end who "
                "has this one"
            ) from error
        self._listeners[forward] = sockets
        if self._port is not None:
            self._listen(forward, self._port)

    def remove_forward(self, forward: Forward) -> None:
        """Forward no more; connections that are open stay. The card rests."""
        sockets = self._listeners.pop(forward, None)
        if sockets is None:
            raise NetError(f"{forward} is not forwarded")
        for sock in sockets:
            self._udp.forget_socket(sock)
            if self._port is not None:
                self._port.forget(sock.fileno())
            sock.close()

    def _listen(self, forward: Forward, port: Port) -> None:
        for number, sock in enumerate(self._listeners[forward]):
            serve = self._accept if forward.kind == "tcp" else self._receive
            port.watch(sock.fileno(), partial(serve, forward, sock, forward.guest_port + number))

    def _guest_address(self, forward: Forward) -> bytes:
        if forward.guest:
            return socket.inet_pton(socket_family(forward.guest), forward.guest)
        return self.hub.guest4

    def _accept(self, forward: Forward, sock: socket.socket, port: int) -> None:
        try:
            accepted, _ = sock.accept()
        except OSError:
            return
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tcp.call(accepted, self._guest_address(forward), port)

    def _receive(self, forward: Forward, sock: socket.socket, port: int) -> None:
        self._udp.forwarded(sock, self._guest_address(forward), port)

    # The card ------------------------------------------------------------------------------

    def attach(self, port: Port) -> None:
        """The guest's driver is ready."""
        self._port = port
        self.hub.attached(port)
        port.watch(self.hub.timer.descriptor, self._tick)
        for forward in self._listeners:
            self._listen(forward, port)

    def detach(self) -> None:
        """The guest's driver is gone, and its connections with it."""
        port = self._port
        if port is None:
            return
        self._tcp.close()
        self._udp.close()
        for sockets in self._listeners.values():
            for sock in sockets:
                port.forget(sock.fileno())
        self.hub.timer.set(0)
        self.hub.ticked()
        port.forget(self.hub.timer.descriptor)
        self._port = self.hub.port = None
        self.hub.forget_guest()

    def resume(self) -> None:
        """There are buffers again."""
        self.hub.resume()

    def flush(self) -> None:
        """The guest's frames that were there have been taken."""
        self._tcp.flush()

    def _tick(self) -> None:
        self.hub.ticked()
        now_s = self.hub.now_s()
        unanswered = self._tcp.look_after(now_s)
        flows = self._udp.look_after(now_s)
        if unanswered:
            self.hub.wants_tick(_TICK_S)
        elif flows:
            self.hub.wants_tick(_SLOW_TICK_S)

    def send(self, views: list[memoryview], size: int) -> None:
        """Take a frame of the guest's."""
        first = views[0]
        if len(first) >= _START_BYTES or len(views) == 1:
            head = bytes(first[:_START_BYTES])
        else:
            head = bytes(bytearray().join(views[:20])[:_START_BYTES])
        if len(head) < _IP:
            self.hub.drop()
            return
        self.hub.guest_mac = head[18:24] if not head[18] & 1 else self.hub.guest_mac
        kind = head[24] << 8 | head[25]
        if kind == IPV4:
            self._take_ipv4(head, views, size)
        elif kind == IPV6 and self.plan.ipv6:
            self._take_ipv6(head, views, size)
        elif kind == ARP_TYPE:
            take_arp(self.hub, head[_IP:])
        else:
            self.hub.drop()

    def _take_ipv4(self, head: bytes, views: list[memoryview], size: int) -> None:
        length = (head[_IP] & 15) * 4 if len(head) >= _IP + 20 else 0
        end = _IP + int.from_bytes(head[_IP + 2 : _IP + 4], "big")
        at = _IP + length
        if length < 20 or head[_IP] >> 4 != 4 or not at <= end <= size:
            self.hub.drop()
            return
        if head[_IP + 6] & 0x3F or head[_IP + 7]:  # a fragment
            self.hub.drop()
            return
        protocol = head[_IP + 9]
        source, target = head[_IP + 12 : _IP + 16], head[_IP + 16 : _IP + 20]
        if protocol == TCP:
            if source != bytes(4) and source[0] & 0xE0 != 0xE0:
                self._tcp.take(source, target, head, at, views, end)
        elif protocol == UDP:
            self._take_udp(source, target, head, at, views, end)
        elif protocol == ICMP:
            message = _joined(views, at, end)
            if len(message) >= 8 and message[0] == _ECHO:
                self._udp.echo(source, target, message, head[_IP : at + 8])
        else:
            self._udp.unreachable(source, target, head[_IP : at + 8], refused=True)

    def _take_ipv6(self, head: bytes, views: list[memoryview], size: int) -> None:
        at = _IP + 40
        end = at + int.from_bytes(head[_IP + 4 : _IP + 6], "big")
        if len(head) < at or head[_IP] >> 4 != 6 or end > size:
            self.hub.drop()
            return
        protocol = head[_IP + 6]
        source, target = head[_IP + 8 : _IP + 24], head[_IP + 24 : at]
        while protocol in (0, 60) and len(head) >= at + 8:  # hop-by-hop and destination options
            protocol, at = head[at], at + 8 * (head[at + 1] + 1)
        if at > end:
            self.hub.drop()
        elif protocol == TCP:
            if source[0] != 0xFF:
                self._tcp.take(source, target, head, at, views, end)
        elif protocol == UDP:
            self._take_udp(source, target, head, at, views, end)
        elif protocol == ICMPV6:
            message = _joined(views, at, end)
            if len(message) < 8:
                self.hub.drop()
            elif message[0] == _ECHO6:
                if target[0] != 0xFF:
                    self._udp.echo(source, target, message, head[_IP : at + 8])
            else:
                take_ndp(self.hub, source, message)
        else:
            self.hub.drop()

    def _take_udp(
        self, source: bytes, target: bytes, head: bytes, at: int, views: list[memoryview], end: int
    ) -> None:
        length = int.from_bytes(head[at + 4 : at + 6], "big")
        if len(head) < at + 8 or not 8 <= length <= end - at:
            self.hub.drop()
            return
        hub, plan = self.hub, self.plan
        port = head[at + 2] << 8 | head[at + 3]
        if port == dhcp.SERVER_PORT and len(source) == 4:
            if target in (_ALL_ONES, plan.gateway4):
                self._answer_dhcp(_joined(views, at + 8, at + length))
            return
        if port == dhcp6.SERVER_PORT and len(source) == 16:
            answer = dhcp6.answer(hub, _joined(views, at + 8, at + length))
            if answer is not None:
                envelope = hub.envelope(plan.link6, source, UDP)
                ports = dhcp6.SERVER_PORT, dhcp6.CLIENT_PORT
                hub.emit(udp_frame(envelope, *ports, answer, open_sum=False))
            return
        if source == bytes(4) or (source[0] & 0xE0 == 0xE0 and len(source) == 4):
            hub.drop()
            return
        if target[0] == 0xFF or (len(target) == 4 and target[0] >= 224):
            return  # discovery of neighbours that are not there: no news, and none refused
        data = between(views, at + 8, at + length)
        self._udp.take(source, target, head[at : at + 4], data, head[_IP : at + 8])

    def _answer_dhcp(self, message: bytes) -> None:
        hub, plan = self.hub, self.plan
        answer = dhcp.answer(hub, message)
        if answer is None:
            return
        client = message[12:16]
        to = client if client != bytes(4) else _ALL_ONES
        envelope = hub.envelope(plan.gateway4, to, UDP)
        ports = dhcp.SERVER_PORT, dhcp.CLIENT_PORT
        hub.guest4 = plan.guest4
        hub.emit(udp_frame(envelope, *ports, answer, open_sum=False))
        if plan.ipv6:
            advertise(hub)

    def statistics(self) -> dict[str, int]:
        """Counters by name. Any thread."""
        return {
            **self.hub.counters,
            "connections_open": len(self.hub.connections),
            "refused_by_policy": self.policy.refused,
        }

    def close(self) -> None:
        """Give back what is the host's."""
        self.detach()
        for sockets in self._listeners.values():
            for sock in sockets:
                sock.close()
        self._listeners.clear()
        self.hub.timer.close()


def _joined(views: list[memoryview], start: int, end: int) -> bytes:
    return b"".join(between(views, start, end))
