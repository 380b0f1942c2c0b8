"""Packets of GDB's remote protocol: framing, checksums, escapes.

Source: "Debugging with GDB", appendix "GDB Remote Serial Protocol", section "Overview". What comes
in is not trusted: a packet is as long as `LONGEST_BYTES` at most, and one that is damaged is asked
for again. Run-length encoding, which only answers may have, is left out.
"""

from __future__ import annotations

from enum import Enum

from tandemu.debug.errors import DebugError

LONGEST_BYTES = 0x10000
"""Of what stands between $ and #, as it travels."""
_ESCAPE, _FLIP = 0x7D, 0x20
_ESCAPED = b"#$}*"


class Mark(Enum):
    """What comes between packets."""

    INTERRUPT = 3
    ACKNOWLEDGED = ord("+")
    REPEAT = ord("-")
    DAMAGED = 0
    """A packet whose checksum is wrong."""


_MARKS = {mark.value: mark for mark in Mark if mark is not Mark.DAMAGED}


def escape(data: bytes) -> bytes:
    """*data* without the bytes that have a meaning of their own.

    >>> escape(b"a#b")
    b'a}\\x03b'
    """
    if not any(byte in _ESCAPED for byte in data):
        return data
    return b"".join(
        bytes((_ESCAPE, byte ^ _FLIP)) if byte in _ESCAPED else bytes((byte,)) for byte in data
    )


def unescape(data: bytes) -> bytes:
    """What `escape` was given.

    >>> unescape(escape(bytes(range(256)))) == bytes(range(256))
    True
    """
    head, *pieces = data.split(b"}")
    if not pieces:
        return data
    # An escaped escape is } with ]: a split never divides it.
    return head + b"".join(bytes((piece[0] ^ _FLIP,)) + piece[1:] for piece in pieces if piece)


def frame(payload: bytes) -> bytes:
    """*payload*, which is escaped where it has to be, as a packet.

    >>> frame(b"OK")
    b'$OK#9a'
    """
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)


class PacketReader:
    """Takes bytes as they come and gives packets and marks in their order."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes | Mark]:
        """What is complete now. `DebugError` for a packet without end."""
        self._buffer += data
        found: list[bytes | Mark] = []
        buffer, place = self._buffer, 0
        while place < len(buffer):
            if buffer[place] != ord("$"):
                mark = _MARKS.get(buffer[place])
                if mark is not None:
                    found.append(mark)
                place += 1
                continue
            end = buffer.find(b"#", place, place + LONGEST_BYTES + 2)
            if end < 0 and len(buffer) - place > LONGEST_BYTES + 1:
                raise DebugError(f"a packet of more than {LONGEST_BYTES} bytes")
            if end < 0 or end + 2 >= len(buffer):
                break
            payload = bytes(buffer[place + 1 : end])
            checksum = bytes(buffer[end + 1 : end + 3])
            found.append(payload if checksum.lower() == frame(payload)[-2:] else Mark.DAMAGED)
            place = end + 3
        del buffer[:place]
        return found
