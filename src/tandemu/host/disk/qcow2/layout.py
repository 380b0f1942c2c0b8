"""The header of a qcow2 file and what its entries mean.

Source: the qcow2 specification, sections "Header", "Header extensions", "Cluster mapping".
A header comes from an untrusted file: `Header.parse` refuses what cannot be meant.
"""

from __future__ import annotations

import struct

from tandemu.bits import Record, replace
from tandemu.host.disk.errors import DiskError

MAGIC = b"QFI\xfb"
_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
HEADER_BYTES = 112
"""Of a version 3 header with the field for the compression's kind."""
V2_HEADER_BYTES = _V2.size
_V3_LEAST_BYTES = V2_HEADER_BYTES + _V3.size

DIRTY, CORRUPT, DATA_FILE, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
"""Incompatible features."""
_KNOWN_INCOMPATIBLE = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2
LAZY_REFCOUNTS = 1
"""The compatible feature."""
BITMAPS_VALID, DATA_FILE_RAW = 1, 2
"""Autoclear features."""
KNOWN_AUTOCLEAR = BITMAPS_VALID | DATA_FILE_RAW

EXT_END, EXT_BACKING_FORMAT, EXT_FEATURE_NAMES = 0, 0xE2792ACA, 0x6803F857
EXT_BITMAPS, EXT_DATA_FILE, EXT_ENCRYPTION = 0x23852875, 0x44415441, 0x0537BE77

COPIED = 1 << 63
PACKED = 1 << 62
ZERO = 1
OFFSET_MASK = (1 << 56) - (1 << 9)
L1_RESERVED = ~(OFFSET_MASK | COPIED) & ((1 << 64) - 1)
L2_RESERVED = ~(OFFSET_MASK | COPIED | PACKED | ZERO) & ((1 << 64) - 1)

MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 21
MAX_L1_BYTES = 32 << 20
MAX_REFCOUNT_TABLE_BYTES = 8 << 20
MAX_SNAPSHOTS = 65536
MAX_BACKING_NAME = 1023
DEFLATE, ZSTD = 0, 1
COMPRESSIONS = {DEFLATE: "zlib", ZSTD: "zstd"}
ALL_SUBCLUSTERS = (1 << 32) - 1


def broken(path: str, what: str) -> DiskError:
    """The error for an image that contradicts itself or its format."""
    return DiskError(
        f"{path} is a broken qcow2 image: {what}. 'tandemu disk check' says more of what is wrong"
    )


class Header(Record):
    """The fields, named as the specification names them, and the extensions in their order.

    *data* of an extension is unpadded. The backing file's name is *backing_name*, wherever it
    stands in the first cluster.
    """

    version: int
    backing_offset: int
    backing_name: bytes
    cluster_bits: int
    size: int
    l1_size: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshot_count: int
    snapshots_offset: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    length: int = HEADER_BYTES
    compression: int = DEFLATE
    extensions: tuple[tuple[int, bytes], ...] = ()

    @property
    def cluster_bytes(self) -> int:
        """Size of a cluster."""
        return 1 << self.cluster_bits

    @property
    def extended(self) -> bool:
        """Whether an L2 entry has a second word, which tells of subclusters."""
        return bool(self.incompatible & EXTENDED_L2)

    @property
    def l2_entries(self) -> int:
        """How many clusters an L2 table tells of."""
        return self.cluster_bytes // (16 if self.extended else 8)

    @property
    def l1_coverage(self) -> int:
        """How many bytes one entry of the L1 table tells of."""
        return self.l2_entries << self.cluster_bits

    def extension(self, kind: int) -> bytes | None:
        """The data of the first extension of a *kind*, or None."""
        return next((data for found, data in self.extensions if found == kind), None)

    def with_extension(self, kind: int, data: bytes | None) -> Header:
        """The same header with that extension, first of all, or with *data* None without it."""
        rest = tuple(one for one in self.extensions if one[0] != kind)
        first = () if data is None else ((kind, data),)
        return replace(self, extensions=first + rest)

    def pack_fields(self) -> bytes:
        """The fixed fields alone: what a change of the tables rewrites, within one sector."""
        fixed = _V2.pack(
            MAGIC, self.version, self.backing_offset, len(self.backing_name), self.cluster_bits,
            self.size, 0, self.l1_size, self.l1_offset, self.refcount_offset,
            self.refcount_clusters, self.snapshot_count, self.snapshots_offset,
        )  # fmt: skip
        if self.version == 2:
            return fixed
        fixed += _V3.pack(
            self.incompatible, self.compatible, self.autoclear, self.refcount_order, self.length
        )
        if self.length > _V3_LEAST_BYTES:
            fixed += bytes([self.compression, 0, 0, 0, 0, 0, 0, 0])
        return fixed

    def pack(self) -> bytes:
        """Fields and extensions, without the backing file's name."""
        data = self.pack_fields()
        data += bytes(max(0, self.length - len(data)))
        for kind, content in (*self.extensions, (EXT_END, b"")):
            data += struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)
        return data

    @staticmethod
    def parse(head: bytes, path: str, file_bytes: int) -> Header:
        """Read the first cluster (or as much of it as *head* holds); `DiskError` if it is wrong."""
        if len(head) < V2_HEADER_BYTES or head[:4] != MAGIC:
            raise DiskError(f"{path} is no qcow2 image: it does not begin with QFI\\xfb")
        (
            _, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size,
            l1_offset, refcount_offset, refcount_clusters, snapshots, snapshots_offset,
        ) = _V2.unpack_from(head)  # fmt: skip
        if version not in (2, 3):
            raise DiskError(f"{path} is qcow2 of version {version}: only 2 and 3 are known")
        if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
            raise broken(path, f"clusters of 2^{cluster_bits} bytes, where 2^9 to 2^21 are allowed")
        incompatible = compatible = autoclear = 0
        refcount_order, length, compression = 4, V2_HEADER_BYTES, DEFLATE
        if version == 3:
            if len(head) < _V3_LEAST_BYTES:
                raise broken(path, "it ends within its header")
            incompatible, compatible, autoclear, refcount_order, length = _V3.unpack_from(
                head, V2_HEADER_BYTES
            )
            if length < _V3_LEAST_BYTES or length % 8 or length > 1 << cluster_bits:
                raise broken(path, f"a header of {length} bytes")
            if length > _V3_LEAST_BYTES and len(head) > _V3_LEAST_BYTES:
                compression = head[_V3_LEAST_BYTES]
        extensions = _parse_extensions(head, length, backing_offset, path)
        _check_features(path, incompatible, crypt, refcount_order, compression, extensions)
        name = b""
        if backing_offset:
            end = backing_offset + backing_size
            if backing_size > MAX_BACKING_NAME or end > min(len(head), 1 << cluster_bits):
                raise broken(path, "the backing file's name stands outside the first cluster")
            name = head[backing_offset:end]
        header = Header(
            version, backing_offset, name, cluster_bits, size, l1_size, l1_offset,
            refcount_offset, refcount_clusters, snapshots, snapshots_offset, incompatible,
            compatible, autoclear, refcount_order, length, compression, extensions,
        )  # fmt: skip
        _check_tables(header, path, file_bytes)
        return header


