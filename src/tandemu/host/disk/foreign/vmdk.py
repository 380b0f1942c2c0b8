"""VMware's disk images (VMDK), for reading: one file or several, sparse, flat and compressed.

Source: Virtual Disk Format 5.0 (VMware). A disk is a descriptor, which is text, and extents;
the descriptor may stand within the one sparse extent. Kinds of ESX's own (COWD, SESPARSE) are
refused.
"""

from __future__ import annotations

import re
import struct
import sys
import threading
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.foreign.mapped import MappedImage, Place, broken, read_table
from tandemu.host.disk.image import Content, Image
from tandemu.host.disk.storage import Storage, read_at

_HEADER = struct.Struct("<4sIIQQQQIQQQ5xH")
_ZEROED_GRAINS, _COMPRESSED, _MARKERS = 1 << 2, 1 << 16, 1 << 17
_DIRECTORY_AT_END = (1 << 64) - 1
_MOST_DESCRIPTOR_BYTES = 1 << 20
_MOST_EXTENTS = 4096
_CACHED_TABLES = 512
_CACHED_GRAINS = 32
_EXTENT = re.compile(
    r'^(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z0-9]+)(?:\s+"([^"]*)"(?:\s+(\d+))?)?', re.ASCII
)
_FIELD = re.compile(r'^\s*(\w+)\s*=\s*"?([^"]*)"?\s*$', re.ASCII)
_NO_PARENT = "ffffffff"

OpenFile = Callable[[str], Storage]
"""Opens a file that the descriptor names."""
OpenBacking = Callable[[str, str | None], Image]
"""Opens the image below by its name."""


@dataclass(slots=True)
class _Flat:
    """An extent whose bytes stand as they are, from *host* of *storage*."""

    sectors: int
    storage: Storage
    host: int

    def place(self, offset: int) -> Place:
        """What stands at *offset* of the extent."""
        return Place(Content.DATA, self.sectors * 512 - offset, self.storage, self.host + offset)


@dataclass(slots=True)
class _Zero:
    """An extent of zeros."""

    sectors: int

    def place(self, offset: int) -> Place:
        """Zeros to its end."""
        return Place(Content.ZERO, self.sectors * 512 - offset)


@dataclass(slots=True)
class _Sparse:
    """An extent of grains, which tables tell the places of."""

    number: int
    sectors: int
    storage: Storage
    grain: int
    per_table: int
    directory: array[int]
    zeroed: bool
    compressed: bool
    tables: OrderedDict[int, array[int]] = field(default_factory=OrderedDict)

    def place(self, offset: int) -> Place:
        """What stands at *offset* of the extent."""
        grain, within = divmod(offset, self.grain)
        index, at = divmod(grain, self.per_table)
        left = min(self.grain - within, self.sectors * 512 - offset)
        where = self.directory[index]
        if not where:
            to_next = (index + 1) * self.per_table * self.grain - offset
            return Place(Content.ABSENT, min(to_next, self.sectors * 512 - offset))
        sector = self._table(index, where)[at]
        if not sector:
            return Place(Content.ABSENT, left)
        if sector == 1 and self.zeroed:
            return Place(Content.ZERO, left)
        if self.compressed:
            return Place(Content.DATA, left, self.storage, sector * 512, grain, within)
        return Place(Content.DATA, left, self.storage, sector * 512 + within)

    def _table(self, index: int, where: int) -> array[int]:
        table = self.tables.get(index)
        if table is None:
            table = read_table(self.storage, where * 512, self.per_table, "I", "VMDK")
            if sys.byteorder == "big":
                table.byteswap()
            while len(self.tables) >= _CACHED_TABLES:
                self.tables.popitem(last=False)
            self.tables[index] = table
        return table


_Extent = _Flat | _Zero | _Sparse


