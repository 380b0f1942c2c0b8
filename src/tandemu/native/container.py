"""The byte format in which native artefacts are kept: a header and blobs.

Layout: magic, version and header length (`<8sII`), the header, marshalled:
`{"kind", "header", "blobs": [[name, size], …]}`, then the blobs back to back.
Integrity is the cache's business (a checksum); here sizes are checked only.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Mapping
from typing import Any

from tandemu.native.errors import NativeError

_PREFIX = struct.Struct("<8sII")
_MAGIC = b"TANDEMUC"
_VERSION = 2
_MARSHAL = 4
"""The version of marshal's format: that of Python 3.4, which later ones read, too."""


def pack(kind: str, header: Mapping[str, Any], blobs: Mapping[str, bytes]) -> bytes:
    """Return one byte string that holds *header* (plain values) and *blobs*, in order."""
    sizes = [[name, len(blob)] for name, blob in blobs.items()]
    text = marshal.dumps({"kind": kind, "header": dict(header), "blobs": sizes}, _MARSHAL)
    return b"".join([_PREFIX.pack(_MAGIC, _VERSION, len(text)), text, *blobs.values()])


def unpack(kind: str, data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return header and blobs of what `pack` made for *kind*; NativeError if it is not that."""
    try:
        magic, version, length = _PREFIX.unpack_from(data)
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError("no magic of this version")
        position = _PREFIX.size + length
        outer = marshal.loads(data[_PREFIX.size : position])
        if outer["kind"] != kind:
            raise ValueError(f"holds {outer['kind']!r}")
        blobs: dict[str, bytes] = {}
        for name, size in outer["blobs"]:
            blobs[name] = data[position : position + size]
            position += size
        if position != len(data):
            raise ValueError(f"{len(data)} bytes, {position} expected")
        return outer["header"], blobs
    except (struct.error, ValueError, KeyError, TypeError, EOFError) as error:
        raise NativeError(f"not a stored {kind}: {error}") from error
