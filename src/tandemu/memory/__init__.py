"""Guest memory: RAM on a memfd and the map of guest-physical addresses."""

from tandemu.memory.map import Device, MapError, PhysicalMap, RamRegion
from tandemu.memory.ram import Ram

__all__ = ["Device", "MapError", "PhysicalMap", "Ram", "RamRegion"]
