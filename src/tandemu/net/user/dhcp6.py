"""The DHCPv6 server of a user network (RFC 8415): one address, name servers, search domains."""

from __future__ import annotations

import struct

from tandemu.net.user.dhcp import encode_domains
from tandemu.net.user.hub import Hub
from tandemu.net.user.plan import OWN_MAC

SERVER_PORT, CLIENT_PORT = 547, 546
_SOLICIT, _ADVERTISE, _REQUEST, _CONFIRM, _RENEW, _REBIND, _REPLY, _RELEASE = range(1, 9)
_DECLINE, _INFORMATION = 9, 11
_CLIENT, _SERVER, _IA, _ADDRESS, _RAPID, _NAMES, _DOMAINS, _STATUS = 1, 2, 3, 5, 14, 23, 24, 13
_PREFERRED_S, _VALID_S = 3600, 7200
_IDENTITY = b"\0\3\0\1" + OWN_MAC
_NOT_ON_LINK = 4


def _option(code: int, data: bytes) -> bytes:
    return struct.pack(">HH", code, len(data)) + data


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    place = 0
    while place + 4 <= len(data):
        code, length = struct.unpack_from(">HH", data, place)
        found.setdefault(code, data[place + 4 : place + 4 + length])
        place += 4 + length
    return found


def answer(hub: Hub, message: bytes) -> bytes | None:
    """The answer to a client's *message*; None: it gets none."""
    if len(message) < 4:
        return None
    kind = message[0]
    options = _options(message[4:])
    if options.get(_SERVER, _IDENTITY) != _IDENTITY:
        return None
    if kind in (_SOLICIT, _REQUEST, _CONFIRM, _RENEW, _REBIND, _RELEASE, _DECLINE):
        if _CLIENT not in options:
            return None
    elif kind != _INFORMATION:
        return None
    reply = _ADVERTISE if kind == _SOLICIT and _RAPID not in options else _REPLY
    parts = _option(_SERVER, _IDENTITY)
    if _CLIENT in options:
        parts += _option(_CLIENT, options[_CLIENT])
    if kind == _SOLICIT and reply == _REPLY:
        parts += _option(_RAPID, b"")
    association = options.get(_IA, b"")
    if kind in (_SOLICIT, _REQUEST, _RENEW, _REBIND) and len(association) >= 12:
        address = hub.plan.guest6 + struct.pack(">II", _PREFERRED_S, _VALID_S)
        times = struct.pack(">II", _PREFERRED_S // 2, _PREFERRED_S * 4 // 5)
        parts += _option(_IA, association[:4] + times + _option(_ADDRESS, address))
    elif kind == _CONFIRM:
        known = association[12:].find(hub.plan.guest6) >= 0
        parts += _option(_STATUS, struct.pack(">H", 0 if known else _NOT_ON_LINK))
    elif kind in (_RELEASE, _DECLINE):
        parts += _option(_STATUS, bytes(2))
    parts += _option(_NAMES, hub.plan.dns6)
    if domains := encode_domains(hub.resolver.domains):
        parts += _option(_DOMAINS, domains)
    return bytes((reply,)) + message[1:4] + parts
