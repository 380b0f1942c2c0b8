"""A strict, streaming reader of tar archives, as ``.deb`` files hold them.

POSIX.1-1988 ustar with its prefix field, GNU long names (types ``L`` and ``K``) and
the pax records ``path``, ``linkpath`` and ``size`` (POSIX.1-2001, "pax Interchange
Format"). It never touches the file system: a caller asks for members by name. Every
size is bounded before memory is taken; what is malformed is a `GuestError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tandemu.guests.errors import GuestError

_BLOCK = 512
_CHUNK = 1 << 18
_MAXIMUM_EXTENSION = 1 << 16
_MAXIMUM_SIZE = 1 << 40


class Reader(Protocol):
    """Where the archive comes from: a forward-only stream."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Header:
    """A member: *kind* is ``file``, ``link`` (hard), ``symlink``, ``directory`` or ``other``."""

    name: str
    kind: str
    size: int
    target: str
    mode: int = 0o644
    """Permission bits, with set-user-ID and the like."""
    uid: int = 0
    gid: int = 0
    modified: int = 0
    """Seconds since 1970."""


_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "symlink",
    b"5": "directory",
}


def clean_name(name: str) -> str:
    """Return *name* as a plain relative path; `GuestError` where it climbs out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise GuestError(f"the archive holds the hostile path {name!r}")
    return "/".join(parts)


def _number(field: bytes) -> int:
    if field[:1] == b"\x80":  # GNU: base 256 where octal is too small
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        try:
            value = int(digits, 8) if digits else 0
        except ValueError:
            raise GuestError(f"the tar header holds {field!r} where a number belongs") from None
    if not 0 <= value <= _MAXIMUM_SIZE:
        raise GuestError(f"the tar header claims a member of {value} bytes")
    return value


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _pax_records(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        blank = data.find(b" ", position, position + 8)
        length_text = data[position:blank] if blank > 0 else b""
        if not length_text.isdigit():
            raise GuestError("the archive holds a malformed pax record")
        end = position + int(length_text)
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or end <= blank:
            raise GuestError("the archive holds a malformed pax record")
        records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        position = end
    return records


class TarStream:
    """Iterate over the members of a tar stream; read the current one's content in chunks."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._left = 0
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._source.read(min(size, _CHUNK))
            if not part:
                raise GuestError("the archive is truncated")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def content(self) -> Iterator[bytes]:
        """Yield the current member's content, once."""
        while self._left:
            part = self._exactly(min(self._left, _CHUNK))
            self._left -= len(part)
            yield part

    def _skip(self) -> None:
        for _ in self.content():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _extension(self, size: int) -> bytes:
        if size > _MAXIMUM_EXTENSION:
            raise GuestError(
                f"the archive holds an extended header of {size} bytes; 64 KiB is the limit"
            )
        data = self._exactly(size)
        self._exactly(-size % _BLOCK)
        return data

    def __iter__(self) -> Iterator[Header]:
        extended: dict[str, str] = {}
        while True:
            self._skip()
            block = self._exactly(_BLOCK)
            if block == b"\0" * _BLOCK:
                return
            checksum = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
            if checksum != _number(block[148:156]):
                raise GuestError("a tar header's checksum is wrong: the archive is damaged")
            size = _number(block[124:136])
            kind = block[156:157]
            if kind == b"L":
                extended["path"] = _text(self._extension(size))
            elif kind == b"K":
                extended["linkpath"] = _text(self._extension(size))
            elif kind == b"x":
                extended.update(_pax_records(self._extension(size)))
            elif kind == b"g":
                self._extension(size)
            else:
                yield self._member(block, kind, size, extended)
                extended = {}

    def _member(self, block: bytes, kind: bytes, size: int, extended: dict[str, str]) -> Header:
        name = _text(block[:100])
        if block[257:263] == b"ustar\0" and block[345] != 0:
            name = f"{_text(block[345:500])}/{name}"
        if "size" in extended:
            if not extended["size"].isdigit() or len(extended["size"]) > len(str(_MAXIMUM_SIZE)):
                raise GuestError("the archive holds a malformed pax size")
            size = int(extended["size"])
        meaning = _KINDS.get(kind, "other")
        if meaning in ("link", "symlink", "directory"):
            size = 0
        self._left = size
        self._padding = -size % _BLOCK
        return Header(
            clean_name(extended.get("path", name)),
            meaning,
            size,
            extended.get("linkpath", _text(block[157:257])),
            _number(block[100:108]) & 0o7777,
            *(_number(block[108:116]), _number(block[116:124]), _number(block[136:148])),
        )
