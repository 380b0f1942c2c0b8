"""What a policy needs of DNS messages (RFC 1035): the name asked for, answers' addresses."""

from __future__ import annotations

import struct
from collections.abc import Callable

_HEADER_BYTES = 12
_ANSWER, _REFUSED = 0x8000, 5
_A, _AAAA, _CNAME = 1, 28, 5
_MOST_LABELS, _MOST_RECORDS = 128, 256


def read_name(message: bytes, place: int) -> tuple[str, int] | None:
    """The name at *place* and where it ends; None if it is malformed."""
    labels: list[str] = []
    end = 0
    for _ in range(_MOST_LABELS):
        if place >= len(message):
            return None
        length = message[place]
        if length >= 0xC0:
            if place + 2 > len(message):
                return None
            end = end or place + 2
            place = int.from_bytes(message[place : place + 2], "big") & 0x3FFF
        elif length == 0:
            return ".".join(labels).lower(), end or place + 1
        elif length > 63 or place + 1 + length > len(message):
            return None
        else:
            labels.append(message[place + 1 : place + 1 + length].decode("latin-1"))
            place += 1 + length
    return None


def query_name(message: bytes) -> str | None:
    """The name that a query of one question asks for."""
    if len(message) < _HEADER_BYTES or message[4:6] != b"\0\1":
        return None
    found = read_name(message, _HEADER_BYTES)
    return None if found is None else found[0]


def refusal(query: bytes) -> bytes:
    """The answer to *query* that says it is refused."""
    flags = int.from_bytes(query[2:4], "big") & 0x7900 | _ANSWER | 0x80 | _REFUSED
    found = read_name(query, _HEADER_BYTES)
    end = found[1] + 4 if found is not None else _HEADER_BYTES
    return query[:2] + flags.to_bytes(2, "big") + b"\0\1" + bytes(6) + query[_HEADER_BYTES:end]


def learn_answers(message: bytes, learn: Callable[[str, bytes, float], None]) -> None:
    """Tell *learn* of each address in an answer: name asked for, address, lifetime in seconds."""
    if len(message) < _HEADER_BYTES:
        return
    _, flags, questions, answers = struct.unpack_from(">HHHH", message)
    if not flags & _ANSWER or flags & 15 or questions != 1:
        return
    found = read_name(message, _HEADER_BYTES)
    if found is None:
        return
    asked, place = found
    place += 4
    names = {asked}
    for _ in range(min(answers, _MOST_RECORDS)):
        owner = read_name(message, place)
        if owner is None or owner[1] + 10 > len(message):
            return
        name, place = owner
        kind, _, lifetime_s, length = struct.unpack_from(">HHIH", message, place)
        place += 10
        data = message[place : place + length]
        if len(data) < length:
            return
        if name in names:
            if kind == _CNAME and (other := read_name(message, place)) is not None:
                names.add(other[0])
            elif (kind, length) in ((_A, 4), (_AAAA, 16)):
                learn(asked, data, float(min(lifetime_s, 86400)))
        place += length
