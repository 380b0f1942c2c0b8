"""Registers that both transports have (Virtio 1.2, sections 4.1.4.3 and 4.2.2).

A transport's map gives them places, by these names; what reading and writing them does is the same.
"""

from __future__ import annotations

from tandemu.device.registers import Peripheral, RegisterMap
from tandemu.device.virtio.core import VirtioDevice


class TransportRegisters(Peripheral):
    """Features, the selected queue and where it stands, of *device*."""

    registers = RegisterMap()

    device: VirtioDevice

    def read_device_feature_select(self) -> int:
        return self.device.device_feature_select

    def write_device_feature_select(self, value: int) -> None:
        self.device.device_feature_select = value

    def read_device_feature(self) -> int:
        return self.device.read_device_features()

    def read_driver_feature_select(self) -> int:
        return self.device.driver_feature_select

    def write_driver_feature_select(self, value: int) -> None:
        self.device.driver_feature_select = value

    def read_driver_feature(self) -> int:
        return self.device.read_driver_features()

    def write_driver_feature(self, value: int) -> None:
        self.device.write_driver_features(value)

    def read_generation(self) -> int:
        return self.device.generation

    def read_queue_select(self) -> int:
        return self.device.queue_select

    def write_queue_select(self, value: int) -> None:
        self.device.queue_select = min(value, 0xFFFF)

    def write_queue_size(self, value: int) -> None:
        self.device.write_queue_size(value)

    def read_descriptor_area(self) -> int:
        return self.device.read_queue_area(self.device.descriptor_areas, 0)

    def write_descriptor_area(self, value: int) -> None:
        self.device.write_queue_area(self.device.descriptor_areas, value, 0)

    def read_descriptor_area_high(self) -> int:
        return self.device.read_queue_area(self.device.descriptor_areas, 32)

    def write_descriptor_area_high(self, value: int) -> None:
        self.device.write_queue_area(self.device.descriptor_areas, value, 32)

    def read_driver_area(self) -> int:
        return self.device.read_queue_area(self.device.driver_areas, 0)

    def write_driver_area(self, value: int) -> None:
        self.device.write_queue_area(self.device.driver_areas, value, 0)

    def read_driver_area_high(self) -> int:
        return self.device.read_queue_area(self.device.driver_areas, 32)

    def write_driver_area_high(self, value: int) -> None:
        self.device.write_queue_area(self.device.driver_areas, value, 32)

    def read_device_area(self) -> int:
        return self.device.read_queue_area(self.device.device_areas, 0)

    def write_device_area(self, value: int) -> None:
        self.device.write_queue_area(self.device.device_areas, value, 0)

    def read_device_area_high(self) -> int:
        return self.device.read_queue_area(self.device.device_areas, 32)

    def write_device_area_high(self, value: int) -> None:
        self.device.write_queue_area(self.device.device_areas, value, 32)

    def read_queue_reset(self) -> int:
        """A reset is over before the write is."""
        return 0

    def write_queue_reset(self, value: int) -> None:
        if value == 1:
            self.device.reset_queue()
