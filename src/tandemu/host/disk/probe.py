"""Telling an image's format from its first bytes."""

from __future__ import annotations

PROBED_BYTES = 512
"""How much of a file is looked at."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    # Not read here, but no disk's own bytes either.
    (0, b"QED\0", "qed"),
    (0, b"COWD", "vmdk of ESX"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
)
FORMATS: tuple[str, ...] = ("raw", "qcow2", "vmdk", "vhdx", "vhd", "vdi")
"""The formats, by the names that `--format` takes."""
ALIASES: dict[str, str] = {"vpc": "vhd"}
"""What QEMU calls them otherwise."""


def probe(head: bytes) -> str:
    """The format that a file has which begins with *head*; raw if it looks like none.

    A fixed-size VHD cannot be told from raw: only its end differs.

    >>> probe(b"QFI" + bytes([0xFB]) + bytes(100)), probe(b"")
    ('qcow2', 'raw')
    """
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    return "raw"
