"""A PCI Express host bridge: one bus, reached through ECAM and a window of memory space.

PCI Express Base Specification 3.0, section 7.2.2 (ECAM: bus, device, function and register
are bits of the address). Memory space is not translated: a BAR's value is the guest-physical
address, and a BAR that the guest puts anywhere but into a window of the board is not seen.

Left out: I/O space, buses behind bridges, functions above 0 of a device.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable
from typing import Protocol

from tandemu.bits import mask
from tandemu.device.pci.function import Identity, MappedBar, PciFunction
from tandemu.device.registers import DeviceError, InterruptLine
from tandemu.device.wires import SharedWire

SLOTS = 32
PINS = 4
_BUS_BYTES, _DEVICE_BYTES, _FUNCTION_BYTES = 1 << 20, 1 << 15, 1 << 12
_BRIDGE = Identity(0x1B36, 0x0008, 0x06_0000, subsystem_vendor=0x1AF4, subsystem=0x1100)


class DoorbellSwitch(Protocol):
    """Who turns writes to an address into events of a descriptor."""

    def connect_doorbell(self, address: int, descriptor: int) -> bool: ...

    def disconnect_doorbell(self, address: int, descriptor: int) -> None: ...


class HostBridge:
    """Bus 0 and what is plugged into it; *wires* are what INTA to INTD of slot 0 drive.

    The others' pins are swizzled: pin *p* of slot *s* drives wire (*p* + *s*) mod 4. *doorbells*
    has the engine ring those of BARs without an exit.
    """

    def __init__(self, wires: list[InterruptLine], doorbells: DoorbellSwitch | None = None) -> None:
        if len(wires) != PINS:
            raise DeviceError(f"a host bridge has {PINS} interrupt wires, not {len(wires)}")
        self._wires = [SharedWire(wire) for wire in wires]
        self._lock = threading.Lock()
        self._mapped: tuple[tuple[int, ...], tuple[MappedBar, ...]] = ((), ())
        self._windows: list[range] = []
        self._doorbells = doorbells
        self._connected: dict[int, int] = {}
        """The doorbells that the engine rings: addresses and descriptors."""
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
            self._connect(found)

    def add_window(self, addresses: range) -> None:
        """BARs are seen at these addresses too."""
        with self._lock:
            self._windows.append(addresses)

    def _connect(self, bars: Iterable[MappedBar]) -> None:
        """Have the engine ring the doorbells that are seen, and no others."""
        switch = self._doorbells
        if switch is None:
            return
        wanted = {
            bar.address + offset: descriptor
            for bar in bars
            for offset, descriptor in bar.doorbells.items()
            if self.find(bar.address + offset, 1) is bar and self._is_seen(bar.address + offset)
        }
        for address, descriptor in list(self._connected.items()):
            if wanted.get(address) != descriptor:
                del self._connected[address]
                switch.disconnect_doorbell(address, descriptor)
        for address, descriptor in wanted.items():
            if address not in self._connected and switch.connect_doorbell(address, descriptor):
                self._connected[address] = descriptor

    def _is_seen(self, address: int) -> bool:
        return any(address in window for window in self._windows)

    def find(self, address: int, size: int) -> MappedBar | None:
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
    """A window of *size* bytes at guest-physical *base*, in which BARs may stand."""

    def __init__(self, bridge: HostBridge, base: int, size: int) -> None:
        bridge.add_window(range(base, base + size))
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
