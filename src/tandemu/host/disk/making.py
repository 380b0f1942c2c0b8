"""Making new images, empty or from others."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from tandemu.host.disk.copying import Advance, Packing, copy
from tandemu.host.disk.errors import DiskUsageError
from tandemu.host.disk.image import Image
from tandemu.host.disk.opening import data_file, open_image, resolve_backing
from tandemu.host.disk.qcow2 import compression
from tandemu.host.disk.qcow2.create import Qcow2Options, preallocate, write_new_image
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.qcow2.opening import open_qcow2
from tandemu.host.disk.storage import HostFile, Storage

WRITABLE = ("raw", "qcow2")
"""The formats that images can be made in."""
PREALLOCATIONS = ("off", "metadata", "falloc", "full")
MAX_SIZE = 1 << 62


def create_image(
    path: str,
    format: str,
    size: int | None,
    options: Qcow2Options | None = None,
    *,
    preallocation: str = "off",
    replace_file: bool = False,
) -> None:
    """Make an empty image; without *size* as large as what is below it.

    A file that is there already is refused unless *replace_file*. What fails leaves no file.
    """
    if format not in WRITABLE:
        raise DiskUsageError(
            f"images of the format {format!r} are not made here: must be {' or '.join(WRITABLE)}"
        )
    if preallocation not in PREALLOCATIONS:
        known = ", ".join(PREALLOCATIONS)
        raise DiskUsageError(f"{preallocation!r} is no preallocation: must be one of {known}")
    options = options or Qcow2Options()
    if options.backing:
        options, below_bytes = _look_below(path, options)
        size = below_bytes if size is None else size
    if size is None or not 0 <= size <= MAX_SIZE:
        raise DiskUsageError("an image needs a size from 0 to 4 EiB, such as 10G")
    size = -(-size // 512) * 512
    if format == "raw":
        if options != Qcow2Options():
            raise DiskUsageError("a raw image has no options: it is nothing but the disk's bytes")
        if preallocation == "metadata":
            raise DiskUsageError("a raw image has no metadata: preallocate falloc or full")
    else:
        options.header(size)  # refuse before there is a file
    existed = os.path.lexists(path)
    storage = HostFile(path, create=True, replace=replace_file)
    try:
        if format == "raw":
            _make_raw(storage, size, preallocation)
        else:
            _make_qcow2(storage, size, options, preallocation, path)
    except BaseException:
        storage.close()
        if not existed:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise
    storage.close()


def _look_below(path: str, options: Qcow2Options) -> tuple[Qcow2Options, int]:
    """The options with the format of the image below, and that image's size."""
    below, wanted = resolve_backing(path, options.backing, options.backing_format or None)
    with open_image(below, wanted, read_only=True, share=True) as base:
        return replace(options, backing_format=base.format), base.size_bytes


def _make_raw(storage: HostFile, size: int, preallocation: str) -> None:
    storage.truncate(size)
    if preallocation == "falloc":
        storage.reserve(0, size)
    elif preallocation == "full":
        storage.fill_holes()
    storage.flush()


def _make_qcow2(
    storage: HostFile, size: int, options: Qcow2Options, preallocation: str, path: str
) -> None:
    data = None
    if options.data_file:
        data = HostFile(data_file(path, options.data_file), create=True)
        data.truncate(size)
    try:
        write_new_image(storage, size, options)
        if preallocation != "off" or options.data_file_raw:

            def open_data(_: str) -> Storage:
                assert data is not None
                return data

            image = open_qcow2(storage, open_backing=None, open_data=open_data)
            how = "metadata" if preallocation == "off" else preallocation
            preallocate(image, how, data or storage)
    finally:
        if data is not None:
            data.close()


def convert(
    source: Image,
    path: str,
    format: str,
    options: Qcow2Options,
    advance: Advance,
    *,
    compress: bool = False,
    preallocation: str = "off",
    replace_file: bool = False,
) -> None:
    """Make an image at *path* with the contents of *source*; what fails leaves no new file."""
    if compress and format != "qcow2":
        raise DiskUsageError(f"a {format} image cannot be compressed: only qcow2 can")
    if compress and (preallocation != "off" or options.data_file):
        raise DiskUsageError("what is compressed has no place of its own: choose one of the two")
    existed = os.path.lexists(path)
    create_image(
        path, format, source.size_bytes, options,
        preallocation=preallocation, replace_file=replace_file,
    )  # fmt: skip
    try:
        with open_image(path, format) as target:
            copy_into(source, target, advance, compress=compress, is_empty=not options.backing)
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


def copy_into(
    source: Image, target: Image, advance: Advance, *, compress: bool = False, is_empty: bool = True
) -> None:
    """Copy *source* into *target*, in units that suit it."""
    if not isinstance(target, Qcow2Image):
        if compress:
            raise DiskUsageError(f"{target.path} cannot be compressed: only qcow2 can")
        copy(source, target, advance, is_empty=is_empty)
        return
    unit = target.header.cluster_bytes
    packing = None
    if compress:
        kind = target.header.compression
        packing = Packing(unit, lambda data: compression.pack(kind, data), target.write_packed)
    copy(source, target, advance, is_empty=is_empty, unit=max(unit, 4096), packing=packing)
