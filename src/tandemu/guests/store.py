"""The cache folder: locks, and files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tandemu.guests.errors import GuestError


def cache_folder() -> Path:
    """Tandemu's folder below ``$XDG_CACHE_HOME`` (default ``~/.cache``); it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base or not os.path.isabs(base):  # the specification has relative paths ignored
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:
            raise GuestError(
                "there is no home folder to keep guest images in: set XDG_CACHE_HOME to a folder"
            ) from None
    return Path(base) / "tandemu"


def make_folder(path: Path) -> None:
    """Create *path* and its parents; a `GuestError` that says how to mend it where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuestError(
            f"{path} cannot be created ({error.strerror}): make it writable, or set XDG_CACHE_HOME "
            "to a folder that is"
        ) from error


@contextmanager
def clear_disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that says how to mend it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GuestError(
                f"the disk that holds {folder} is full, and what did not fit was not kept: free "
                "some space (about 200 MB), or set XDG_CACHE_HOME to a folder on another disk"
            ) from error
        raise GuestError(
            f"files could not be written below {folder}: {error.strerror or error}. "
            "Make the folder writable, or set XDG_CACHE_HOME to one that is"
        ) from error


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file *path*; other processes wait. It is left in place on purpose."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes *path*'s place once the block ends well, and vanishes otherwise."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def folder_size(folder: Path) -> int:
    """The bytes of all files in *folder*; what cannot be looked at counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def remove(path: Path) -> None:
    """Remove a file or a folder and all in it; what is gone already is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A fresh folder in *parent* for the block's time.

    The caller holds a lock on *name*. Leftovers of a process that was killed are removed.
    """
    make_folder(parent)
    prefix = f".{name}-"
    for leftover in parent.glob(f"{prefix}*"):
        remove(leftover)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        remove(folder)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A fresh folder that takes *folder*'s place once the block ends well; a lock is held on it."""
    with scratch(folder.parent, folder.name) as staging:
        inner = staging / "new"
        inner.mkdir(mode=0o755)
        yield inner
        if folder.exists():
            folder.rename(staging / "old")
        inner.rename(folder)
