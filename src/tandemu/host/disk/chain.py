"""Chains of images: writing the upper one down into the one below, and naming another below."""

from __future__ import annotations

from tandemu.host.disk.copying import CHUNK_BYTES, Advance, same_contents
from tandemu.host.disk.errors import DiskUsageError
from tandemu.host.disk.image import Content, Image
from tandemu.host.disk.opening import open_image, resolve_backing
from tandemu.host.disk.qcow2 import manage
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.qcow2.layout import EXT_BACKING_FORMAT
from tandemu.host.disk.raw import RawImage


def need_qcow2(image: Image, what: str) -> Qcow2Image:
    """*image*, if it is qcow2; `DiskUsageError` that *what* needs that."""
    if not isinstance(image, Qcow2Image):
        raise DiskUsageError(f"{image.path} is a {image.format} image: {what} needs qcow2")
    return image


def resize_image(image: Image, size: int) -> None:
    """Make a raw or qcow2 image *size* bytes long."""
    if isinstance(image, RawImage):
        image.resize(size)
    else:
        manage.resize(need_qcow2(image, "another size"), size)


def commit(path: str, advance: Advance, *, keep: bool = False) -> str:
    """Write what the image at *path* holds into the one below it; the path of that.

    Afterwards the image is empty, unless *keep*: then it stays as it was.
    """
    with open_image(path, "qcow2", backing=False) as opened:
        top = need_qcow2(opened, "commit")
        name = top.header.backing_name.decode("utf-8", "surrogateescape")
        if not name:
            raise DiskUsageError(f"{path} has no image below it to commit to")
        form = top.header.extension(EXT_BACKING_FORMAT)
        below, wanted = resolve_backing(
            path, name, form.decode("ascii", "replace") if form else None
        )
        with open_image(below, wanted) as base:
            if base.size_bytes < top.size_bytes:
                resize_image(base, top.size_bytes)
            total = top.size_bytes
            for extent in top.extents(0, total):
                _commit_extent(top, base, extent.offset, extent.length, extent.content)
                advance(extent.offset + extent.length, total)
            base.flush()
        if not keep:
            manage.make_empty(top)
        return below


def _commit_extent(top: Image, base: Image, offset: int, length: int, content: Content) -> None:
    if content is Content.ABSENT:
        return
    if content is Content.ZERO:
        base.write_zeroes(offset, length)
        return
    end = offset + length
    buffer = memoryview(bytearray(min(length, CHUNK_BYTES)))
    while offset < end:
        part = buffer[: min(CHUNK_BYTES, end - offset)]
        top.readv(offset, [part])
        base.writev(offset, [part])
        offset += part.nbytes


def rebase(
    path: str, backing: str, form: str | None, advance: Advance, *, unsafe: bool = False
) -> None:
    """Name another image below the one at *path*; with an empty *backing* none.

    What the guest sees stays the same: what differs below is copied into the image first.
    *unsafe*: only the name is changed, for an image below that has moved. A format that is
    not given is told from the image.
    """
    if unsafe:
        with open_image(path, "qcow2", backing=False) as opened:
            image = need_qcow2(opened, "rebase")
            manage.set_backing(image, backing, form or _format_below(path, backing))
        return
    with open_image(path, "qcow2") as opened:
        image = need_qcow2(opened, "rebase")
        if not backing:
            _copy_what_differs(image, None, advance)
            manage.set_backing(image, "", "")
            return
        below, wanted = resolve_backing(path, backing, form)
        # Old and new may share images: both are only read.
        with open_image(below, wanted, read_only=True) as base:
            _refuse_itself(image, base)
            _copy_what_differs(image, base, advance)
            form = base.format
        manage.set_backing(image, backing, form)


def _format_below(path: str, backing: str) -> str:
    if not backing:
        return ""
    below, wanted = resolve_backing(path, backing, None)
    with open_image(below, wanted, read_only=True, share=True, backing=False) as base:
        return base.format


def _refuse_itself(image: Qcow2Image, base: Image) -> None:
    """An image must not come to stand below itself; its lock has refused that already."""
    if base.path == image.path:
        raise DiskUsageError(f"{image.path} cannot stand below itself")


def _copy_what_differs(image: Qcow2Image, base: Image | None, advance: Advance) -> None:
    """Copy into *image* what it sees below it now and would not see on *base*."""
    total = image.size_bytes
    unit = max(CHUNK_BYTES, image.header.cluster_bytes)
    for extent in list(image.extents(0, total)):
        absent = extent.depth > 0 or extent.content is Content.ABSENT
        offset, end = extent.offset, extent.offset + extent.length
        while absent and offset < end:
            length = min(unit, end - offset)
            if base is None:
                different = extent.content is Content.DATA
            else:
                different = not same_contents(image, base, offset, length)
            if different:
                image.write(offset, image.read(offset, length))
            offset += length
        advance(end, total)
    image.flush()
