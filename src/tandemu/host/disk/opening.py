"""Opening an image by its path, whatever its format, with all that stands below it.

A file names what is below it, and files are untrusted: a chain that leads back into itself or
has no end is refused, and what is below is only read.
"""

from __future__ import annotations

import errno
import json
import os
import re
from typing import Any

from tandemu.host.disk.errors import DiskError, DiskUsageError
from tandemu.host.disk.image import Description, Image
from tandemu.host.disk.probe import ALIASES, FORMATS, PROBED_BYTES, probe
from tandemu.host.disk.raw import RawImage
from tandemu.host.disk.storage import HostFile, Storage, read_at

_MOST_IMAGES = 200
_NBD_SCHEMES = ("nbd://", "nbd+unix://")
_PROTOCOL = re.compile(r"^([a-z][a-z0-9+.-]*):")


def known_format(name: str) -> str:
    """The format called *name*; `DiskUsageError` if there is none."""
    name = ALIASES.get(name, name)
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise DiskUsageError(f"{name!r} is no format of images: must be one of {known}")
    return name


class _Chain:
    """The files that are open already, by device and inode, and how to open the next."""

    def __init__(self, share: bool, backing: bool) -> None:
        self.share = share
        self.backing = backing
        self.files: set[tuple[int, int]] = set()

    def file(self, path: str, *, read_only: bool) -> HostFile:
        """Open a file that must not be there yet."""
        if len(self.files) >= _MOST_IMAGES:
            raise DiskError(f"{path} is image number {_MOST_IMAGES + 1} of one chain: too many")
        storage = HostFile(path, read_only=read_only, share=self.share)
        identity = storage.identity()
        if identity in self.files:
            storage.close()
            raise DiskError(f"{path} stands below itself: the chain of images leads in a circle")
        self.files.add(identity)
        return storage

    def refuse_circle(self, path: str) -> None:
        """A clear word instead of a lock that this very chain holds."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return
        if (status.st_dev, status.st_ino) in self.files:
            raise DiskError(f"{path} stands below itself: the chain of images leads in a circle")


def open_image(
    path: str,
    format: str | None = None,
    read_only: bool = False,
    *,
    share: bool = False,
    backing: bool = True,
    snapshot: str | None = None,
    repair: bool = False,
) -> Image:
    """Open the image at *path*; without *format* it is told from its first bytes.

    The files are locked until the image is closed, so that no other program (QEMU is one that
    sees it) uses them at the same time; *share* goes without. *backing* False: what is below
    it stays closed, and reads as zeros. *snapshot*: as a qcow2 image was then, for reading
    only. *repair*: even if it is marked as corrupt. `DiskError` if it cannot be opened or is
    broken.
    """
    if snapshot is not None and not read_only:
        raise DiskUsageError("an internal snapshot can be opened for reading only")
    return _open(path, format, read_only, _Chain(share, backing), snapshot, repair=repair)


def describe_chain(
    path: str, format: str | None = None, *, share: bool = False
) -> list[tuple[str, Description]]:
    """The path of the image at *path* and of each below it, the lowest last, and what each is."""
    with open_image(path, format, read_only=True, share=share) as image:
        found = []
        below: Image | None = image
        while below is not None:
            found.append((below.path, below.describe()))
            below = below.backing
        return found


def _open(
    path: str,
    format: str | None,
    read_only: bool,
    chain: _Chain,
    snapshot: str | None = None,
    *,
    repair: bool = False,
) -> Image:
    wanted = None if format is None else known_format(format)
    if path.startswith(_NBD_SCHEMES):
        if wanted not in (None, "raw") or snapshot is not None:
            raise DiskUsageError(f"{path}: what comes over NBD is a raw disk")
        from tandemu.host.disk.nbd.client import NbdImage
        from tandemu.host.disk.nbd.protocol import parse_uri

        return NbdImage(parse_uri(path), read_only=read_only)
    chain.refuse_circle(path)
    storage = chain.file(path, read_only=read_only)
    try:
        found = wanted or probe(read_at(storage, 0, PROBED_BYTES))
        if found not in FORMATS:
            raise DiskError(
                f"{path} is a {found} image, which is not read here: convert it with 'qemu-img "
                "convert', or say --format raw if it is a disk that only looks so"
            )
        if snapshot is not None and found != "qcow2":
            raise DiskUsageError(f"{path} is a {found} image, which has no snapshots")
        if found == "raw":
            return RawImage(storage, guarded=wanted is None)
        if found == "qcow2":
            from tandemu.host.disk.qcow2.opening import open_qcow2

            def open_backing(name: str, form: str | None) -> Image:
                return _open_named(name, form, path, chain)

            def open_data(name: str) -> Storage:
                return chain.file(data_file(path, name), read_only=read_only)

            return open_qcow2(
                storage,
                open_backing=open_backing if chain.backing else None,
                open_data=open_data,
                snapshot=snapshot,
                repair=repair,
            )
        return _open_foreign(found, storage, path, read_only, chain)
    except BaseException:
        storage.close()
        raise


def _open_foreign(
    found: str, storage: HostFile, path: str, read_only: bool, chain: _Chain
) -> Image:
    """The image in *storage*, of another program's format."""
    if not read_only:
        raise DiskError(
            f"{path} is a {found} image, which is only read: open it so, or make a copy with "
            "'tandemu disk convert -O qcow2'",
            errno.EROFS,
        )
    from tandemu.host.disk.foreign.vdi import VdiImage
    from tandemu.host.disk.foreign.vhd import VhdImage
    from tandemu.host.disk.foreign.vhdx import VhdxImage
    from tandemu.host.disk.foreign.vmdk import VmdkImage

    if found == "vmdk":

        def open_file(name: str) -> Storage:
            return chain.file(_beside(path, name), read_only=True)

        def open_backing(name: str, form: str | None) -> Image:
            return _open_named(name, form, path, chain)

        return VmdkImage(
            storage, open_file=open_file, open_backing=open_backing if chain.backing else None
        )
    if found == "vdi":
        return VdiImage(storage)
    return VhdxImage(storage) if found == "vhdx" else VhdImage(storage)


