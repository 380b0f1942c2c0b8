"""What is done to a whole qcow2 image: snapshots, another size, another backing image, repair.

Each of these is one write of the header's first sector in the end (`restate`), so that a loss
of power leaves the image as it was before or as it is after. No request of a guest may run
meanwhile.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

from tandemu.bits import replace
from tandemu.host.disk.errors import DiskUsageError
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.qcow2.layout import (
    DATA_FILE,
    DATA_FILE_RAW,
    EXT_BACKING_FORMAT,
    MAX_BACKING_NAME,
    MAX_L1_BYTES,
    Header,
)
from tandemu.host.disk.qcow2.opening import empty_l1
from tandemu.host.disk.qcow2.references import read_l1
from tandemu.host.disk.qcow2.restate import Restatement
from tandemu.host.disk.qcow2.snapshots import Snapshot, check_name, find, read_snapshots
from tandemu.host.disk.storage import write_at


def list_snapshots(image: Qcow2Image) -> list[Snapshot]:
    """The internal snapshots of *image*, oldest first."""
    return read_snapshots(image.storage, image.header)[0]


def _restate(
    image: Qcow2Image,
    l1: array[int],
    snapshots: Sequence[Snapshot],
    new_l1: dict[int, array[int]] | None = None,
    *,
    strict: bool = True,
    **changes: object,
) -> list[str]:
    """Write the new state and go on with it; what could not be kept of a broken image."""
    restatement = Restatement(
        image.storage,
        image.header,
        image.bitmaps,
        l1,
        snapshots,
        new_l1,
        external=bool(image.header.incompatible & DATA_FILE),
        strict=strict,
    )
    image.header = restatement.run(**changes)
    image.size_bytes = image.header.size
    image.load()
    return restatement.problems


def _settled(image: Qcow2Image) -> tuple[array[int], list[Snapshot]]:
    """Bring the file up to date; the active L1 table and the snapshots."""
    image.settle()
    header = image.header
    return read_l1(image.storage, header.l1_offset, header.l1_size), list_snapshots(image)


def create_snapshot(image: Qcow2Image, name: str) -> Snapshot:
    """Keep the image as it is now under a *name*."""
    check_name(name)
    _refuse_external(image, "snapshots")
    l1, snapshots = _settled(image)
    if any(one.name == name for one in snapshots):
        raise DiskUsageError(f"{image.path} has a snapshot {name!r} already")
    number = max((int(one.id) for one in snapshots if one.id.isdecimal()), default=0) + 1
    now = time.time_ns()
    made = Snapshot(
        0, len(l1), str(number), name, now // 10**9 & 0xFFFFFFFF, now % 10**9, 0, 0,
        image.size_bytes,
    )  # fmt: skip
    _restate(image, l1, [*snapshots, made], {len(snapshots): l1[:]})
    return made


def delete_snapshot(image: Qcow2Image, name: str) -> None:
    """Forget a snapshot; what it alone holds is free."""
    l1, snapshots = _settled(image)
    del snapshots[find(snapshots, name, image.path)]
    _restate(image, l1, snapshots)


def apply_snapshot(image: Qcow2Image, name: str) -> None:
    """Make the image what it was when the snapshot was made, which stays."""
    _refuse_external(image, "snapshots")
    _, snapshots = _settled(image)
    one = snapshots[find(snapshots, name, image.path)]
    if image.bitmaps and one.disk_bytes != image.size_bytes:
        raise _has_bitmaps(image)
    l1 = read_l1(image.storage, one.l1_offset, one.l1_size)
    _restate(image, l1[: _l1_entries(image.header, one.disk_bytes)], snapshots, size=one.disk_bytes)
    # What the bitmaps say of since then is not so.
    if image.bitmaps:
        image.begin_change()
        image.bitmaps.mark(0, image.size_bytes)
        image.settle()


def _l1_entries(header: Header, size: int) -> int:
    return -(-size // header.l1_coverage)


def resize(image: Qcow2Image, size: int) -> None:
    """Make the disk *size* bytes long: what is new reads as zeros, what is beyond is gone."""
    header = image.header
    if size % 512:
        raise DiskUsageError(f"{size} is no whole number of sectors of 512 bytes")
    if _l1_entries(header, size) * 8 > MAX_L1_BYTES:
        raise DiskUsageError(
            f"clusters of {header.cluster_bytes} bytes are too small for a disk of {size} bytes"
        )
    if image.bitmaps:
        raise _has_bitmaps(image)
    if header.autoclear & DATA_FILE_RAW:
        raise DiskUsageError(
            f"{image.path} keeps its data in a raw file, whose size would no longer fit"
        )
    if header.snapshot_count and header.version == 2:
        raise DiskUsageError(f"{image.path}: snapshots of version 2 do not know the disk's size")
    old = image.size_bytes
    if size < old:
        unit = header.cluster_bytes
        begin = -(-size // unit) * unit
        if begin < old:
            image.forget(begin, old - begin)
    l1, snapshots = _settled(image)
    entries = _l1_entries(header, size)
    wanted = l1[:entries]
    wanted.extend([0] * (entries - len(wanted)))
    below = 0 if image.backing is None else image.backing.size_bytes
    if size > old and below > old:
        # What is below must not be seen in what is new. Until it is hidden the size stays.
        _restate(image, wanted, snapshots)
        image.size_bytes = size
        image.write_zeroes(old, min(size, below) - old)
        image.settle()
        image.set_header(replace(image.header, size=size))
        image.load()
        return
    if size > old and (part := -old % header.cluster_bytes):
        # The rest of the last cluster may hold anything.
        image.size_bytes = old + part
        image.write(old, bytes(part))
        image.size_bytes = old
        l1, snapshots = _settled(image)
        wanted = l1[:entries]
        wanted.extend([0] * (entries - len(wanted)))
    _restate(image, wanted, snapshots, size=size)


def make_empty(image: Qcow2Image) -> None:
    """Give up all that the image itself holds, so that only what is below it is seen."""
    _refuse_external(image, "emptying")
    _, snapshots = _settled(image)
    _restate(image, empty_l1(image.header, image.size_bytes), snapshots)


def repair(image: Qcow2Image) -> list[str]:
    """Make counts and flags anew; what cannot be read is given up, which the answer lists."""
    image.settle()
    header = image.header
    l1 = read_l1(image.storage, header.l1_offset, header.l1_size)
    return _restate(image, l1, list_snapshots(image), strict=False)


def set_backing(image: Qcow2Image, name: str, form: str) -> None:
    """Name another image below, or with an empty *name* none. What is seen is the caller's care."""
    image.settle()
    storage, old = image.storage, image.header
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_BACKING_NAME:
        raise DiskUsageError(f"a backing file's name has at most {MAX_BACKING_NAME} bytes: {name}")
    header = old.with_extension(EXT_BACKING_FORMAT, form.encode("ascii") if name else None)
    fields = len(header.pack())
    # The new name stands where the old one does not, so that until the switch the old one holds.
    first, second = -(-fields // 512) * 512, -(-(fields + 1024) // 512) * 512
    place = second if old.backing_offset < first + 1024 else first
    if place + len(encoded) > header.cluster_bytes:
        place = -(-fields // 8) * 8  # a tiny cluster: one sector holds all
    if place + len(encoded) > header.cluster_bytes:
        raise DiskUsageError(f"{name} is too long a name for clusters of {header.cluster_bytes}")
    header = replace(header, backing_offset=place if name else 0, backing_name=encoded)
    packed = header.pack()
    if len(packed) > 512:
        raise DiskUsageError(f"{image.path} has header extensions that leave no room")
    if name and place >= 512:
        write_at(storage, place, encoded)
        storage.flush()
    head = bytearray(packed + bytes(512 - len(packed)))
    if name and place < 512:
        head[place : place + len(encoded)] = encoded
    write_at(storage, 0, bytes(head))
    storage.flush()
    image.header = header


def _refuse_external(image: Qcow2Image, what: str) -> None:
    if image.header.incompatible & DATA_FILE:
        raise DiskUsageError(
            f"{image.path} keeps its data in another file: {what} are not possible"
        )


def _has_bitmaps(image: Qcow2Image) -> DiskUsageError:
    return DiskUsageError(
        f"{image.path} has bitmaps, which are for its present size: remove them first with "
        "'qemu-img bitmap --remove'"
    )
