"""Compiled regions on disk, so that a program that was hot once starts so.

They lie in `$XDG_CACHE_HOME/tandemu/regions` (default `~/.cache`), in a folder for each
generator, processor and LLVM (the key of `native.cache`), one file a region: written
beside and renamed, with a checksum, and used only if this user alone may write it.
The name says which guest address it is for; whether it fits the guest's code is found
out where that is. What is unreadable or too much is removed: its loss costs time only.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib

from tandemu.jit.regions.request import Region, RegionKind, pack, unpack
from tandemu.native import NativeError
from tandemu.native.cache import NativeCache, open_own, write_atomically

FILE_LIMIT = 4096
SIZE_LIMIT = 128 << 20
_PRUNE_EVERY = 64
_SUFFIX = ".region"
_PREFIX = struct.Struct("<8sII")  # magic, CRC-32, size
_MAGIC = b"TANDEMUR"


class RegionStore:
    """The regions on disk for this generator and host; *directory* is for tests."""

    def __init__(self, directory: str | None = None) -> None:
        if directory is None:
            cache = NativeCache()
            key = cache.key(["regions"])
            if cache.directory is not None and key is not None:
                base = os.path.join(os.path.dirname(cache.directory), "regions")
                name = f"{zlib.crc32(key):08x}{zlib.crc32(key[::-1]):08x}"
                directory = os.path.join(base, name)
        self.directory = directory
        self._writes = 0

    def index(self) -> dict[tuple[RegionKind, int], list[str]]:
        """The files there are, by what they are for."""
        found: dict[tuple[RegionKind, int], list[str]] = {}
        if self.directory is None:
            return found
        with contextlib.suppress(OSError):
            for name in os.listdir(self.directory):
                with contextlib.suppress(ValueError):
                    if name.endswith(_SUFFIX):
                        kind, pc, _ = name.split("-", 2)
                        isa, *numbers = kind.split(".")
                        flat, context, precise = map(int, numbers)
                        known = RegionKind(isa, bool(flat), context, bool(precise))
                        found.setdefault((known, int(pc, 16)), []).append(name)
        return found

    def load(self, name: str) -> Region | None:
        """The region in file *name*; None, and the file is removed, if it does not verify."""
        if self.directory is None:
            return None
        path = os.path.join(self.directory, name)
        with contextlib.suppress(OSError, struct.error, NativeError), open_own(path) as file:
            magic, checksum, size = _PREFIX.unpack(file.read(_PREFIX.size))
            data = file.read()
            if (magic, len(data), zlib.crc32(data)) == (_MAGIC, size, checksum):
                region = unpack(data)
                if isinstance(region, Region):
                    os.utime(path)  # pruning goes by last use
                    return region
        with contextlib.suppress(OSError):
            os.unlink(path)
        return None

    def save(self, region: Region) -> None:
        """Keep *region*; a disk that cannot is nobody's trouble."""
        if self.directory is None:
            return
        data = pack(region)
        kind = region.kind
        code = zlib.crc32(repr(region.extents).encode())
        name = (
            f"{kind.isa}.{kind.flat:d}.{kind.context}.{kind.precise:d}-"
            f"{region.pc:x}-{region.level}-{code:08x}{_SUFFIX}"
        )
        with contextlib.suppress(OSError):
            prefix = _PREFIX.pack(_MAGIC, zlib.crc32(data), len(data))
            write_atomically(os.path.join(self.directory, name), prefix, data)
        self._writes += 1
        if self._writes % _PRUNE_EVERY == 1:
            self.prune()

    def prune(self) -> None:
        """Remove the regions used longest ago beyond the limits, and those of old generators."""
        if self.directory is None:
            return
        entries: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self.directory) as scan:
            for item in scan:
                with contextlib.suppress(OSError):
                    state = item.stat(follow_symlinks=False)
                    entries.append((state.st_mtime, state.st_size, item.path))
        total = 0
        for count, (_, size, path) in enumerate(sorted(entries, reverse=True), 1):
            total += size
            if count > FILE_LIMIT or total > SIZE_LIMIT:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._remove_old_generators()

    def _remove_old_generators(self) -> None:
        """Keep the folders of the few generators used last."""
        assert self.directory is not None
        base = os.path.dirname(self.directory)
        with contextlib.suppress(OSError):
            folders = [item for item in os.scandir(base) if item.is_dir(follow_symlinks=False)]
            folders.sort(key=lambda item: item.stat().st_mtime, reverse=True)
            for folder in folders[_GENERATOR_LIMIT:]:
                for item in os.scandir(folder.path):
                    os.unlink(item.path)
                os.rmdir(folder.path)


_GENERATOR_LIMIT = 4
