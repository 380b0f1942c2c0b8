"""What a board asks of a device on its PCI bus, and what it gives to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tandemu.device.pci.function import PciFunction
from tandemu.device.pci.msix import MessageSink
from tandemu.device.registers import Peripheral
from tandemu.memory import GuestMemory


class PciResources(NamedTuple):
    """The guest's memory, and who takes messages if the board has that."""

    memory: GuestMemory
    message: MessageSink | None


class PciDevice(Protocol):
    """A device that is one function."""

    function: PciFunction

    def parts(self) -> dict[str, Peripheral]:
        """Everything that has state, by what it is."""

    def statistics(self) -> dict[str, int]:
        """What it has done so far: counters by name. Any thread."""

    def rest(self) -> None:
        """Return when nothing is being carried out, and begin nothing until `go_on`."""

    def go_on(self) -> None:
        """The end of `rest`."""

    def close(self) -> None:
        """Give back what it has of the host's. No vCPU may be running."""


DeviceMaker = Callable[[PciResources], PciDevice]
"""Makes a device for one life of a machine."""
