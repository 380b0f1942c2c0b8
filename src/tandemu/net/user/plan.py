"""The addresses of a user network, and its forwards, as values."""

from __future__ import annotations

import ipaddress
import os
import re

from tandemu.bits import Record
from tandemu.net.errors import NetError

OWN_MAC = bytes.fromhex("525500746d02")
"""The gateway's Ethernet address."""
_RESOLVER_FILE = "/etc/resolv.conf"
_MOST_DOMAINS = 6
_FORWARD = re.compile(r"(?:(?P<kind>tcp|udp):)?(?P<from>.*?)-(?P<to>.*)", flags=re.ASCII)
_END = re.compile(
    r"(?:(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]*)):)?(?P<low>\d{1,5})(?:\.\.(?P<high>\d{1,5}))?"
)


class Forward(Record):
    """*count* ports of the host's from *host_port* at *host* go to the guest's at *guest*.

    *guest* "" is the guest that the network gave its address to.
    """

    kind: str
    host: str
    host_port: int
    guest: str
    guest_port: int
    count: int = 1

    def __str__(self) -> str:
        def end(address: str, port: int) -> str:
            shown = f"[{address}]" if ":" in address else address
            last = f"..{port + self.count - 1}" if self.count > 1 else ""
            return f"{shown}:{port}{last}"

        return f"{self.kind}:{end(self.host, self.host_port)}-{end(self.guest, self.guest_port)}"


def parse_forward(given: str) -> Forward:
    """A forward from ``[tcp|udp:][ADDR:]PORT[..PORT]-[ADDR:]PORT[..PORT]``.

    >>> str(parse_forward("2222-22"))
    'tcp:127.0.0.1:2222-:22'
    """
    match = _FORWARD.fullmatch(given)
    ends = [_END.fullmatch(match[name]) for name in ("from", "to")] if match else []
    if match is None or None in ends:
        raise NetError(
            f"forward={given}: must be [tcp:|udp:][ADDRESS:]PORT-[ADDRESS:]PORT, such as 2222-22; "
            "a range of ports is 8000..8010, an IPv6 address is in brackets"
        )
    found: list[tuple[str, int, int]] = []
    for one in ends:
        assert one is not None
        low = int(one["low"])
        high = int(one["high"] or low)
        if not 1 <= low <= high <= 65535:
            raise NetError(f"forward={given}: ports must be from 1 to 65535, the lower first")
        address = one["six"] or one["four"] or ""
        try:
            if address:
                address = str(ipaddress.ip_address(address))
        except ValueError:
            raise NetError(f"forward={given}: {address!r} is no address") from None
        found.append((address, low, high))
    (host, low, high), (guest, guest_low, guest_high) = found
    if high - low != guest_high - guest_low:
        raise NetError(f"forward={given}: as many ports of the host's as of the guest's are needed")
    return Forward(
        match["kind"] or "tcp", host or "127.0.0.1", low, guest, guest_low, high - low + 1
    )


class Plan(Record):
    """Packed addresses of the guest, the gateway and the name server, and what the guest is told.

    *host_loopback*: the gateway's address is the host's 127.0.0.1 and ::1, as far as the policy
    goes.
    """

    guest4: bytes = bytes((10, 0, 2, 15))
    gateway4: bytes = bytes((10, 0, 2, 2))
    dns4: bytes = bytes((10, 0, 2, 3))
    bits4: int = 24
    prefix6: bytes = bytes.fromhex("fd00746d00000000")
    mtu: int = 65520
    ipv6: bool = True
    host_loopback: bool = False
    host_name: str = ""

    def six(self, number: int) -> bytes:
        """The address *number* of the IPv6 prefix."""
        return self.prefix6 + number.to_bytes(8, "big")

    @property
    def gateway6(self) -> bytes:
        """The gateway's address."""
        return self.six(2)

    @property
    def dns6(self) -> bytes:
        """The name server's address."""
        return self.six(3)

    @property
    def guest6(self) -> bytes:
        """The address that DHCPv6 gives."""
        return self.six(0x15)

    @property
    def link6(self) -> bytes:
        """The gateway's link-local address."""
        return bytes.fromhex("fe80000000000000") + (2).to_bytes(8, "big")


class Resolver(Record):
    """The host's name servers, the first that can be used by family, and its search domains."""

    server: str
    domains: tuple[str, ...] = ()


def read_resolver(path: str = _RESOLVER_FILE) -> Resolver:
    """What resolv.conf(5) says; without one, a server on this host."""
    server = ""
    domains: tuple[str, ...] = ()
    try:
        with open(os.fspath(path), encoding="ascii", errors="replace") as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and not server:
            try:
                server = str(ipaddress.ip_address(words[1]))
            except ValueError:
                continue
        elif len(words) > 1 and words[0] in ("search", "domain"):
            domains = tuple(
                word for word in words[1:] if re.fullmatch(r"[A-Za-z0-9.-]{1,253}", word)
            )[:_MOST_DOMAINS]
    return Resolver(server or "127.0.0.1", domains)
