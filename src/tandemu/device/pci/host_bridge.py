"""A PCI Express host bridge: one bus, reached through ECAM and a window of memory space.

PCI Express Base Specification 3.0, section 7.2.2 (ECAM: bus, device, function and register
are bits of the address). Memory space is not translated: a BAR's value is the guest-physical
address, and a BAR that the guest puts anywhere but into a window of the board is not seen.

Left out: I/O space, buses behind bridges, functions above 0 of a device.
"""

from __future__ import annotations

import threading
from bisect import bisect_right

from tandemu.bits import mask
from tandemu.device.pci.function import Identity, Mapping, PciFunction
from tandemu.device.registers import DeviceError, InterruptLine
from tandemu.device.wires import SharedWire

SLOTS = 32
PINS = 4
_BUS_BYTES, _DEVICE_BYTES, _FUNCTION_BYTES = 1 << 20, 1 << 15, 1 << 12
_BRIDGE = Identity(0x1B36, 0x0008, 0x06_0000, subsystem_vendor=0x1AF4, subsystem=0x1100)


class HostBridge:
    """Bus 0 and what is plugged into it; *wires* are what INTA to INTD of slot 0 drive.

    The others' pins are swizzled: pin *p* of slot *s* drives wire (*p* + *s*) mod 4.
    """

    def __init__(self, wires: list[InterruptLine]) -> None:
        if len(wires) != PINS:
            raise DeviceError(f"a host bridge has {PINS} interrupt wires, not {len(wires)}")
        self._wires = [SharedWire(wire) for wire in wires]
        self._lock = threading.Lock()
        self._mapped: tuple[tuple[int, ...], tuple[Mapping, ...]] = ((), ())
        self.functions: dict[int, PciFunction] = {}
        """What is plugged in, by slot."""
        self.plug(PciFunction(_BRIDGE, {}), 0)

    def plug(self, function: PciFunction, slot: int | None = None) -> int:
        """Plug *function* into *slot* (default: the first that is free); return the slot."""
        if slot is None:
            slot = next((one for one in range(SLOTS) if one not in self.functions), SLOTS)
        if slot in self.functions or not 0 <= slot < SLOTS:
            raise DeviceError(f"PCI slot {slot}: must be a free one below {SLOTS}")
        self.functions[slot] = function
        if function.interrupt_pin:
            wire = self._wires[(function.interrupt_pin - 1 + slot) % PINS]
            function.wire = wire.add()
        function.changed = self._map
        self._map()
        return slot

    def _map(self) -> None:
        """Find out anew where all BARs stand."""
        with self._lock:
            found = [m for function in self.functions.values() for m in function.mappings()]
            found.sort(key=lambda one: one.address)
            self._mapped = tuple(one.address for one in found), tuple(found)

    def find(self, address: int, size: int) -> Mapping | None:
        """The BAR that holds *size* bytes at *address*."""
        bases, mapped = self._mapped
        index = bisect_right(bases, address) - 1
        if index < 0:
            return None
        mapping = mapped[index]
        return mapping if address + size <= mapping.address + mapping.size else None


class ConfigurationWindow:
    """The configuration space of all functions, as the map shows it (ECAM)."""

    def __init__(self, bridge: HostBridge) -> None:
        self._functions = bridge.functions

    def _function(self, offset: int) -> PciFunction | None:
        if offset >= _BUS_BYTES or offset % _DEVICE_BYTES >= _FUNCTION_BYTES:
            return None
        return self._functions.get(offset // _DEVICE_BYTES)

    def read(self, offset: int, size: int) -> int:
        """Read configuration space; all ones where there is no function."""
        function = self._function(offset)
        if function is None:
            return mask(size * 8)
        return function.read_configuration(offset % _FUNCTION_BYTES, size)

    def write(self, offset: int, size: int, value: int) -> None:
        function = self._function(offset)
        if function is not None:
            function.write_configuration(offset % _FUNCTION_BYTES, size, value)


class MemoryWindow:
    """A window at guest-physical *base*, in which BARs may stand."""

    def __init__(self, bridge: HostBridge, base: int) -> None:
        self._bridge = bridge
        self._base = base

    def read(self, offset: int, size: int) -> int:
        """Read from whose BAR is there; all ones if none is."""
        address = self._base + offset
        found = self._bridge.find(address, size)
        if found is None:
            return mask(size * 8)
        return found.device.read(address - found.address, size)

    def write(self, offset: int, size: int, value: int) -> None:
        address = self._base + offset
        found = self._bridge.find(address, size)
        if found is not None:
            found.device.write(address - found.address, size, value)
