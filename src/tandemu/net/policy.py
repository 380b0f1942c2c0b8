"""What a guest on a user network may reach: rules by name, address and port.

A rule is ``NAME|ADDRESS[/BITS]|*[:PORT[..PORT]]``, an IPv6 address in brackets; a name may begin
with ``*.``. The first rule that matches decides; what none matches is allowed. A name matches by
the answers of the guest's own name queries: an address belongs to a name from the answer that said
so until the answer is 10 minutes past its time. Before all rules the host's loopback, its
link-local addresses (where clouds have their metadata) and addresses of nobody are refused.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections import OrderedDict, deque

from tandemu.bits import Record
from tandemu.net.errors import NetError
from tandemu.net.packets import text

_MOST_NAMES = 4096
_MOST_LOGGED = 256
_GRACE_S = 600.0
_RULE = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+(?:/\d+)?)\]|(?P<host>[^\[\]:]+))"
    r"(?::(?P<low>\d{1,5})(?:\.\.(?P<high>\d{1,5}))?)?"
)
_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rule(Record):
    """One rule: exactly one of *network* and *name* is given, neither for all."""

    allow: bool
    network: Network | None
    name: str
    low: int
    high: int
    text: str

    def has_port(self, port: int | None) -> bool:
        """Whether *port* is one of the rule's; None, for what has no ports, if it names none."""
        if port is None:
            return self.low == 0
        return self.low == 0 or self.low <= port <= self.high

    def has_name(self, name: str) -> bool:
        """Whether *name* is the rule's."""
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return bool(self.name) and name == self.name


def parse_rule(kind: str, given: str) -> Rule:
    """The rule *given* of *kind* ``allow`` or ``deny``.

    >>> parse_rule("allow", "*.debian.org:80..443").has_name("deb.debian.org")
    True
    """
    match = _RULE.fullmatch(given)
    if match is None:
        raise NetError(
            f"{kind}={given}: must be a name, an address, a range such as 10.0.0.0/8 or *, and may "
            "have :PORT or :PORT..PORT behind it; an IPv6 address is in brackets"
        )
    low = int(match["low"] or 0)
    high = int(match["high"] or low)
    if match["low"] and not 1 <= low <= high <= 65535:
        raise NetError(f"{kind}={given}: ports must be from 1 to 65535, the lower first")
    host = match["six"] or match["host"]
    network: Network | None = None
    name = ""
    if host != "*":
        try:
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            if match["six"] or "/" in host or not _NAME.fullmatch(host):
                raise NetError(f"{kind}={given}: {host!r} is no address and no name") from None
            name = host.lower().rstrip(".")
    return Rule(kind == "allow", network, name, low, high, f"{kind}={given}")


class Policy:
    """The rules of one link in order, what names stand for, and a log of what was refused."""

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self.rules = rules
        self.uses_names = any(rule.name for rule in rules)
        self._names: OrderedDict[tuple[bytes, str], float] = OrderedDict()
        self.log: deque[str] = deque(maxlen=_MOST_LOGGED)
        """The last refusals, a line each."""
        self.refused = 0
        self._by_address: dict[bytes, set[str]] = {}

    def refuses(self, address: bytes, port: int | None, what: str) -> bool:
        """Whether the guest may not reach *address*, packed; noted in the log as *what*."""
        reason = self._reason(address, port)
        if not reason:
            return False
        self.refused += 1
        place = text(address) if port is None else f"{text(address)} port {port}"
        self.log.append(f"{what} to {place}: {reason}")
        return True

    def _reason(self, address: bytes, port: int | None) -> str:
        if reason := protected(address):
            return reason
        if not self.rules:
            return ""
        for rule in self.rules:
            if rule.has_port(port) and self._matches(rule, address):
                return "" if rule.allow else rule.text
        return ""

    def _matches(self, rule: Rule, address: bytes) -> bool:
        if rule.network is not None:
            size = 4 if rule.network.version == 4 else 16
            if size != len(address):
                return False
            return ipaddress.ip_address(address) in rule.network
        if not rule.name:
            return True
        now_s = time.monotonic()
        return any(
            rule.has_name(name) and self._names[address, name] > now_s
            for name in self._by_address.get(address, ())
        )

    def refuses_name(self, name: str) -> bool:
        """Whether a query for *name* is refused: a rule denies it whatever the port."""
        for rule in self.rules:
            if rule.allow and (rule.has_name(name) or (not rule.name and rule.network is None)):
                return False
            is_meant = rule.has_name(name) or (not rule.name and rule.network is None)
            if not rule.allow and rule.low == 0 and is_meant:
                self.refused += 1
                self.log.append(f"name query for {name}: {rule.text}")
                return True
        return False

    def learn(self, name: str, address: bytes, lifetime_s: float) -> None:
        """An answer said that *name* is at *address*."""
        if not any(rule.has_name(name) for rule in self.rules):
            return
        key = address, name
        self._names[key] = time.monotonic() + lifetime_s + _GRACE_S
        self._names.move_to_end(key)
        self._by_address.setdefault(address, set()).add(name)
        if len(self._names) > _MOST_NAMES:
            (old_address, old_name), _ = self._names.popitem(last=False)
            names = self._by_address[old_address]
            names.discard(old_name)
            if not names:
                del self._by_address[old_address]


def protected(address: bytes) -> str:
    """Why no guest reaches *address* unless a forward is made for it; "" if one may."""
    if len(address) == 16:
        if address[:12] == bytes(10) + b"\xff\xff" or address[:12] == bytes(12):
            return protected(address[12:]) or "an IPv4 address as an IPv6 one"
        if address[:12] == bytes.fromhex("0064ff9b") + bytes(8):
            return protected(address[12:])  # NAT64: what is behind it may be the host's
        if address[0] == 0xFE and address[1] & 0xC0 == 0x80:
            return "the host's link-local addresses are not reachable"
        if address[0] == 0xFF:
            return "groups are not reachable"
        return ""
    if address[0] == 127:
        return "the host's loopback is not reachable"
    if address[0] == 0:
        return "no address of anybody's"
    if address[:2] == b"\xa9\xfe":
        return "the host's link-local addresses are not reachable"
    if address[0] >= 224:
        return "groups and broadcasts are not reachable"
    return ""
