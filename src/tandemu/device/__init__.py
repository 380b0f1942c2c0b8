"""Device models, one chip a file: offsets, interrupt lines and host handles are all they see."""

from tandemu.device.registers import DeviceError, InterruptLine, Peripheral, State
from tandemu.device.syscon import SystemEvent

__all__ = ["DeviceError", "InterruptLine", "Peripheral", "State", "SystemEvent"]
