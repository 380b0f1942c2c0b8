"""VirtualBox's disk images (VDI), version 1.1: dynamic and fixed ones, for reading.

Source: the header as VirtualBox's VDICore.h lays it out. Differencing images name what is below
them by a number alone, which no folder can be searched for: they are refused.
"""

from __future__ import annotations

import struct
import sys

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.foreign.mapped import MappedImage, Place, broken, read_table
from tandemu.host.disk.image import Content
from tandemu.host.disk.storage import Storage, read_at

_HEADER = struct.Struct("<64xIIII260xII12xI4xQIII")
_SIGNATURE = 0xBEDA107F
_DYNAMIC, _FIXED = 1, 2
_ABSENT, _ZERO = 0xFFFFFFFF, 0xFFFFFFFE
_MOST_BLOCK_BYTES = 64 << 20


class VdiImage(MappedImage):
    """A VDI image."""

    format = "vdi"

    def __init__(self, storage: Storage) -> None:
        path = storage.path
        (
            signature, version, _, kind, map_at, self._data_at, sector, size, self._block,
            extra, blocks,
        ) = _HEADER.unpack(read_at(storage, 0, _HEADER.size))  # fmt: skip
        if signature != _SIGNATURE or version != 0x00010001:
            raise DiskError(f"{path} is no VDI image of version 1.1")
        if kind not in (_DYNAMIC, _FIXED):
            raise DiskError(
                f"{path} is a VDI image of kind {kind}: only dynamic (1) and fixed (2) ones can be "
                "read. Merge it into its base with VirtualBox first"
            )
        block = self._block
        if not 512 <= block <= _MOST_BLOCK_BYTES or block & (block - 1) or extra:
            raise broken(path, "VDI", f"blocks of {block} bytes and {extra}")
        if sector != 512 or size > blocks * block or self._data_at % 512:
            raise broken(path, "VDI", f"{blocks} blocks are less than its {size} bytes")
        super().__init__([storage], path, -(-size // 512) * 512)
        self._map = read_table(storage, map_at, blocks, "I", "VDI")
        if sys.byteorder == "big":
            self._map.byteswap()
        if self.size_bytes > blocks * block:
            raise broken(path, "VDI", f"{blocks} blocks are less than its {size} bytes")
        self.facts = {"block size": block, "kind": "fixed" if kind == _FIXED else "dynamic"}

    def _place(self, offset: int) -> Place:
        number, within = divmod(offset, self._block)
        entry = self._map[number]
        left = self._block - within
        if entry >= _ZERO:
            return Place(Content.ABSENT if entry == _ABSENT else Content.ZERO, left)
        host = self._data_at + entry * self._block + within
        return Place(Content.DATA, left, self._storages[0], host)
