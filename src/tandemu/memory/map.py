"""The map of guest-physical addresses: RAM regions and devices.

Accelerators turn its RAM regions into memory slots and report every access to
another address as an exit; the machine answers such an exit through `read` and
`write` here. Devices see offsets only.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, Protocol

from tandemu.memory.ram import Ram


class MapError(ValueError):
    """A region that does not fit into the map."""


class Device(Protocol):
    """What the map asks of a device: reads and writes at offsets.

    *size* is 1, 2, 4 or 8 bytes and *offset* a multiple of it is not promised:
    a guest is hostile. A read returns an unsigned value of that many bytes.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class RamRegion(NamedTuple):
    """RAM or ROM at a guest-physical address: part of one `Ram`."""

    base: int
    size: int
    ram: Ram
    offset: int = 0
    readonly: bool = False

    @property
    def host_address(self) -> int:
        """Host address of the region's first byte."""
        return self.ram.address + self.offset


class _DeviceRegion(NamedTuple):
    base: int
    size: int
    device: Device


class PhysicalMap:
    """Guest-physical address space. Regions may not overlap, save a device over ROM."""

    def __init__(self) -> None:
        self.ram: list[RamRegion] = []
        self._devices: list[_DeviceRegion] = []
        self._bases: list[int] = []

    def add_ram(
        self, base: int, ram: Ram, *, offset: int = 0, size: int = 0, readonly: bool = False
    ) -> RamRegion:
        """Map *size* bytes (default: the rest) of *ram* from *offset* at guest address *base*."""
        region = RamRegion(base, size or ram.size - offset, ram, offset, readonly)
        for other in self.ram:
            if base < other.base + other.size and other.base < base + region.size:
                raise MapError(f"RAM at {base:#x} overlaps RAM at {other.base:#x}")
        self.ram.append(region)
        return region

    def add_device(self, base: int, size: int, device: Device) -> None:
        """Let *device* answer accesses to guest addresses *base* to *base* + *size*."""
        for other in self._devices:
            if base < other.base + other.size and other.base < base + size:
                raise MapError(f"device at {base:#x} overlaps the one at {other.base:#x}")
        index = bisect_right(self._bases, base)
        self._bases.insert(index, base)
        self._devices.insert(index, _DeviceRegion(base, size, device))

    def _device(self, address: int, size: int) -> _DeviceRegion | None:
        index = bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        region = self._devices[index]
        return region if address + size <= region.base + region.size else None

    def read(self, address: int, size: int) -> int | None:
        """Answer a guest's read that is not RAM; None: nothing is there (a bus error)."""
        region = self._device(address, size)
        return None if region is None else region.device.read(address - region.base, size)

    def write(self, address: int, size: int, value: int) -> bool:
        """Carry out a guest's write that is not RAM; False: nothing is there."""
        region = self._device(address, size)
        if region is None:
            return False
        region.device.write(address - region.base, size, value)
        return True

    def memory(self, address: int, size: int) -> memoryview | None:
        """Return *size* bytes of RAM at *address*, or None if not all of it is RAM."""
        for region in self.ram:
            if region.base <= address and address + size <= region.base + region.size:
                start = region.offset + address - region.base
                return region.ram.view[start : start + size]
        return None
