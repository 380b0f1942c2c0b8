"""Kernel modules out of a Debian kernel package, for an initramfs that loads them.

A package has no ``modules.dep``: what a module needs is read from the module itself, and the list
that is asked for must already be in an order in which it can be loaded.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from functools import partial

from tandemu.guests.deb import DebFile
from tandemu.guests.errors import GuestError

MODULE_LIST = "/etc/modules"
"""Where the initramfs has the modules' files, in the order of loading, one a line."""

STORAGE_MODULES = (
    *("crc32c_generic", "crc16", "mbcache", "jbd2", "ext4"),
    *("virtio_blk", "virtio_mmio", "virtio-rng", "virtio_balloon"),
    *("nvme-auth", "nvme-core", "nvme"),
    *("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
    *("libnvdimm", "nd_virtio", "virtio_pmem", "nd_btt", "nd_pmem"),
    *("failover", "net_failover", "virtio_net"),
)
"""What a guest needs for its disks and networks, and the other virtio devices that a machine can
have.
"""

CLOUD_STORAGE_MODULES = (
    *("virtio_blk", "virtio_mmio", "virtio-rng", "virtio_balloon"),
    *("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
    *("libnvdimm", "nd_virtio", "virtio_pmem", "nd_btt", "nd_pmem"),
)
"""The same of a cloud kernel, which has ext4 and NVMe built in."""

NETWORK_MODULES = ("failover", "net_failover", "virtio_net", "af_packet")
"""What a whole system needs besides, for its network."""

_FILE = re.compile(r"(?:usr/)?lib/modules/[^/]+/kernel/.*/(?P<name>[^/]+)\.ko\.xz")
_LISTS = re.compile(r"(?:usr/)?lib/modules/[^/]+/modules\.(?:builtin|builtin\.modinfo|order)")
_LONGEST_MODULE = 16 << 20
_DEPENDS = b"\0depends="


def module_files(package: DebFile, names: Sequence[str]) -> dict[str, bytes]:
    """The modules called *names* as files of an initramfs, and the list of them.

    GuestError if the package lacks one, or one needs another that is not listed before it.
    """
    packed: dict[str, bytearray] = {}
    paths: dict[str, str] = {}
    for path in package.names():
        match = _FILE.fullmatch(path)
        if match is not None and match["name"] in names:
            paths[match["name"]] = path
            packed[match["name"]] = bytearray()
    if missing := [name for name in names if name not in paths]:
        raise GuestError(f"{package.path.name} has no module {', '.join(missing)}")
    package.extract({path: partial(_append, packed[name]) for name, path in paths.items()})
    files: dict[str, bytes] = {}
    loaded: set[str] = set()
    for name in names:
        module = _unpack(bytes(packed[name]), name)
        needed = {_plain(one) for one in _dependencies(module)}
        if not needed <= loaded:
            raise GuestError(
                f"the module {name} of {package.path.name} needs "
                f"{', '.join(sorted(needed - loaded))}, which is not loaded before it"
            )
        loaded.add(_plain(name))
        files[f"/lib/modules/{name}.ko"] = module
    files[MODULE_LIST] = "".join(f"{path}\n" for path in files).encode()
    return files


def packed_modules(package: DebFile, names: Sequence[str]) -> dict[str, bytes]:
    """Those of the modules called *names* that *package* has, as it has them: by their paths.

    With them comes what depmod asks for: which modules the kernel has built in, and their order.
    """
    found: dict[str, bytearray] = {}
    for path in package.names():
        match = _FILE.fullmatch(path)
        if (match is not None and match["name"] in names) or _LISTS.fullmatch(path):
            found[path] = bytearray()
    package.extract({path: partial(_append, buffer) for path, buffer in found.items()})
    return {path: bytes(buffer) for path, buffer in found.items()}


def _append(buffer: bytearray, piece: bytes) -> None:
    buffer += piece


def _plain(name: str) -> str:
    """A module's name as the kernel compares it."""
    return name.replace("-", "_")


def _unpack(data: bytes, name: str) -> bytes:
    try:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)
        module = unpacker.decompress(data, _LONGEST_MODULE)
    except lzma.LZMAError as error:
        raise GuestError(f"the module {name} does not unpack: {error}") from error
    if not unpacker.eof:
        raise GuestError(f"the module {name} is cut short, or larger than 16 MiB")
    return module


def _dependencies(module: bytes) -> list[str]:
    """What a module says it needs (``modinfo -F depends``)."""
    start = module.find(_DEPENDS)
    if start < 0:
        return []
    start += len(_DEPENDS)
    end = module.find(b"\0", start)
    return [name for name in module[start:end].decode("ascii", "replace").split(",") if name]
