"""Who is at which address on a user network: ARP (RFC 826), NDP and router advertisements (RFC
4861).

The gateway answers for every address but the guest's own, so a guest with addresses of its own
choice gets through as well.
"""

from __future__ import annotations

import struct

from tandemu.net.link import PLAIN_HEADER
from tandemu.net.packets import ARP, ICMPV6, icmp_frame
from tandemu.net.user.dhcp import encode_domains
from tandemu.net.user.hub import Hub
from tandemu.net.user.plan import OWN_MAC

_ARP = struct.Struct(">HHBBH6s4s6s4s")
_ROUTER_SOLICIT, _ROUTER_ADVERTISE, _NEIGHBOUR_SOLICIT, _NEIGHBOUR_ADVERTISE = range(133, 137)
_ALL_NODES = bytes.fromhex("ff02000000000000") + (1).to_bytes(8, "big")
_LIFETIME_S = 1800
_OTHER_CONFIGURATION = 0x40
_ON_LINK_AUTONOMOUS = 0xC0
_SOLICITED_ROUTER = 0xE0000000


def take_arp(hub: Hub, packet: bytes) -> None:
    """Answer an ARP request."""
    if len(packet) < _ARP.size:
        return
    kind, protocol, mac_size, size, operation, mac, source, _, target = _ARP.unpack_from(packet)
    if (kind, protocol, mac_size, size) != (1, 0x0800, 6, 4) or mac[0] & 1:
        return
    hub.guest_mac = mac
    if source != bytes(4) and not hub.is_own(source):
        hub.guest4 = source
    is_guest = target in (source, hub.plan.guest4, hub.guest4)
    if operation != 1 or is_guest or (source == bytes(4) and not hub.is_own(target)):
        return
    answer = _ARP.pack(1, 0x0800, 6, 4, 2, OWN_MAC, target, mac, source)
    frame = PLAIN_HEADER + mac + OWN_MAC + ARP.to_bytes(2, "big") + answer
    hub.emit(frame.ljust(72, b"\0"))


def take_ndp(hub: Hub, source: bytes, message: bytes) -> None:
    """Answer a solicitation for a router or a neighbour."""
    kind = message[0]
    if kind == _ROUTER_SOLICIT:
        advertise(hub)
    elif kind == _NEIGHBOUR_SOLICIT and len(message) >= 24:
        target = message[8:24]
        if source == bytes(16):  # does anybody have this address? Only the gateway's are taken
            if hub.is_own(target):
                _answer(hub, target, _ALL_NODES, 0xA0000000)
            return
        if source[:2] != b"\xfe\x80":
            hub.guest6 = source
        if target not in (source, hub.guest6):
            _answer(hub, target, source, _SOLICITED_ROUTER)


def _answer(hub: Hub, target: bytes, to: bytes, flags: int) -> None:
    message = struct.pack(">BBHI", _NEIGHBOUR_ADVERTISE, 0, 0, flags) + target + b"\2\1" + OWN_MAC
    _emit(hub, target, to, message)


def _emit(hub: Hub, source: bytes, to: bytes, message: bytes) -> None:
    # Hop limit 255 says that no router is between (section 7.1).
    frame = bytearray(icmp_frame(hub.envelope(source, to, ICMPV6), message))
    frame[12 + 14 + 7] = 255
    if to[0] == 0xFF:
        frame[12:18] = b"\x33\x33" + to[12:]
    hub.emit(bytes(frame))


def advertise(hub: Hub) -> None:
    """Tell all of the router, the prefix, the MTU, the name server (RFC 8106)."""
    plan = hub.plan
    message = struct.pack(
        ">BBHBBHII", _ROUTER_ADVERTISE, 0, 0, 64, _OTHER_CONFIGURATION, _LIFETIME_S, 0, 0
    )
    message += b"\1\1" + OWN_MAC
    message += struct.pack(">BBHI", 5, 1, 0, plan.mtu)
    message += struct.pack(">BBBBIII", 3, 4, 64, _ON_LINK_AUTONOMOUS, 86400, 14400, 0)
    message += plan.prefix6 + bytes(8)
    message += struct.pack(">BBHI", 25, 3, 0, _LIFETIME_S) + plan.dns6
    if domains := encode_domains(hub.resolver.domains):
        domains += bytes(-len(domains) % 8)
        if len(domains) < 2000:
            message += struct.pack(">BBHI", 31, 1 + len(domains) // 8, 0, _LIFETIME_S) + domains
    _emit(hub, plan.link6, _ALL_NODES, message)
