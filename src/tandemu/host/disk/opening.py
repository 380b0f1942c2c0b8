"""Opening an image by its path, whatever its format."""

from __future__ import annotations

import errno

from tandemu.host.disk.errors import DiskError, DiskUsageError
from tandemu.host.disk.image import Image
from tandemu.host.disk.probe import ALIASES, FORMATS, PROBED_BYTES, probe
from tandemu.host.disk.raw import RawImage
from tandemu.host.disk.storage import HostFile, read_at


def known_format(name: str) -> str:
    """The format called *name*; `DiskUsageError` if there is none."""
    name = ALIASES.get(name, name)
    if name not in FORMATS:
        raise DiskUsageError(
            f"{name!r} is no format of images: must be one of {', '.join(FORMATS)}"
        )
    return name


def open_image(
    path: str, format: str | None = None, read_only: bool = False, *, share: bool = False
) -> Image:
    """Open the image at *path*; without *format* it is told from its first bytes.

    The file is locked until the image is closed, so that no other program (QEMU is one that
    sees it) uses it at the same time; *share* goes without. `DiskError` if it cannot be
    opened or is broken.
    """
    wanted = None if format is None else known_format(format)
    storage = HostFile(path, read_only=read_only, share=share)
    try:
        found = wanted or probe(read_at(storage, 0, PROBED_BYTES))
        if found != "raw":
            raise DiskError(f"{path} is a {found} image, which cannot be opened yet", errno.ENOTSUP)
        return RawImage(storage, guarded=wanted is None)
    except BaseException:
        storage.close()
        raise
