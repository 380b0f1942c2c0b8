"""A guest's root file system unpacked into a folder of the host's, for `--root`.

Root of the host's owns what root of the guest's shall own. Anybody else owns all of it himself,
and owners and modes are recorded beside the files, as shared folders do it (`host.share.owners`).
"""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from tandemu.guests.errors import GuestError
from tandemu.guests.images import GuestImage
from tandemu.guests.progress import Progress, Silent
from tandemu.guests.tar import Header, Reader, TarStream
from tandemu.host.share import owners

ARCHIVE = "root"
"""The file of an image that holds it."""


def unpack_root(image: GuestImage, folder: Path, progress: Progress | None = None) -> None:
    """Unpack the root of *image* into *folder*, which must not be there, or empty."""
    archive = image.folder / ARCHIVE
    if not archive.is_file():
        raise GuestError(f"{image.recipe.name} is a kernel, not a root file system to unpack")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise GuestError(f"{folder} is not empty: give a folder that is not there yet")
        _Unpacking(folder, progress or Silent()).run(archive)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GuestError(
            f"the system could not be unpacked into {folder}: {reason}. What is there of it can be "
            "removed; the folder must be on a file system with room for it, and with extended "
            "attributes (user.*) unless you are root"
        ) from error


class _Unpacking:
    def __init__(self, folder: Path, progress: Progress) -> None:
        self._root = str(folder)
        self._progress = progress
        self._recorded = os.geteuid() != 0
        self._folders: dict[str, Header] = {"": Header("", "directory", 0, "", 0o755)}

    def run(self, archive: Path) -> None:
        total = archive.stat().st_size
        self._progress.step(f"Unpacking into {self._root}")
        with archive.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed:
            stream = TarStream(cast(Reader, packed))
            for header in stream:
                self._make(header, stream.content())
                self._progress.advance(raw.tell(), total)
        # Last, for a folder may be one that we could not write into.
        for header in reversed(self._folders.values()):
            self._own(header)

    def _make(self, header: Header, content: Iterator[bytes]) -> None:
        name = header.name
        if name.rpartition("/")[0] not in self._folders:
            raise GuestError(f"the archive has {name!r} in a folder that it does not make")
        path = os.path.join(self._root, name)
        if header.kind == "directory":
            if name not in self._folders:
                os.mkdir(path, 0o700)
            self._folders[name] = header
        elif header.kind == "symlink":
            os.symlink(header.target, path)
            if not self._recorded:
                os.lchown(path, header.uid, header.gid)
        elif header.kind == "link":
            os.link(os.path.join(self._root, header.target), path, follow_symlinks=False)
        elif header.kind == "file":
            with open(path, "xb") as file:
                for piece in content:
                    file.write(piece)
            self._own(header)

    def _own(self, header: Header) -> None:
        """Give a file or folder its owner, mode and time."""
        path = os.path.join(self._root, header.name)
        folder = header.kind == "directory"
        mode = header.mode | (stat.S_IFDIR if folder else stat.S_IFREG)
        if self._recorded:
            owners.write(path, owners.Owner(header.uid, header.gid, mode))
            os.chmod(path, owners.host_mode(mode))
        else:
            os.chown(path, header.uid, header.gid)
            os.chmod(path, header.mode)
        os.utime(path, (header.modified, header.modified))
