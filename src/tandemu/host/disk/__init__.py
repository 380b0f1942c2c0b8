"""Disk images: files that a guest sees as disks, opened with `open_image`."""

from tandemu.host.disk.errors import DiskError, DiskUsageError
from tandemu.host.disk.image import SECTOR_BYTES, Content, Description, Extent, Image
from tandemu.host.disk.opening import open_image

__all__ = [
    "SECTOR_BYTES",
    "Content",
    "Description",
    "DiskError",
    "DiskUsageError",
    "Extent",
    "Image",
    "open_image",
]
