"""The internal snapshots of a qcow2 image: their table, read and written.

Source: the qcow2 specification, section "Snapshots".
"""

from __future__ import annotations

import struct

from tandemu.bits import Record
from tandemu.host.disk.errors import DiskError, DiskUsageError
from tandemu.host.disk.qcow2.layout import MAX_L1_BYTES, Header, broken
from tandemu.host.disk.storage import Storage, read_at

_FIXED = struct.Struct(">QIHHIIQII")
_EXTRA = struct.Struct(">QQQ")
_MOST_TABLE_BYTES = 64 << 20
_MOST_NAME_BYTES = 1023


class Snapshot(Record):
    """One snapshot. *disk_bytes*: how large the disk was; *state_bytes*: its machine's state.

    *extra* is what its entry holds beyond the fields known here, and is kept.
    """

    l1_offset: int
    l1_size: int
    id: str
    name: str
    seconds: int
    nanoseconds: int
    clock_ns: int
    state_bytes: int
    disk_bytes: int
    instructions: int = (1 << 64) - 1
    extra: bytes = b""

    def pack(self) -> bytes:
        """Its entry in the table."""
        extra = _EXTRA.pack(self.state_bytes, self.disk_bytes, self.instructions) + self.extra
        id_, name = self.id.encode(), self.name.encode("utf-8", "surrogateescape")
        entry = _FIXED.pack(
            self.l1_offset, self.l1_size, len(id_), len(name), self.seconds, self.nanoseconds,
            self.clock_ns, min(self.state_bytes, (1 << 32) - 1), len(extra),
        )  # fmt: skip
        entry += extra + id_ + name
        return entry + bytes(-len(entry) % 8)


def pack_table(snapshots: list[Snapshot]) -> bytes:
    """The whole table."""
    table = b"".join(one.pack() for one in snapshots)
    if len(table) > _MOST_TABLE_BYTES:
        raise DiskError(f"{len(snapshots)} snapshots are more than an image can hold")
    return table


def read_snapshots(storage: Storage, header: Header) -> tuple[list[Snapshot], int]:
    """The snapshots of an image, and how many bytes their table takes."""
    found: list[Snapshot] = []
    path, at = storage.path, header.snapshots_offset
    end = storage.size()
    for _ in range(header.snapshot_count):
        if at + _FIXED.size > end or at - header.snapshots_offset > _MOST_TABLE_BYTES:
            raise broken(path, "the snapshot table is longer than it can be")
        (
            l1_offset, l1_size, id_bytes, name_bytes, seconds, nanoseconds, clock, state,
            extra_bytes,
        ) = _FIXED.unpack(read_at(storage, at, _FIXED.size))  # fmt: skip
        length = extra_bytes + id_bytes + name_bytes
        if extra_bytes > 1024 or at + _FIXED.size + length > end:
            raise broken(path, "an entry of the snapshot table reaches beyond the file")
        rest = read_at(storage, at + _FIXED.size, length)
        extra = rest[:extra_bytes]
        disk, instructions = header.size, (1 << 64) - 1
        if extra_bytes >= 8:
            state = int.from_bytes(extra[:8], "big")
        if extra_bytes >= 16:
            disk = int.from_bytes(extra[8:16], "big")
        if extra_bytes >= 24:
            instructions = int.from_bytes(extra[16:24], "big")
        if l1_size * 8 > MAX_L1_BYTES or l1_offset & (header.cluster_bytes - 1):
            raise broken(path, f"a snapshot's L1 table has {l1_size} entries at {l1_offset:#x}")
        if l1_offset + l1_size * 8 > end:
            raise broken(path, "a snapshot's L1 table reaches beyond the file")
        found.append(
            Snapshot(
                l1_offset, l1_size,
                rest[extra_bytes : extra_bytes + id_bytes].decode("utf-8", "replace"),
                rest[extra_bytes + id_bytes :].decode("utf-8", "surrogateescape"),
                seconds, nanoseconds, clock, state, disk, instructions, extra[24:],
            )
        )  # fmt: skip
        at += -(-(_FIXED.size + length) // 8) * 8
    return found, at - header.snapshots_offset


def find(snapshots: list[Snapshot], wanted: str, path: str) -> int:
    """The index of the snapshot with a name or an id; `DiskUsageError` if there is none."""
    for index, one in enumerate(snapshots):
        if one.name == wanted:
            return index
    for index, one in enumerate(snapshots):
        if one.id == wanted:
            return index
    known = ", ".join(repr(one.name) for one in snapshots) or "none"
    raise DiskUsageError(f"{path} has no snapshot {wanted!r}; it has: {known}")


def check_name(name: str) -> None:
    """`DiskUsageError` if a snapshot cannot be called so."""
    if not name or len(name.encode("utf-8", "surrogateescape")) > _MOST_NAME_BYTES:
        raise DiskUsageError("a snapshot's name must have 1 to 1023 bytes")
