"""cpio archives in the "new ASCII" form (newc, magic 070701), as Linux's initramfs takes them.

Written and read after the kernel's ``Documentation/driver-api/early-userspace/
buffer-format.rst``: files, directories, symbolic links and device nodes. Nothing
touches the file system, so device nodes need no root. Left out: hard links (a
second entry would hold a second copy) and the checksummed variant 070702 on writing.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tandemu.guests.errors import GuestError

_MAGICS = (b"070701", b"070702")
_HEADER_SIZE = 110
_TRAILER = "TRAILER!!!"
_MAXIMUM_NAME = 4096
_MAXIMUM_DATA = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: *path* without a leading slash, *mode* with its file type bits.

    *data* is a file's content or a symbolic link's target; *device* is the
    (major, minor) pair of a device node.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    modified: int = 0


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | mode, data)


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | mode)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link at *path* that points to *target*."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def block_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A block device node."""
    return Entry(path, stat.S_IFBLK | mode, device=(major, minor))


def _padding(size: int) -> bytes:
    return b"\0" * (-size % 4)


def _member(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    if len(name) > _MAXIMUM_NAME or b"\0" in name[:-1] or name == b"\0":
        raise GuestError(
            f"{entry.path!r} cannot be a name in a cpio archive: 1 to 4095 bytes without NUL"
        )
    if len(entry.data) > _MAXIMUM_DATA:
        raise GuestError(
            f"{entry.path} has {len(entry.data)} bytes; a cpio archive takes under 4 GiB"
        )
    fields = (
        inode,
        entry.mode,
        0,  # user
        0,  # group
        2 if stat.S_ISDIR(entry.mode) else 1,  # links
        entry.modified,
        len(entry.data),
        0,  # device the file system is on
        0,
        *entry.device,
        len(name),
        0,  # checksum, of 070702 only
    )
    head = _MAGICS[0] + b"".join(b"%08X" % field for field in fields) + name
    return head + _padding(len(head)) + entry.data + _padding(len(entry.data))


def write(entries: Iterable[Entry]) -> bytes:
    """Return the archive that holds *entries* in their order.

    A path may stand only once and its parent directories must come first: the
    kernel creates no parents. Paths are relative to the archive's root.
    """
    directories: set[str] = {""}
    seen: set[str] = set()
    parts: list[bytes] = []
    for inode, entry in enumerate(entries, start=1):
        path = entry.path
        parent = path.rpartition("/")[0]
        if path.startswith("/") or ".." in path.split("/"):
            raise GuestError(f"{path!r} must be a path below the archive's root, without '..'")
        if path in seen:
            raise GuestError(f"{path!r} stands in the archive twice")
        if parent not in directories:
            raise GuestError(f"{path!r} needs an entry for its directory {parent!r} before it")
        seen.add(path)
        if stat.S_ISDIR(entry.mode):
            directories.add(path)
        parts.append(_member(entry, inode))
    parts.append(_member(Entry(_TRAILER, 0), 0))
    archive = b"".join(parts)
    return archive + b"\0" * (-len(archive) % 512)


def read(archive: bytes) -> Iterator[Entry]:
    """Yield the entries of *archive*; `GuestError` where it is damaged.

    Only the archive itself bounds what is read; nothing is unpacked to disk.
    """
    position = 0
    while True:
        header = archive[position : position + _HEADER_SIZE]
        if len(header) < _HEADER_SIZE or header[:6] not in _MAGICS:
            raise GuestError(
                f"no cpio header at byte {position}: the archive is damaged or not in newc form"
            )
        try:
            fields = [int(header[at : at + 8], 16) for at in range(6, _HEADER_SIZE, 8)]
        except ValueError:
            raise GuestError(f"the cpio header at byte {position} is not hexadecimal") from None
        mode, modified, size = fields[1], fields[5], fields[6]
        major, minor, name_size = fields[9], fields[10], fields[11]
        name_start = position + _HEADER_SIZE
        data_start = name_start + name_size
        data_start += -data_start % 4
        if not 0 < name_size <= _MAXIMUM_NAME or data_start + size > len(archive):
            raise GuestError(f"the cpio member at byte {position} reaches past the archive's end")
        name = archive[name_start : name_start + name_size - 1].decode(errors="surrogateescape")
        if name == _TRAILER:
            return
        data = archive[data_start : data_start + size]
        yield Entry(name, mode, data, (major, minor), modified)
        position = data_start + size
        position += -position % 4