def data_file(path: str, name: str) -> str:
    """The path of the file that holds the data of the image at *path*: beside it, or below.

    It is written to, and an image that somebody else made could name any file. Whoever keeps it
    elsewhere puts a symbolic link there, which nobody does by accident.
    """
    folder = os.path.abspath(os.path.dirname(path))
    found = os.path.abspath(os.path.join(folder, name))
    if os.path.commonpath([folder, found]) != folder:
        raise DiskError(
            f"{path} says that its data stand in {name}: only a file in the same folder is "
            "opened, or a symbolic link there"
        )
    return os.path.join(os.path.dirname(path), os.path.relpath(found, folder))


def _beside(path: str, name: str) -> str:
    """The path of a file that the image at *path* calls *name*."""
    return os.path.join(os.path.dirname(path), name)


def resolve_backing(path: str, name: str, form: str | None) -> tuple[str, str | None]:
    """The path and format of the image below the one at *path*, which calls it *name*."""
    if name.startswith("json:"):
        name, form = _from_json(path, name[5:], form)
    if name.startswith(_NBD_SCHEMES):
        return name, form
    if name.startswith("file:"):
        name = name[5:]
    elif match := _PROTOCOL.match(name):
        raise DiskError(
            f"{path} stands on {name}, which is reached by {match[1]!r}: it must be a file, or "
            "an NBD server's nbd:// or nbd+unix://"
        )
    return _beside(path, name), form


def _open_named(name: str, form: str | None, path: str, chain: _Chain) -> Image:
    below, form = resolve_backing(path, name, form)
    try:
        return _open(below, form, True, chain)
    except DiskError as error:
        if error.errno == 2:
            raise DiskError(
                f"{path} stands on {below}, which is not there: put it back, or name another "
                "with 'tandemu disk rebase --unsafe'",
                2,
            ) from error
        raise


def _from_json(path: str, text: str, form: str | None) -> tuple[str, str | None]:
    """File and format in QEMU's description of a block device, as far as it names a file."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise DiskError(f"{path} stands on something whose description is no JSON") from None
    flat: dict[str, Any] = {}
    if isinstance(value, dict):
        inner = value.get("file")
        flat = {k: v for k, v in value.items() if isinstance(v, str)}
        if isinstance(inner, dict):
            flat |= {f"file.{k}": v for k, v in inner.items() if isinstance(v, str)}
    driver, name = flat.get("driver"), flat.get("file.filename")
    if driver == "file":
        driver, name = form, flat.get("filename", name)
    if name is None or flat.get("file.driver", "file") != "file":
        raise DiskError(f"{path} stands on {text}, which describes no file")
    return name, driver or form
