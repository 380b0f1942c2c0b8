"""Numbers of Virtio 1.2 that every device and transport uses."""

from __future__ import annotations

INDIRECT_DESCRIPTORS = 1 << 28
EVENT_INDEX = 1 << 29
VERSION_1 = 1 << 32
RING_PACKED = 1 << 34
RING_RESET = 1 << 40
COMMON_FEATURES = INDIRECT_DESCRIPTORS | EVENT_INDEX | VERSION_1 | RING_PACKED | RING_RESET
"""What every device offers (section 6)."""

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
"""Bits of the device status (section 2.1)."""

NO_VECTOR = 0xFFFF
"""A vector that stands for none (section 4.1.5.1.2)."""

QUEUE_INTERRUPT, CONFIGURATION_INTERRUPT = 1, 2
"""Bits of the interrupt status (section 4.1.4.5)."""
