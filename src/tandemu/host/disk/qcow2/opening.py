"""Opening the parts of a qcow2 image; what it names besides is opened by the caller's function."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from tandemu.bits import replace
from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.image import Image
from tandemu.host.disk.qcow2.bitmaps import Bitmaps
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.qcow2.layout import (
    CORRUPT,
    DATA_FILE,
    DIRTY,
    EXT_BACKING_FORMAT,
    EXT_DATA_FILE,
    MAX_CLUSTER_BITS,
    Header,
    broken,
)
from tandemu.host.disk.qcow2.references import read_l1
from tandemu.host.disk.qcow2.restate import Restatement
from tandemu.host.disk.qcow2.snapshots import find, read_snapshots
from tandemu.host.disk.storage import Storage, read_at

OpenBacking = Callable[[str, str | None], Image]
"""Opens the image below by its name and its format, if the image above says one."""
OpenData = Callable[[str], Storage]
"""Opens the file with the data by its name."""


def read_header(storage: Storage) -> Header:
    """The header of the image in *storage*; `DiskError` if it is none or broken."""
    size = storage.size()
    head = read_at(storage, 0, min(size, 1 << MAX_CLUSTER_BITS))
    return Header.parse(head, storage.path, size)


def decoded(name: bytes, path: str) -> str:
    """A file's name in a header as text."""
    if b"\0" in name or not name:
        raise broken(path, f"{name!r} is no file's name")
    return name.decode("utf-8", "surrogateescape")


def open_qcow2(
    storage: Storage,
    *,
    open_backing: OpenBacking | None,
    open_data: OpenData,
    snapshot: str | None = None,
    repair: bool = False,
) -> Qcow2Image:
    """The image in *storage*. Without *open_backing* what is below it reads as zeros.

    *snapshot*: as it was then, for reading. *repair*: although it is marked as corrupt.
    An image that was not closed, and keeps its counts only then, has them made anew.
    """
    header = read_header(storage)
    path = storage.path
    if snapshot is not None:
        snapshots, _ = read_snapshots(storage, header)
        then = snapshots[find(snapshots, snapshot, path)]
        header = replace(
            header, l1_offset=then.l1_offset, l1_size=then.l1_size, size=then.disk_bytes
        )
        if header.size > header.l1_size * header.l1_coverage:
            raise broken(path, f"snapshot {snapshot!r} has too small an L1 table")
    if header.incompatible & CORRUPT and not (storage.read_only or repair):
        raise DiskError(
            f"{path} is marked as corrupt, so it is not written to: mend it with 'tandemu disk "
            "check --repair', or open it for reading only and copy what is there"
        )
    data = None
    if header.incompatible & DATA_FILE:
        name = header.extension(EXT_DATA_FILE)
        if name is None:
            raise broken(path, "its data stands in another file, which it does not name")
        data = open_data(decoded(name, path))
    backing = None
    try:
        if header.backing_name and open_backing is not None:
            form = header.extension(EXT_BACKING_FORMAT)
            backing = open_backing(
                decoded(header.backing_name, path),
                form.decode("ascii", "replace") if form else None,
            )
        if not storage.read_only and header.incompatible & DIRTY:
            header = _recount(storage, header)
        return Qcow2Image(storage, header, backing=backing, data=data)
    except BaseException:
        if data is not None:
            data.close()
        if backing is not None:
            backing.close()
        raise


def _recount(storage: Storage, header: Header) -> Header:
    """Make the counts anew of an image that was not closed."""
    snapshots, _ = read_snapshots(storage, header)
    restatement = Restatement(
        storage,
        header,
        Bitmaps.load(storage, header),
        read_l1(storage, header.l1_offset, header.l1_size),
        snapshots,
        external=bool(header.incompatible & DATA_FILE),
        strict=True,
    )
    return restatement.run()


def empty_l1(header: Header, size: int) -> array[int]:
    """An L1 table for a disk of *size* bytes that leads nowhere."""
    return array("Q", bytes(8 * -(-size // header.l1_coverage)))
