"""PCI: functions with configuration space, BARs, capabilities; the host bridge; MSI-X."""

from tandemu.device.pci.device import (
    DeviceMaker,
    PciDevice,
    PciResources,
    PluggedDevice,
    SlotDevice,
    SlotMaker,
)
from tandemu.device.pci.function import Bar, Identity, PciFunction
from tandemu.device.pci.host_bridge import ConfigurationWindow, HostBridge, MemoryWindow
from tandemu.device.pci.msix import MessageSink, Msix

__all__ = [
    "Bar",
    "ConfigurationWindow",
    "DeviceMaker",
    "HostBridge",
    "Identity",
    "MemoryWindow",
    "MessageSink",
    "Msix",
    "PciDevice",
    "PciFunction",
    "PciResources",
    "PluggedDevice",
    "SlotDevice",
    "SlotMaker",
]
