"""The map of addresses that devices answer: guest-physical ones, or I/O ports.

Accelerators report every access to an address that is no RAM as an exit; the machine answers such
an exit through `read` and `write` here. Devices see offsets only. They come and go while the
guest runs: a map is replaced as a whole, so that a look-up on another thread sees one or the other.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import NamedTuple, Protocol

from tandemu.memory.errors import MapError


class Device(Protocol):
    """What the map asks of a device: reads and writes at offsets.

    *size* is 1, 2, 4 or 8 bytes and *offset* a multiple of it is not promised:
    a guest is hostile. A read returns an unsigned value of that many bytes.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class _DeviceRegion(NamedTuple):
    base: int
    size: int
    device: Device


class DeviceMap:
    """Which device answers where. Devices do not overlap; any thread."""

    def __init__(self) -> None:
        self._index: tuple[tuple[int, ...], tuple[_DeviceRegion, ...]] = ((), ())
        self._changing = threading.Lock()

    def add_device(self, base: int, size: int, device: Device) -> None:
        """Let *device* answer accesses to addresses *base* to *base* + *size*."""
        with self._changing:
            devices = self._index[1]
            for other in devices:
                if base < other.base + other.size and other.base < base + size:
                    raise MapError(f"device at {base:#x} overlaps the one at {other.base:#x}")
            self._publish((*devices, _DeviceRegion(base, size, device)))

    def remove_device(self, base: int) -> None:
        """Nobody answers at *base* any more; `MapError` if nobody did."""
        with self._changing:
            kept = tuple(one for one in self._index[1] if one.base != base)
            if len(kept) == len(self._index[1]):
                raise MapError(f"there is no device at {base:#x}")
            self._publish(kept)

    def _publish(self, devices: tuple[_DeviceRegion, ...]) -> None:
        ordered = tuple(sorted(devices, key=lambda one: one.base))
        self._index = tuple(one.base for one in ordered), ordered

    def _device(self, address: int, size: int) -> _DeviceRegion | None:
        bases, devices = self._index
        index = bisect_right(bases, address) - 1
        if index < 0:
            return None
        region = devices[index]
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
