"""Making a new qcow2 image."""

from __future__ import annotations

from dataclasses import dataclass

from tandemu.bits import replace
from tandemu.host.disk.errors import DiskUsageError
from tandemu.host.disk.qcow2.bitmaps import Bitmaps
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.qcow2.layout import (
    COMPRESSION_TYPE,
    COMPRESSIONS,
    DATA_FILE,
    DATA_FILE_RAW,
    EXT_BACKING_FORMAT,
    EXT_DATA_FILE,
    EXTENDED_L2,
    HEADER_BYTES,
    LAZY_REFCOUNTS,
    MAX_BACKING_NAME,
    MAX_CLUSTER_BITS,
    MAX_L1_BYTES,
    MIN_CLUSTER_BITS,
    V2_HEADER_BYTES,
    Header,
)
from tandemu.host.disk.qcow2.opening import empty_l1
from tandemu.host.disk.qcow2.restate import Restatement
from tandemu.host.disk.storage import HostFile, Storage, write_at


@dataclass(frozen=True, slots=True)
class Qcow2Options:
    """How a new image is made. Names of files are as they will stand in the header."""

    cluster_bytes: int = 65536
    version: int = 3
    refcount_bits: int = 16
    lazy_refcounts: bool = False
    extended_l2: bool = False
    compression: str = "zlib"
    backing: str = ""
    backing_format: str = ""
    data_file: str = ""
    data_file_raw: bool = False

    def header(self, size: int) -> Header:
        """The header of an image of *size* bytes; `DiskUsageError` if that cannot be."""
        bits = self.cluster_bytes.bit_length() - 1
        if self.cluster_bytes != 1 << bits or not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
            raise DiskUsageError(
                f"clusters cannot have {self.cluster_bytes} bytes: must be a power of two from "
                "512 to 2M"
            )
        if self.version not in (2, 3):
            raise DiskUsageError(f"there is no version {self.version} of qcow2: must be 2 or 3")
        if self.refcount_bits not in (1, 2, 4, 8, 16, 32, 64):
            raise DiskUsageError(
                f"reference counts cannot have {self.refcount_bits} bits: must be 1, 2, 4 … 64"
            )
        if self.compression not in COMPRESSIONS.values():
            raise DiskUsageError(f"{self.compression!r} packs nothing here: must be zlib or zstd")
        newer = [
            what
            for what, is_so in (
                ("lazy reference counts", self.lazy_refcounts),
                ("subclusters", self.extended_l2),
                ("zstd", self.compression != "zlib"),
                ("a data file", bool(self.data_file)),
                ("other reference counts than of 16 bits", self.refcount_bits != 16),
            )
            if is_so
        ]
        if newer and self.version == 2:
            raise DiskUsageError(f"version 2 of qcow2 does not know {newer[0]}")
        if self.extended_l2 and bits < 14:
            raise DiskUsageError("subclusters need clusters of 16K at least")
        if self.data_file_raw and (self.backing or not self.data_file):
            raise DiskUsageError("a raw data file needs a data file, and no backing image")
        if len(self.backing.encode("utf-8", "surrogateescape")) > MAX_BACKING_NAME:
            raise DiskUsageError(f"the backing file's name has more than {MAX_BACKING_NAME} bytes")
        compression = next(k for k, name in COMPRESSIONS.items() if name == self.compression)
        header = Header(
            self.version, 0, b"", bits, size, 0, 0, 0, 0, 0, 0,
            incompatible=(EXTENDED_L2 if self.extended_l2 else 0)
            | (COMPRESSION_TYPE if compression else 0)
            | (DATA_FILE if self.data_file else 0),
            compatible=LAZY_REFCOUNTS if self.lazy_refcounts else 0,
            autoclear=DATA_FILE_RAW if self.data_file_raw else 0,
            refcount_order=self.refcount_bits.bit_length() - 1,
            length=HEADER_BYTES if self.version == 3 else V2_HEADER_BYTES,
            compression=compression,
        )  # fmt: skip
        if size < 0 or -(-size // header.l1_coverage) * 8 > MAX_L1_BYTES:
            raise DiskUsageError(
                f"clusters of {self.cluster_bytes} bytes are too small for a disk of {size} bytes"
            )
        if self.data_file:
            name = self.data_file.encode("utf-8", "surrogateescape")
            header = header.with_extension(EXT_DATA_FILE, name)
        if self.backing and self.backing_format:
            header = header.with_extension(EXT_BACKING_FORMAT, self.backing_format.encode("ascii"))
        return header


def write_new_image(storage: Storage, size: int, options: Qcow2Options) -> Header:
    """Write an empty image of *size* bytes into the empty *storage*; its header."""
    header = options.header(size)
    packed = header.pack()
    name = options.backing.encode("utf-8", "surrogateescape")
    if name:
        place = len(packed) if header.cluster_bits == MIN_CLUSTER_BITS else 512
        header = replace(header, backing_offset=place, backing_name=name)
        packed = header.pack().ljust(place, b"\0") + name
    if len(packed) > header.cluster_bytes:
        raise DiskUsageError(f"{options.backing} is too long a name for clusters of 512 bytes")
    # Not yet an image: the magic number comes last, with the tables.
    write_at(storage, 0, bytes(4) + packed.ljust(header.cluster_bytes, b"\0")[4:])
    storage.flush()
    empty = Bitmaps(header, storage.path, [], range(0))
    return Restatement(storage, header, empty, empty_l1(header, size), []).run()


def preallocate(image: Qcow2Image, how: str, data: HostFile) -> None:
    """Give every cluster of the empty *image* its place: *how* is metadata, falloc or full.

    *data* is the file with the clusters; for falloc and full its space is taken as well.
    """
    image.give_places()
    image.settle()
    if how == "falloc":
        data.reserve(0, data.size())
    elif how == "full":
        data.fill_holes()
    data.flush()
