"""Native code that comes with the package: made elsewhere, for any x86-64, where LLVM is.

A host without LLVM has no other. An image is kept with the digests of the sources it was made
from, and is taken only if those of them that are here are the same: the generator itself may be
missing, and what is left must not have changed.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Sequence

from tandemu.native.cache import load_or_build, open_own, source_files, write_atomically

BASELINE = "x86-64"
"""The processor that such code is made for, as LLVM calls it."""
_FOLDER = os.path.join("native", "made")
_PREFIX = struct.Struct("<8sIII")  # magic, CRC-32 of the rest, sizes of digests and payload
_MAGIC = b"TANDEMUM"


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _digests(packages: Sequence[str]) -> dict[str, str]:
    import hashlib

    root, found = _root(), {}
    for path, _ in source_files(root, packages):
        with open(os.path.join(root, path), "rb") as file:
            found[path] = hashlib.sha256(file.read()).hexdigest()
    return found


def write_made(package: str, name: str, payload: bytes, packages: Sequence[str]) -> None:
    """Put *payload* into the folder *package* of an installed Tandemu, as what is called *name*."""
    digests = "".join(f"{path}\0{one}\n" for path, one in _digests(packages).items()).encode()
    check = zlib.crc32(digests + payload)
    prefix = _PREFIX.pack(_MAGIC, check, len(digests), len(payload))
    write_atomically(os.path.join(package, _FOLDER, name), prefix, digests, payload)


def made_or_built(name: str, build: Callable[[], bytes], packages: Sequence[str]) -> bytes:
    """What came with the package as *name*, else what *build* makes, once (`cache`)."""
    made = read_made(name, packages)
    return load_or_build(name, [name], build, packages=packages) if made is None else made


def read_made(name: str, packages: Sequence[str]) -> bytes | None:
    """What `write_made` put here; None if there is nothing, or it was made of other sources."""
    with contextlib.suppress(OSError, struct.error, ValueError):
        with open_own(os.path.join(_root(), _FOLDER, name)) as file:
            magic, check, digest_bytes, size = _PREFIX.unpack(file.read(_PREFIX.size))
            digests, payload = file.read(digest_bytes), file.read(size)
        if magic != _MAGIC or len(payload) != size or zlib.crc32(digests + payload) != check:
            return None
        made_from = dict(line.split("\0") for line in digests.decode().splitlines())
        if all(made_from.get(path) == digest for path, digest in _digests(packages).items()):
            return payload
    return None
