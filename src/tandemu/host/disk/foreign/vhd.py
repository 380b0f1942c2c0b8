"""Microsoft's virtual hard disks (VHD): fixed and dynamic ones, for reading.

Source: Virtual Hard Disk Image Format Specification, version 1.0. A fixed disk's only sign is
the footer at its end, so its format has to be said. Differencing disks are refused.
"""

from __future__ import annotations

import struct
import sys
from array import array

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.foreign.mapped import MappedImage, Place, broken, read_table
from tandemu.host.disk.image import Content
from tandemu.host.disk.storage import Storage, read_at

_FOOTER = struct.Struct(">8s8xQ4x4s8xQQHBBII")
_FOOTER_BYTES = 512
_DYNAMIC_HEADER = struct.Struct(">8s8xQIIII")
_DYNAMIC_BYTES = 1024
_FIXED, _DYNAMIC = 2, 3
_ABSENT = 0xFFFFFFFF
_EXACT_CREATORS = (b"win ", b"qem2", b"d2v ", b"tap\0", b"vs  ", b"wa\0\0")
"""Who writes the size of the disk; of others' disks only the geometry counts, as QEMU has it."""
_LARGEST_GEOMETRY = 65535 * 16 * 255


def _checked(data: bytes, at: int) -> bool:
    """Whether the checksum at *at* is that of *data*."""
    (found,) = struct.unpack_from(">I", data, at)
    total = sum(data) - sum(data[at : at + 4])
    return bool(found == ~total & 0xFFFFFFFF)


class VhdImage(MappedImage):
    """A VHD image."""

    format = "vhd"

    def __init__(self, storage: Storage) -> None:
        path = storage.path
        footer = self._find_footer(storage)
        (
            _, data_at, creator, _, current, cylinders, heads, sectors, kind, _,
        ) = _FOOTER.unpack_from(footer)  # fmt: skip
        total = cylinders * heads * sectors
        exact = creator in _EXACT_CREATORS or total == _LARGEST_GEOMETRY or not total
        size = current // 512 * 512 if exact else total * 512
        if kind == _FIXED:
            there = (storage.size() - _FOOTER_BYTES) // 512 * 512
            size = min(size, there) if exact else there
        elif kind != _DYNAMIC:
            raise DiskError(
                f"{path} is a VHD of kind {kind}: only fixed (2) and dynamic (3) ones can be read"
            )
        super().__init__([storage], path, size)
        self._is_fixed = kind == _FIXED
        self.facts = {"kind": "fixed" if self._is_fixed else "dynamic"}
        self._map = array("I")
        if not self._is_fixed:
            self._read_dynamic(storage, data_at)

    def _find_footer(self, storage: Storage) -> bytes:
        size = storage.size()
        for at in (max(size - _FOOTER_BYTES, 0), 0):
            footer = read_at(storage, at, _FOOTER_BYTES)
            if footer[:8] == b"conectix" and _checked(footer, 64):
                return footer
        raise DiskError(f"{storage.path} is no VHD: it has no valid footer at its end")

    def _read_dynamic(self, storage: Storage, at: int) -> None:
        path = storage.path
        if at + _DYNAMIC_BYTES > storage.size():
            raise broken(path, "VHD", "its dynamic header is outside the file")
        header = read_at(storage, at, _DYNAMIC_BYTES)
        cookie, table_at, _, entries, block, _ = _DYNAMIC_HEADER.unpack_from(header)
        if cookie != b"cxsparse" or not _checked(header, 36):
            raise broken(path, "VHD", "its dynamic header is damaged")
        if not 4096 <= block <= 1 << 30 or block & (block - 1):
            raise broken(path, "VHD", f"blocks of {block} bytes")
        if self.size_bytes > entries * block:
            raise broken(path, "VHD", f"{entries} blocks are less than the disk")
        self._block = block
        self._bitmap = -(-(block // 512 // 8) // 512) * 512
        self._map = read_table(storage, table_at, entries, "I", "VHD")
        if sys.byteorder == "little":
            self._map.byteswap()
        self.facts["block size"] = block

    def _place(self, offset: int) -> Place:
        if self._is_fixed:
            return Place(Content.DATA, self.size_bytes - offset, self._storages[0], offset)
        number, within = divmod(offset, self._block)
        entry = self._map[number]
        left = self._block - within
        if entry == _ABSENT:
            return Place(Content.ABSENT, left)
        host = entry * 512 + self._bitmap + within
        return Place(Content.DATA, left, self._storages[0], host)
