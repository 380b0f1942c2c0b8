"""Packets as bytes: checksums, and the headers of Ethernet, IPv4, IPv6, UDP, TCP and ICMP.

RFC 791, 8200, 768, 9293, 1071 (checksums). All numbers are in network order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from tandemu.net.link import HEADER, NEEDS_CHECKSUM, NO_SEGMENTS, PLAIN_HEADER

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
BROADCAST = b"\xff" * 6
_TTL = 64
_ETHERNET_BYTES = 14
_UDP = struct.Struct(">HHHH")


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """The one's complement sum of *data* as 16-bit words, not complemented.

    A number is congruent to the sum of its 16-bit digits modulo 0xFFFF, which is that sum.

    >>> hex(ones_sum(bytes.fromhex("0001f203f4f5f6f7")))
    '0xddf2'
    """
    number = int.from_bytes(data, "big")
    if len(data) % 2:
        number <<= 8
    return number % 0xFFFF or (0xFFFF if number else 0)


def fold(total: int) -> int:
    """*total*, of less than 32 bits, as a one's complement number of 16 bits."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


class Envelope:
    """The headers of packets from *source* to *target* (packed addresses) of one *protocol*."""

    __slots__ = ("_constant", "_front", "_pseudo", "ip_bytes", "is_v6", "offset", "protocol")

    def __init__(
        self, own_mac: bytes, guest_mac: bytes, source: bytes, target: bytes, protocol: int
    ) -> None:
        self.is_v6 = len(source) == 16
        self.protocol = protocol
        self.ip_bytes = 40 if self.is_v6 else 20
        self.offset = _ETHERNET_BYTES + self.ip_bytes
        """Where the protocol's header begins in the frame."""
        self._pseudo = ones_sum(source + target) + protocol
        ethernet = guest_mac + own_mac + (IPV6 if self.is_v6 else IPV4).to_bytes(2, "big")
        if self.is_v6:
            self._front = ethernet + b"\x60\0\0\0"
            self._constant = bytes((protocol, _TTL)) + source + target
        else:
            self._front = ethernet + b"\x45\0"
            # Do not fragment; the rest of the header behind its checksum is the addresses.
            self._constant = source + target

    def ip(self, length: int) -> bytes:
        """Ethernet's and the IP header of a packet with *length* bytes behind them."""
        if self.is_v6:
            return self._front + length.to_bytes(2, "big") + self._constant
        total = length + 20
        words = 0x4500 + total + 0x4000 + (_TTL << 8 | self.protocol)
        sum_ = fold(words + self._pseudo - self.protocol)
        return (
            self._front
            + struct.pack(">HHHBBH", total, 0, 0x4000, _TTL, self.protocol, ~sum_ & 0xFFFF)
            + self._constant
        )

    def pseudo_sum(self, length: int) -> int:
        """The sum of the pseudo-header of *length* bytes."""
        return fold(self._pseudo + length)

    def frame(self, header: bytes, place: int, payload: bytes | memoryview) -> bytes:
        """A complete frame; *header* is the protocol's, with zero at *place* for its checksum."""
        length = len(header) + len(payload)
        total = fold(self.pseudo_sum(length) + ones_sum(header) + ones_sum(payload))
        sum_ = ~total & 0xFFFF
        if sum_ == 0 and self.protocol == UDP:
            sum_ = 0xFFFF
        whole = header[:place] + sum_.to_bytes(2, "big") + header[place + 2 :]
        return PLAIN_HEADER + self.ip(length) + whole + payload

    def open_header(
        self, length: int, place: int, segments: int = NO_SEGMENTS, size: int = 0, header: int = 0
    ) -> tuple[bytes, int]:
        """The headers of a frame whose checksum the guest completes, and what is at *place*.

        *length* counts the bytes behind the IP header, *header* those of the protocol's.
        """
        front = HEADER.pack(
            NEEDS_CHECKSUM, segments, self.offset + header if segments else 0, size,
            self.offset, place, 1,
        )  # fmt: skip
        return front + self.ip(length), self.pseudo_sum(length)


def udp_frame(
    envelope: Envelope, source: int, target: int, payload: bytes | memoryview, *, open_sum: bool
) -> bytes:
    """A frame with a UDP datagram; *open_sum*: its checksum is left to the guest."""
    length = 8 + len(payload)
    if open_sum:
        front, sum_ = envelope.open_header(length, 6)
        return front + _UDP.pack(source, target, length, sum_) + payload
    return envelope.frame(_UDP.pack(source, target, length, 0), 6, payload)


def icmp_frame(envelope: Envelope, message: bytes) -> bytes:
    """A frame with the ICMP (or ICMPv6) *message*, whose checksum is zero so far."""
    if envelope.protocol == ICMPV6:
        return envelope.frame(message, 2, b"")
    sum_ = ~ones_sum(message) & 0xFFFF
    whole = message[:2] + sum_.to_bytes(2, "big") + message[4:]
    return PLAIN_HEADER + envelope.ip(len(message)) + whole


def family(address: bytes) -> socket.AddressFamily:
    """The family of a packed address."""
    return socket.AF_INET6 if len(address) == 16 else socket.AF_INET


def text(address: bytes) -> str:
    """A packed address as text."""
    return socket.inet_ntop(family(address), address)


def between(views: Sequence[memoryview], start: int, end: int) -> list[memoryview]:
    """Bytes *start* to *end* of *views*, without a copy."""
    found = []
    for view in views:
        size = len(view)
        if end <= 0:
            break
        if start < size:
            found.append(view[max(start, 0) : end])
        start -= size
        end -= size
    return found
