"""Compressed clusters: deflate without a header, or zstd.

Source: the qcow2 specification, section "Compressed Clusters Descriptor". What is unpacked is
never more than one cluster, whatever the data says.
"""

from __future__ import annotations

import zlib
from typing import Any

from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.qcow2.layout import DEFLATE, broken

_WINDOW_BITS = -12
"""As QEMU packs: raw deflate with a window of 4 KiB, so that older readers can read it."""
_ZSTD_WINDOW_LIMIT = 1 << 23


def _zstandard() -> Any:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise DiskError(
            "the image is packed with zstd, which needs the Python package 'zstandard': install "
            "it with pip"
        ) from None
    return zstandard


def pack(kind: int, data: bytes | bytearray | memoryview) -> bytes | None:
    """*data* compressed, or None if that is not shorter."""
    if kind == DEFLATE:
        packer = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, _WINDOW_BITS)
        packed: bytes = packer.compress(data) + packer.flush()
    else:
        packed = _zstandard().ZstdCompressor().compress(data)
    return packed if len(packed) < len(data) else None


def unpack(kind: int, data: bytes, size: int, path: str) -> bytes:
    """The *size* bytes that *data* was packed from; it may be followed by anything."""
    if kind == DEFLATE:
        try:
            cluster = zlib.decompressobj(-15).decompress(data, size)
        except zlib.error as error:
            raise broken(path, f"a compressed cluster cannot be unpacked ({error})") from None
    else:
        cluster = _unpack_zstd(data, size, path)
    if len(cluster) != size:
        raise broken(path, f"a compressed cluster holds {len(cluster)} bytes instead of {size}")
    return cluster


def _unpack_zstd(data: bytes, size: int, path: str) -> bytes:
    zstandard = _zstandard()
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_LIMIT).stream_reader(data)
    parts, missing = [], size
    try:
        while missing and (part := reader.read(missing)):
            parts.append(part)
            missing -= len(part)
    except (zstandard.ZstdError, MemoryError) as error:
        raise broken(path, f"a compressed cluster cannot be unpacked ({error})") from None
    return b"".join(parts)


def place_of(entry: int, cluster_bits: int) -> tuple[int, int]:
    """(host offset, length at most) of the data that the L2 entry of a packed cluster names."""
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = ((entry & ((1 << 62) - 1)) >> shift) + 1
    return offset, sectors * 512 - (offset & 511)


def entry_for(offset: int, length: int, cluster_bits: int) -> int | None:
    """The L2 entry for *length* packed bytes at a host *offset*; None if it cannot say that."""
    shift = 62 - (cluster_bits - 8)
    more = ((offset + length - 1) >> 9) - (offset >> 9)
    if offset >> shift or more >> (cluster_bits - 8):
        return None
    return 1 << 62 | more << shift | offset


def clusters_of(entry: int, cluster_bits: int) -> range:
    """The host clusters that a packed cluster's data touches, as the counts see it."""
    offset, length = place_of(entry, cluster_bits)
    return range(offset >> cluster_bits, ((offset + length - 1) >> cluster_bits) + 1)
