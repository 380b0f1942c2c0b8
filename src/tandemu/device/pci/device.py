"""What a board asks of a device that is plugged into it, and what it gives to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tandemu.device.pci.function import PciFunction
from tandemu.device.pci.msix import MessageSink
from tandemu.device.registers import InterruptLine, Peripheral
from tandemu.memory import GuestMemory


class PciResources(NamedTuple):
    """The guest's memory, and who takes messages if the board has that."""

    memory: GuestMemory
    message: MessageSink | None


class PluggedDevice(Protocol):
    """A device that a board has only if the machine is given it."""

    def parts(self) -> dict[str, Peripheral]:
        """Everything that has state, by what it is."""

    def statistics(self) -> dict[str, int]:
        """What it has done so far: counters by name. Any thread."""

    def restored(self) -> None:
        """All parts have been loaded: drive what follows from them, see to what was asked for."""

    def close(self) -> None:
        """Give back what it has of the host's. No vCPU may be running."""


class PciDevice(PluggedDevice, Protocol):
    """One that is a PCI function."""

    function: PciFunction


class SlotDevice(PluggedDevice, Protocol):
    """One that answers accesses to a slot of the board's."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


SlotMaker = Callable[[GuestMemory, InterruptLine], SlotDevice]
"""Makes a device for a slot with an interrupt line."""
DeviceMaker = Callable[[PciResources], PciDevice]
"""Makes a device for one life of a machine."""