class VmdkImage(MappedImage):
    """A VMDK image: *storage* is the file with the descriptor."""

    format = "vmdk"

    def __init__(
        self, storage: Storage, *, open_file: OpenFile, open_backing: OpenBacking | None
    ) -> None:
        self._lock = threading.Lock()
        self._grains: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._pieces: list[_Extent] = []
        self._begins: list[int] = []
        self._files: dict[str, Storage] = {}
        super().__init__([storage], storage.path, 0)
        try:
            self._open(open_file, open_backing)
        except BaseException:
            for one in self._storages[1:]:
                one.close()
            raise

    def _open(self, open_file: OpenFile, open_backing: OpenBacking | None) -> None:
        storage, path = self._storages[0], self.path
        if read_at(storage, 0, 4) == b"KDMV":
            extent, text = self._sparse(storage, 0)
            fields = _fields(text)
            self._add(extent)
        else:
            size = storage.size()
            if size > _MOST_DESCRIPTOR_BYTES:
                raise broken(path, "VMDK", f"a descriptor of {size} bytes")
            text = read_at(storage, 0, size)
            if not text.startswith(b"# Disk DescriptorFile"):
                raise DiskError(f"{path} is no VMDK image: it has no descriptor")
            fields = _fields(text)
            self._add_extents(text, open_file)
        self.facts = {"kind": fields.get("createType", "not said")}
        self._check_kind(fields.get("createType", ""))
        parent = fields.get("parentFileNameHint", "")
        if fields.get("parentCID", _NO_PARENT) != _NO_PARENT:
            if not parent:
                raise broken(path, "VMDK", "it does not name the image that it stands on")
            if open_backing is not None:
                self.backing = open_backing(parent, None)

    def _check_kind(self, kind: str) -> None:
        if kind in ("fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRawDeviceMap"):
            raise DiskError(f"{self.path} stands for a device ({kind}), which is not opened")

    def _add(self, extent: _Extent) -> None:
        self._begins.append(self.size_bytes)
        self._pieces.append(extent)
        self.size_bytes += extent.sectors * 512
        if self.size_bytes > 1 << 62:
            raise broken(self.path, "VMDK", "its extents are larger than any disk")

    def _add_extents(self, text: bytes, open_file: OpenFile) -> None:
        for line in text.decode("utf-8", "surrogateescape").splitlines():
            match = _EXTENT.match(line.strip())
            if match is None:
                continue
            if len(self._pieces) >= _MOST_EXTENTS:
                raise broken(self.path, "VMDK", f"more than {_MOST_EXTENTS} extents")
            access, sectors, kind, name, begin = match.groups()
            if access == "NOACCESS" or len(sectors) > 15 or len(begin or "") > 15:
                raise broken(self.path, "VMDK", f"its extent {line.strip()!r}")
            if kind == "ZERO":
                self._add(_Zero(int(sectors)))
                continue
            if kind not in ("FLAT", "SPARSE", "VMFS"):
                raise DiskError(f"{self.path} has an extent of the kind {kind}: none that is known")
            if not name:
                raise broken(self.path, "VMDK", f"its extent {line.strip()!r} names no file")
            storage = self._file(name, open_file)
            if kind == "SPARSE":
                extent, _ = self._sparse(storage, len(self._pieces))
                extent.sectors = int(sectors)
                if extent.sectors * 512 > len(extent.directory) * extent.per_table * extent.grain:
                    raise broken(self.path, "VMDK", f"{name} is smaller than its extent")
                self._add(extent)
            else:
                self._add(_Flat(int(sectors), storage, int(begin or 0) * 512))
        if not self._pieces:
            raise broken(self.path, "VMDK", "it names no extents")

    def _file(self, name: str, open_file: OpenFile) -> Storage:
        """The file of an extent, which must stand beside the descriptor: it is untrusted."""
        if "/" in name or name in ("", ".", ".."):
            raise DiskError(
                f"{self.path} says that its data stand in {name!r}: only a file in the same folder "
                "is opened"
            )
        if name not in self._files:
            self._files[name] = open_file(name)
            self._storages.append(self._files[name])
        return self._files[name]

    def _sparse(self, storage: Storage, number: int) -> tuple[_Sparse, bytes]:
        """A sparse extent, and the descriptor that stands in it."""
        path, size = storage.path, storage.size()
        head = read_at(storage, 0, _HEADER.size)
        fields = _HEADER.unpack(head)
        if fields[9] == _DIRECTORY_AT_END and size > 1536:
            fields = _HEADER.unpack(read_at(storage, size - 1024, _HEADER.size))
        (
            magic, version, flags, capacity, grain, text_at, text_size, per_table, _, directory_at,
            _, algorithm,
        ) = fields  # fmt: skip
        if magic != b"KDMV" or version not in (1, 2, 3):
            raise DiskError(f"{path} is no sparse VMDK extent of version 1 to 3")
        if not 1 <= grain <= 1 << 17 or grain & (grain - 1) or not 1 <= per_table <= 4096:
            raise broken(path, "VMDK", f"grains of {grain} sectors, {per_table} in a table")
        compressed = bool(flags & _COMPRESSED)
        if compressed and algorithm != 1:
            raise broken(path, "VMDK", f"a compression of kind {algorithm}")
        if capacity > 1 << 53:
            raise broken(path, "VMDK", f"a capacity of {capacity} sectors")
        tables = -(-capacity // (grain * per_table))
        directory = read_table(storage, directory_at * 512, tables, "I", "VMDK")
        if sys.byteorder == "big":
            directory.byteswap()
        text = b""
        if text_at:
            if text_size * 512 > _MOST_DESCRIPTOR_BYTES:
                raise broken(path, "VMDK", f"a descriptor of {text_size} sectors")
            text = read_at(storage, text_at * 512, text_size * 512).split(b"\0")[0]
        zeroed = bool(flags & _ZEROED_GRAINS)
        return (
            _Sparse(
                number, capacity, storage, grain * 512, per_table, directory, zeroed, compressed
            ),
            text,
        )

    def _place(self, offset: int) -> Place:
        low, high = 0, len(self._begins)
        while high - low > 1:
            middle = (low + high) // 2
            if self._begins[middle] <= offset:
                low = middle
            else:
                high = middle
        with self._lock:
            return self._pieces[low].place(offset - self._begins[low])

    def _unpack(self, place: Place) -> bytes:
        assert place.storage is not None
        extent = next(
            one for one in self._pieces if isinstance(one, _Sparse) and one.storage is place.storage
        )
        key = extent.number, place.unit
        with self._lock:
            if (known := self._grains.get(key)) is not None:
                return known
        lba, size = struct.unpack("<QI", read_at(place.storage, place.host, 12))
        if lba * 512 != place.unit * extent.grain or size > 2 * extent.grain + 1024:
            raise broken(self.path, "VMDK", f"the compressed grain {place.unit} is another one")
        packed = read_at(place.storage, place.host + 12, size)
        try:
            grain = zlib.decompressobj().decompress(packed, extent.grain)
        except zlib.error as error:
            raise broken(
                self.path, "VMDK", f"grain {place.unit} cannot be unpacked ({error})"
            ) from None
        wanted = min(extent.grain, extent.sectors * 512 - place.unit * extent.grain)
        if len(grain) < wanted:
            raise broken(self.path, "VMDK", f"grain {place.unit} holds {len(grain)} bytes")
        with self._lock:
            self._grains[key] = grain
            while len(self._grains) > _CACHED_GRAINS:
                self._grains.popitem(last=False)
        return grain


def _fields(text: bytes) -> dict[str, str]:
    """The fields of a descriptor."""
    found: dict[str, str] = {}
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        if match := _FIELD.match(line):
            found[match[1]] = match[2]
    return found
