"""Virtio devices (Virtio 1.2) and the transports through which a guest sees them."""

from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtio.pci import VirtioPci

__all__ = ["VirtioDevice", "VirtioPci"]
