"""Frames written to a file or a pipe as pcapng (draft-ietf-opsawg-pcapng), with names and
direction.

A large packet that is to be cut later is one frame here, as on Linux. A checksum that the other
side completes is written completed where that takes no segments, so that readers find none wrong.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Sequence
from enum import IntEnum

from tandemu.net.errors import NetError
from tandemu.net.link import HEADER, HEADER_BYTES, NEEDS_CHECKSUM
from tandemu.net.packets import ones_sum

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_ORDER = 0x1A2B3C4D
_ETHERNET = 1
_NAME, _RESOLUTION, _APPLICATION, _FLAGS = 2, 9, 4, 2
_NANOSECONDS = 9


class Direction(IntEnum):
    """Seen from the guest (pcapng's epb_flags)."""

    IN = 1
    OUT = 2


def _option(code: int, data: bytes) -> bytes:
    return struct.pack("<HH", code, len(data)) + data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _head(name: str) -> bytes:
    section = struct.pack("<IHHq", _ORDER, 1, 0, -1) + _option(_APPLICATION, b"Tandemu") + bytes(4)
    interface = (
        struct.pack("<HHI", _ETHERNET, 0, 0)
        + _option(_NAME, name.encode()[:255])
        + _option(_RESOLUTION, bytes((_NANOSECONDS,)))
        + bytes(4)
    )
    return _block(_SECTION, section) + _block(_INTERFACE, interface)


class Capture:
    """A capture of the link *name* in the file or pipe at *path*.

    With *rotate_bytes*, a file that is larger is renamed to *path* with ``.1`` behind it, and a new
    one is begun. A pipe whose reader is slow loses frames (`lost` counts them); one without reader
    ends the capture.
    """

    def __init__(self, path: str, name: str, rotate_bytes: int = 0) -> None:
        self.path, self._name, self._rotate_bytes = path, name, rotate_bytes
        self.lost = 0
        try:
            self._open()
        except OSError as error:
            raise NetError(
                f"the capture {path} cannot be written: {error.strerror}. Give a file in a folder "
                "that may be written, or a pipe that somebody reads"
            ) from error

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = os.open(self.path, flags, 0o600)
        self._is_file = stat.S_ISREG(os.fstat(self._file).st_mode)
        head = _head(self._name)
        self._rest = b""
        self._size = os.write(self._file, head)

    def write(self, views: Sequence[memoryview], size: int, direction: Direction) -> bool:
        """Write the frame in the first *size* bytes of *views*, its header too; False: it ended."""
        data = bytearray().join(views)[:size]
        flags, segments, _, _, start, place, _ = HEADER.unpack_from(data)
        del data[:HEADER_BYTES]
        if flags & NEEDS_CHECKSUM and not segments and start + place + 2 <= len(data):
            total = ~ones_sum(memoryview(data)[start:]) & 0xFFFF
            data[start + place : start + place + 2] = (total or 0xFFFF).to_bytes(2, "big")
        now = time.time_ns()
        body = (
            struct.pack("<IIIII", 0, now >> 32, now & 0xFFFF_FFFF, len(data), len(data))
            + data
            + bytes(-len(data) % 4)
            + _option(_FLAGS, struct.pack("<I", direction))
            + bytes(4)
        )
        return self._put(_block(_PACKET, body))

    def _put(self, block: bytes) -> bool:
        try:
            if self._rest:  # a pipe took part of the last one
                self._rest = self._rest[os.write(self._file, self._rest) :]
                if self._rest:
                    self.lost += 1
                    return True
            done = os.write(self._file, block)
        except BlockingIOError:
            self.lost += 1
            return True
        except OSError:
            return False
        self._rest = block[done:]
        self._size += done
        if self._is_file and self._rotate_bytes and self._size >= self._rotate_bytes:
            os.close(self._file)
            self._file = -1
            try:
                os.replace(self.path, f"{self.path}.1")
                self._open()
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
