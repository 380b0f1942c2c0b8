"""Microsoft's VHDX images: fixed and dynamic ones, for reading.

Source: [MS-VHDX]: Virtual Hard Disk v2 (VHDX) File Format. Refused are differencing disks, and
images whose log holds writes that are not yet in their place.
"""

from __future__ import annotations

import struct
import sys
from functools import cache
from uuid import UUID

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.foreign.mapped import MappedImage, Place, broken, read_table
from tandemu.host.disk.image import Content
from tandemu.host.disk.storage import Storage, read_at

_KIB, _MIB = 1 << 10, 1 << 20
_HEADERS = (64 * _KIB, 128 * _KIB)
_REGIONS = (192 * _KIB, 256 * _KIB)
_HEADER = struct.Struct("<4sIQ16s16s16sHH")
_BAT = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
_METADATA = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_FILE_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
_DISK_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
_SECTOR_SIZE = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F").bytes_le
_PARENT = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
"""Whether there is a parent is told by the file's parameters too."""
_KNOWN_ITEMS = frozenset(
    {
        _FILE_PARAMETERS,
        _DISK_SIZE,
        _SECTOR_SIZE,
        UUID("CDA348C7-445D-4471-9CC9-E9885251C556").bytes_le,  # physical sectors
        UUID("BECA12AB-B2E6-4523-93EF-C309E000C746").bytes_le,  # the disk's identity
    }
)
_MOST_ENTRIES = 2047
_NOT_PRESENT, _UNDEFINED, _ZERO, _UNMAPPED, _PRESENT = 0, 1, 2, 3, 6


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _checked(data: bytes) -> bool:
    (found,) = struct.unpack_from("<I", data, 4)
    return bool(found == crc32c(data[:4] + bytes(4) + data[8:]))


class VhdxImage(MappedImage):
    """A VHDX image."""

    format = "vhdx"

    def __init__(self, storage: Storage) -> None:
        path = storage.path
        if read_at(storage, 0, 8) != b"vhdxfile":
            raise DiskError(f"{path} is no VHDX image")
        self._check_log(storage)
        regions = self._regions(storage)
        if _BAT not in regions or _METADATA not in regions:
            raise broken(path, "VHDX", "it lacks a region that every image has")
        items = self._items(storage, *regions[_METADATA])
        try:
            block, flags = struct.unpack("<II", items[_FILE_PARAMETERS])
            (size,) = struct.unpack("<Q", items[_DISK_SIZE])
            (sector,) = struct.unpack("<I", items[_SECTOR_SIZE])
        except (KeyError, struct.error):
            raise broken(path, "VHDX", "its metadata lack what every image has") from None
        if flags & 2:
            raise DiskError(
                f"{path} is a differencing VHDX: only fixed and dynamic ones can be read"
            )
        if not _MIB <= block <= 256 * _MIB or block & (block - 1) or sector not in (512, 4096):
            raise broken(path, "VHDX", f"blocks of {block} bytes with sectors of {sector}")
        if size % sector or size > 64 << 40:
            raise broken(path, "VHDX", f"a disk of {size} bytes")
        super().__init__([storage], path, size)
        self._block = block
        self._ratio = (sector << 23) // block
        blocks = -(-size // block)
        entries = blocks + (blocks - 1) // self._ratio if blocks else 0
        at, length = regions[_BAT]
        if entries * 8 > length:
            raise broken(path, "VHDX", "its block table is too short")
        self._map = read_table(storage, at, entries, "Q", "VHDX")
        if sys.byteorder == "big":
            self._map.byteswap()
        self.facts = {"block size": block, "sector size": sector}

    def _check_log(self, storage: Storage) -> None:
        best, log = -1, b""
        for at in _HEADERS:
            data = read_at(storage, at, 4096)
            signature, _, sequence, _, _, found, _, version = _HEADER.unpack_from(data)
            if signature == b"head" and sequence > best and version == 1 and _checked(data):
                best, log = sequence, found
        if best < 0:
            raise broken(storage.path, "VHDX", "neither of its headers is valid")
        if any(log):
            raise DiskError(
                f"{storage.path} was not closed, and its log holds what is not yet in place: "
                "'qemu-img check -r all' brings it there"
            )

    def _regions(self, storage: Storage) -> dict[bytes, tuple[int, int]]:
        """Offset and length of each region that is needed."""
        path, end = storage.path, storage.size()
        for at in _REGIONS:
            data = read_at(storage, at, 64 * _KIB)
            signature, _, count = struct.unpack_from("<4sII", data)
            if signature != b"regi" or count > _MOST_ENTRIES or not _checked(data):
                continue
            regions = {}
            for number in range(count):
                guid, offset, length, required = struct.unpack_from(
                    "<16sQII", data, 16 + 32 * number
                )
                if guid in (_BAT, _METADATA):
                    if offset < _MIB or offset % _MIB or offset + length > end:
                        raise broken(path, "VHDX", f"a region at {offset:#x}")
                    regions[guid] = (offset, length)
                elif required & 1:
                    raise DiskError(f"{path} needs a part of VHDX that is not known here")
            return regions
        raise broken(path, "VHDX", "neither of its region tables is valid")

    def _items(self, storage: Storage, at: int, length: int) -> dict[bytes, bytes]:
        """The metadata by their identity."""
        path = storage.path
        table = read_at(storage, at, min(length, 64 * _KIB))
        if len(table) < 64 * _KIB or table[:8] != b"metadata":
            raise broken(path, "VHDX", "its metadata are no such")
        (count,) = struct.unpack_from("<H", table, 10)
        items: dict[bytes, bytes] = {}
        for number in range(min(count, _MOST_ENTRIES)):
            guid, offset, size, flags = struct.unpack_from("<16sIII", table, 32 + 32 * number)
            if guid in _KNOWN_ITEMS:
                if size > 64 * _KIB or offset + size > length:
                    raise broken(path, "VHDX", "an item of its metadata is outside them")
                items[guid] = read_at(storage, at + offset, size)
            elif flags & 4 and guid != _PARENT:
                raise DiskError(f"{path} needs metadata of VHDX that are not known here")
        return items

    def _place(self, offset: int) -> Place:
        number, within = divmod(offset, self._block)
        entry = self._map[number + number // self._ratio]
        state, host = entry & 7, entry & ~(_MIB - 1)
        left = self._block - within
        if state == _PRESENT:
            return Place(Content.DATA, left, self._storages[0], host + within)
        if state in (_NOT_PRESENT, _UNDEFINED):
            return Place(Content.ABSENT, left)
        if state in (_ZERO, _UNMAPPED):
            return Place(Content.ZERO, left)
        raise broken(self.path, "VHDX", f"block {number} is in state {state}")
