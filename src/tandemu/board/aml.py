"""A writer of AML, the byte code of ACPI's tables: ACPI 6.5, chapter 20 (and 6.4, resources).

Each function returns the bytes of one term; terms are put together by concatenation. Only
what the boards' tables use is here. Names are one segment of up to four characters, or an
absolute path such as ``\\_SB.PWRB``.
"""

from __future__ import annotations

import struct

from tandemu.board.errors import BoardError

LOCAL0, ARGUMENT0 = b"\x60", b"\x68"
_EXTENDED = b"\x5b"
_EDGE, _SHARED = 2, 8
_MEMORY, _BUS_NUMBERS = 0, 2
_FIXED, _READ_WRITE = 0x0C, 1
"""Of an address space: both ends are fixed; memory that can be written."""


def _package_length(content_bytes: int) -> bytes:
    """The length of a package, its own bytes included (20.2.4)."""
    if content_bytes + 1 <= 0x3F:
        return bytes((content_bytes + 1,))
    for extra in (1, 2, 3):
        total = content_bytes + 1 + extra
        if total < 1 << (4 + 8 * extra):
            return bytes((extra << 6 | total & 0xF,)) + (total >> 4).to_bytes(extra, "little")
    raise BoardError(f"an AML term of {content_bytes} bytes is too long")


def _packed(opcode: bytes, content: bytes) -> bytes:
    return opcode + _package_length(len(content)) + content


def _segment(text: str) -> bytes:
    if not 1 <= len(text) <= 4 or not text.replace("_", "A").isalnum() or text[0].isdigit():
        raise BoardError(f"{text!r} is no AML name: must be 1 to 4 letters, digits or '_'")
    return text.upper().ljust(4, "_").encode("ascii")


def path(text: str) -> bytes:
    """A name, or an absolute path of names (20.2.2)."""
    root, text = (b"\\", text[1:]) if text.startswith("\\") else (b"", text)
    segments = [_segment(part) for part in text.split(".")]
    if len(segments) == 1:
        return root + segments[0]
    prefix = b"\x2e" if len(segments) == 2 else b"\x2f" + bytes((len(segments),))
    return root + prefix + b"".join(segments)


def integer(value: int) -> bytes:
    """A constant in its shortest form."""
    if value in (0, 1):
        return bytes((value,))
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if 0 <= value < 1 << (8 * size):
            return bytes((prefix,)) + value.to_bytes(size, "little")
    raise BoardError(f"{value:#x} is no AML integer: must have at most 64 bits")


def string(text: str) -> bytes:
    """A string of ASCII characters."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A compressed identifier such as ``PNP0501`` (19.3.4)."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    value = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return integer(int.from_bytes(value.to_bytes(4, "big"), "little"))


def package(*elements: bytes) -> bytes:
    """A package of elements."""
    return _packed(b"\x12", bytes((len(elements),)) + b"".join(elements))


def buffer(content: bytes) -> bytes:
    """A buffer."""
    return _packed(b"\x11", integer(len(content)) + content)


def name(label: str, value: bytes) -> bytes:
    """A named object."""
    return b"\x08" + path(label) + value


def scope(label: str, *terms: bytes) -> bytes:
    """Terms inside an existing object."""
    return _packed(b"\x10", path(label) + b"".join(terms))


def device(label: str, *terms: bytes) -> bytes:
    """A device."""
    return _packed(_EXTENDED + b"\x82", path(label) + b"".join(terms))


def method(label: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """A control method."""
    flags = bytes((arguments | serialized << 3,))
    return _packed(b"\x14", path(label) + flags + b"".join(terms))


def notify(label: str, value: int) -> bytes:
    """Tell the driver of a device that something happened."""
    return b"\x86" + path(label) + integer(value)


def when_equal(left: bytes, right: bytes, *terms: bytes) -> bytes:
    """``If (left == right)``."""
    return _packed(b"\xa0", b"\x93" + left + right + b"".join(terms))


def resources(*descriptors: bytes) -> bytes:
    """A resource template: the value of ``_CRS``."""
    return buffer(b"".join(descriptors) + b"\x79\0")


def ports(base: int, count: int) -> bytes:
    """I/O ports, all 16 address bits decoded (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, count)


def interrupt(number: int, *, edge: bool = True, shared: bool = False) -> bytes:
    """An interrupt, active high (6.4.3.6)."""
    flags = 1 | (_EDGE if edge else 0) | (_SHARED if shared else 0)
    return struct.pack("<BHBBI", 0x89, 6, flags, 1, number)


def bus_numbers(first: int, last: int) -> bytes:
    """The buses that a bridge has below it (6.4.3.5.3)."""
    head = struct.pack("<BHBBB", 0x88, 13, _BUS_NUMBERS, _FIXED, 0)
    return head + struct.pack("<5H", 0, first, last, 0, last - first + 1)


def memory_window(base: int, size: int) -> bytes:
    """Addresses below 4 GiB that a bridge hands down, read and written (6.4.3.5.2)."""
    head = struct.pack("<BHBBB", 0x87, 23, _MEMORY, _FIXED, _READ_WRITE)
    return head + struct.pack("<5I", 0, base, base + size - 1, 0, size)


def memory(base: int, size: int) -> bytes:
    """Addresses below 4 GiB, read and written (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)
