"""The DHCP server of a user network (RFC 2131, 2132, 3397): one guest, one address."""

from __future__ import annotations

import struct

from tandemu.net.user.hub import Hub

SERVER_PORT, CLIENT_PORT = 67, 68
_COOKIE = bytes.fromhex("63825363")
_FIXED_BYTES = 240
_DISCOVER, _OFFER, _REQUEST, _DECLINE, _ACK, _NAK, _RELEASE, _INFORM = range(1, 9)
_LEASE_S = 86400
_SMALLEST = 300


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    place = 0
    while place < len(data) and data[place] != 255:
        code = data[place]
        if code == 0:
            place += 1
            continue
        if place + 1 >= len(data):
            break
        length = data[place + 1]
        found[code] = data[place + 2 : place + 2 + length]
        place += 2 + length
    return found


def encode_domains(domains: tuple[str, ...]) -> bytes:
    """Search domains as DNS writes names, without compression."""
    found = b""
    for domain in domains:
        labels = [label.encode("ascii") for label in domain.split(".") if label]
        if all(len(label) < 64 for label in labels):
            found += b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return found


def answer(hub: Hub, message: bytes) -> bytes | None:
    """The answer to a client's *message*; None: it gets none."""
    if len(message) < _FIXED_BYTES or message[0] != 1 or message[236:240] != _COOKIE:
        return None
    plan = hub.plan
    options = _options(message[_FIXED_BYTES:])
    kind = options.get(53, b"\0")[:1]
    server = options.get(54, b"")
    if server and server != plan.gateway4:
        return None
    wanted = options.get(50, b"") or message[12:16]
    given = plan.guest4
    if kind == bytes((_DISCOVER,)):
        reply = _OFFER
    elif kind == bytes((_REQUEST,)):
        reply = _ACK if wanted == plan.guest4 else _NAK
    elif kind == bytes((_INFORM,)):
        reply, given = _ACK, bytes(4)
    else:
        return None
    mask = (0xFFFF_FFFF << 32 - plan.bits4 & 0xFFFF_FFFF).to_bytes(4, "big")
    parts = [(53, bytes((reply,))), (54, plan.gateway4)]
    if reply == _NAK:
        given = bytes(4)
    else:
        if kind != bytes((_INFORM,)):
            parts.append((51, struct.pack(">I", _LEASE_S)))
        parts += [(1, mask), (3, plan.gateway4), (6, plan.dns4), (26, struct.pack(">H", plan.mtu))]
        if plan.host_name:
            parts.append((12, plan.host_name.encode("ascii")))
        domains = encode_domains(hub.resolver.domains)
        if domains and len(domains) < 256:
            parts.append((119, domains))
    encoded = b"".join(bytes((code, len(data))) + data for code, data in parts) + b"\xff"
    fixed = (
        b"\2" + message[1:3] + b"\0" + message[4:8] + bytes(2) + message[10:12]
        + (message[12:16] if reply != _NAK else bytes(4)) + given + plan.gateway4
        + message[24:44] + bytes(192) + _COOKIE
    )  # fmt: skip
    return (fixed + encoded).ljust(_SMALLEST, b"\0")