def _parse_extensions(
    head: bytes, begin: int, backing_offset: int, path: str
) -> tuple[tuple[int, bytes], ...]:
    found: list[tuple[int, bytes]] = []
    end = len(head) if not backing_offset else min(backing_offset, len(head))
    while begin + 8 <= end:
        kind, length = struct.unpack_from(">II", head, begin)
        if kind == EXT_END:
            break
        begin += 8
        if length > end - begin:
            raise broken(path, f"a header extension ({kind:#x}) of {length} bytes has no room")
        if kind != EXT_FEATURE_NAMES:  # names for people: not kept, so that all fits a sector
            found.append((kind, bytes(head[begin : begin + length])))
        begin += -(-length // 8) * 8
    return tuple(found)


def _check_features(
    path: str,
    incompatible: int,
    crypt: int,
    refcount_order: int,
    compression: int,
    extensions: tuple[tuple[int, bytes], ...],
) -> None:
    if unknown := incompatible & ~_KNOWN_INCOMPATIBLE:
        raise DiskError(
            f"{path} needs features of qcow2 that Tandemu does not know (bits {unknown:#x})"
        )
    if crypt or any(kind == EXT_ENCRYPTION for kind, _ in extensions):
        raise DiskError(
            f"{path} is encrypted, which Tandemu does not read: convert it with 'qemu-img convert'"
        )
    if refcount_order > 6:
        raise broken(path, f"reference counts of 2^{refcount_order} bits")
    typed = bool(incompatible & COMPRESSION_TYPE)
    if compression not in COMPRESSIONS or typed != (compression != DEFLATE):
        raise broken(path, f"a compression of kind {compression} that its features contradict")


def _check_tables(header: Header, path: str, file_bytes: int) -> None:
    cluster = header.cluster_bytes
    if header.extended and header.cluster_bits < 14:
        raise broken(path, f"subclusters in clusters of {cluster} bytes")
    if header.l1_size * 8 > MAX_L1_BYTES:
        raise broken(path, f"an L1 table of {header.l1_size} entries")
    if header.size > header.l1_size * header.l1_coverage:
        raise broken(path, f"an L1 table too small for {header.size} bytes")
    if not 0 < header.refcount_clusters << header.cluster_bits <= MAX_REFCOUNT_TABLE_BYTES:
        raise broken(path, f"a refcount table of {header.refcount_clusters} clusters")
    if header.snapshot_count > MAX_SNAPSHOTS:
        raise broken(path, f"{header.snapshot_count} snapshots")
    tables = [
        ("L1 table", header.l1_offset, header.l1_size * 8),
        ("refcount table", header.refcount_offset, header.refcount_clusters << header.cluster_bits),
    ]
    if header.snapshot_count:
        tables.append(("snapshot table", header.snapshots_offset, 40 * header.snapshot_count))
    for what, offset, length in tables:
        if offset % cluster or (length and not offset):
            raise broken(path, f"the {what} stands at {offset:#x}, which is no cluster of its own")
        if length and offset + length > file_bytes:
            raise broken(path, f"the {what} reaches beyond the end of the file")
