"""Debian binary packages: read chosen files out of a ``.deb``.

Format 2.0 of deb(5): an ``ar`` archive of ``debian-binary``, ``control.tar*`` and
``data.tar*``; the tarballs plain or compressed with gzip, xz or zstd. Nothing is
installed and no script of the package is run. A package is untrusted: names, links
and sizes are checked, and decompression is streamed and bounded.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from tandemu.guests.errors import GuestError
from tandemu.guests.tar import Header, Reader, TarStream, clean_name

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_MAXIMUM_AR_MEMBERS = 16
_XZ_MEMORY_LIMIT = 256 << 20
_ZSTD_WINDOW_LIMIT = 1 << 27
_CHUNK = 1 << 18

Sink = Callable[[bytes], object]


class _Slice:
    """The bytes *start* to *end* of a file, as a forward stream."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._left = size
        file.seek(start)

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        self._left -= len(data)
        return data


class _Xz:
    """Streamed xz with a bound on the memory its dictionary may take."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY_LIMIT)

    def read(self, size: int, /) -> bytes:
        while not self._decoder.eof:
            fed = self._source.read(_CHUNK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not fed:
                return b""  # truncated: the tar reader says so
            data = self._decoder.decompress(fed, size)
            if data:
                return data
        return b""


class _Limited:
    """Stop a decompression bomb: at most *limit* bytes come out."""

    def __init__(self, source: Reader, limit: int, path: Path) -> None:
        self._source = source
        self._left = limit
        self._path = path

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise GuestError(f"{self._path} unpacks to more than it may; it is not what it claims")
        return data


def _zstd(source: Reader) -> Reader:
    try:
        # Few packages need it: Debian compresses with xz.
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise GuestError(
            "this package is compressed with zstd, which needs the Python package "
            "'zstandard': install it with pip"
        ) from None
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_LIMIT)
    stream = cast(Reader, decoder.stream_reader(cast(BinaryIO, source)))

    class Checked:
        def read(self, size: int, /) -> bytes:
            try:
                return stream.read(size)
            except zstandard.ZstdError as error:
                raise GuestError(f"the package is damaged: {error}") from error

    return Checked()


class DebFile:
    """One ``.deb``; every call opens it anew and holds nothing between calls."""

    def __init__(self, path: Path, *, unpacked_limit: int = 2 << 30) -> None:
        self.path = path
        self._limit = unpacked_limit

    def _parts(self, file: BinaryIO) -> Iterator[tuple[str, int, int]]:
        if file.read(8) != _AR_MAGIC:
            raise GuestError(f"{self.path} is not a Debian package: no ar archive")
        position = 8
        for _ in range(_MAXIMUM_AR_MEMBERS):
            file.seek(position)
            header = file.read(_AR_HEADER)
            if not header:
                return
            digits = header[48:58].strip()
            if len(header) < _AR_HEADER or header[58:] != b"`\n" or not digits.isdigit():
                raise GuestError(f"{self.path} is damaged: no ar header at byte {position}")
            name = header[:16].decode("latin-1").strip().rstrip("/")
            yield name, position + _AR_HEADER, int(digits)
            position += _AR_HEADER + int(digits)
            position += position % 2

    def _tar(self, file: BinaryIO, part: str) -> TarStream:
        size_on_disk = file.seek(0, 2)
        file.seek(0)
        for name, start, size in self._parts(file):
            if not name.startswith(f"{part}.tar"):
                continue
            if start + size > size_on_disk:
                raise GuestError(f"{self.path} is truncated: {part} ends past the file's end")
            source: Reader = _Slice(file, start, size)
            suffix = name[len(part) + 4 :]
            if suffix == ".xz":
                source = _Xz(source)
            elif suffix == ".gz":
                source = cast(Reader, gzip.GzipFile(fileobj=cast(BinaryIO, source)))
            elif suffix == ".zst":
                source = _zstd(source)
            elif suffix:
                raise GuestError(f"{self.path} is compressed as {suffix}, which is not known here")
            return TarStream(_Limited(source, self._limit, self.path))
        raise GuestError(f"{self.path} has no {part} part: it is not a Debian package")

    def _walk(self, part: str, wanted: Callable[[str], Sink | None]) -> dict[str, str]:
        """Give each file's content to the sink *wanted* names; return the links met."""
        links: dict[str, str] = {}
        try:
            with self.path.open("rb") as file:
                stream = self._tar(file, part)
                for header in stream:
                    sink = wanted(header.name) if header.kind == "file" else None
                    if sink is not None:
                        for piece in stream.content():
                            sink(piece)
                    elif header.kind in ("symlink", "link"):
                        links[header.name] = header.target
        except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise GuestError(f"{self.path} is damaged: {error}") from error
        return links

    def members(self, part: str = "data") -> Iterator[tuple[Header, Iterator[bytes]]]:
        """All members of ``data`` or ``control`` in order, each with its content to be read first.

        Names are relative to the root.
        """
        try:
            with self.path.open("rb") as file:
                stream = self._tar(file, part)
                for header in stream:
                    yield header, stream.content()
        except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise GuestError(f"{self.path} is damaged: {error}") from error

    def names(self) -> list[str]:
        """The paths of all regular files in the package, relative to the root."""
        found: list[str] = []

        def note(name: str) -> None:
            found.append(name)

        self._walk("data", note)
        return found

    def extract(self, sinks: Mapping[str, Sink]) -> None:
        """Hand the content of each path of *sinks* to its callable, in pieces.

        Paths are relative to the root. All must be there as regular files;
        symbolic links are not followed.
        """
        missing = {clean_name(name): sink for name, sink in sinks.items()}

        def choose(name: str) -> Sink | None:
            return missing.pop(name, None)

        links = self._walk("data", choose)
        if missing:
            name = next(iter(missing))
            also = f" (it is a link to {links[name]!r} there)" if name in links else ""
            raise GuestError(f"{self.path} holds no file {name}{also}")

    def read(self, name: str, *, limit: int = 256 << 20) -> bytes:
        """Return one file's content, at most *limit* bytes."""
        parts = bytearray()

        def take(piece: bytes) -> None:
            parts.extend(piece)
            if len(parts) > limit:
                raise GuestError(f"{name} in {self.path} is larger than {limit} bytes")

        self.extract({name: take})
        return bytes(parts)

    def control(self) -> dict[str, str]:
        """The package's control fields (deb-control(5)), continuation lines joined."""
        content = bytearray()

        def take(piece: bytes) -> None:
            content.extend(piece)
            if len(content) > 1 << 20:
                raise GuestError(f"{self.path} has a control file of more than 1 MiB")

        self._walk("control", lambda name: take if name == "control" else None)
        fields: dict[str, str] = {}
        key = ""
        for line in content.decode(errors="replace").splitlines():
            if line[:1] in (" ", "\t") and key:
                fields[key] += "\n" + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        return fields
