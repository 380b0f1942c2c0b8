"""What the parts of a user network share: the card, the guest's addresses, sending frames."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from tandemu.net.link import Offload, Port, scatter
from tandemu.net.packets import BROADCAST, Envelope
from tandemu.net.policy import Policy
from tandemu.net.traffic import Timer
from tandemu.net.user.plan import OWN_MAC, Plan, Resolver

if TYPE_CHECKING:
    from tandemu.net.user.connection import Connection

_MOST_WAITING = 512
_TICK_S = 0.2
DNS_PORT = 53


class Hub:
    """The middle of one user network. All on the card's worker, or while that rests."""

    def __init__(self, plan: Plan, policy: Policy, resolver: Resolver) -> None:
        self.plan, self.policy, self.resolver = plan, policy, resolver
        self.timer = Timer()
        self._ticking = False
        self.counters: dict[str, int] = dict.fromkeys(
            ("connections", "flows", "packets_dropped", "retransmissions"), 0
        )
        self.forget_guest()
        self.port: Port | None = None
        self.checksums_open = False
        """Whether the guest completes checksums itself."""

    def forget_guest(self) -> None:
        """The guest is another one now."""
        self.guest_mac = BROADCAST
        self.guest4, self.guest6 = self.plan.guest4, self.plan.guest6
        self.connections: dict[bytes, Connection] = {}
        """Open connections by the guest's and the other address, and both ports."""
        self.opening: dict[Connection, None] = {}
        """Those that are not open yet."""
        self.owing: dict[Connection, None] = {}
        """Connections whose guest is to hear what was taken of it."""
        self.unanswered: dict[Connection, None] = {}
        """Connections that wait for the guest to acknowledge something."""
        self.waiting: deque[bytes] = deque()
        self.blocked: dict[Callable[[], None], None] = {}
        """What is to be called when the guest has buffers again, in order."""

    def attached(self, port: Port) -> None:
        """The guest's driver is ready."""
        self.port = port
        self.checksums_open = bool(port.accepts & Offload.CHECKSUM)

    def envelope(self, source: bytes, target: bytes, protocol: int) -> Envelope:
        """The headers of packets to the guest."""
        return Envelope(OWN_MAC, self.guest_mac, source, target, protocol)

    def emit(self, frame: bytes) -> bool:
        """Send a small frame to the guest, once it has a buffer; False: it is dropped."""
        if self.port is None:
            return False
        if self.waiting or (views := self.port.room()) is None:
            if len(self.waiting) >= _MOST_WAITING:
                self.drop()
                return False
            self.waiting.append(frame)
            return True
        return self.put(views, frame)

    def put(self, views: list[memoryview], frame: bytes) -> bool:
        """Copy *frame* into the guest's buffer *views* and hand it over."""
        assert self.port is not None
        size = len(frame)
        if len(views[0]) >= size:
            views[0][:size] = frame
        elif sum(map(len, views)) < size:
            self.drop()
            return False
        else:
            scatter(frame, views)
        self.port.commit(size)
        return True

    def drop(self) -> None:
        """A packet is dropped."""
        self.counters["packets_dropped"] += 1

    def resume(self) -> None:
        """The guest has buffers again."""
        assert self.port is not None
        while self.waiting:
            views = self.port.room()
            if views is None:
                return
            self.put(views, self.waiting.popleft())
        blocked, self.blocked = self.blocked, {}
        for callback in blocked:
            callback()

    def wants_tick(self, delay_s: float = _TICK_S) -> None:
        """Have `UserNetwork` look after what waits, soon: nothing wakes while nothing does."""
        if not self._ticking:
            self._ticking = True
            self.timer.set(delay_s)

    def ticked(self) -> None:
        """The timer is over."""
        self.timer.clear()
        self._ticking = False

    # Where the guest's packets go ----------------------------------------------------------

    def is_own(self, address: bytes) -> bool:
        """Whether *address* is the gateway's or the name server's."""
        plan = self.plan
        return address in (plan.gateway4, plan.dns4, plan.gateway6, plan.dns6, plan.link6)

    def target(self, address: bytes, port: int, what: str) -> tuple[str, int] | None:
        """Where a packet to *address* and *port* goes on the host; None: it is refused."""
        plan = self.plan
        if address in (plan.dns4, plan.dns6):
            return (self.resolver.server, DNS_PORT) if port == DNS_PORT else None
        if self.is_own(address):
            if not plan.host_loopback:
                self.policy.refused += 1
                self.policy.log.append(
                    f"{what} to the host's port {port}: the host's loopback is not reachable; "
                    "host=on makes it"
                )
                return None
            return ("127.0.0.1" if len(address) == 4 else "::1"), port
        if self.policy.refuses(address, port, what):
            return None
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        return socket.inet_ntop(family, address), port

    @staticmethod
    def now_s() -> float:
        """The host's monotonic clock."""
        return time.monotonic()


def socket_family(address: str) -> socket.AddressFamily:
    """The family of an address as text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
