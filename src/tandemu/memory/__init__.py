"""Guest memory: RAM on memfds, the door to it, dirty logs, the map of devices' addresses."""

from tandemu.memory.dirty_log import DirtyLog, WriteTracker
from tandemu.memory.errors import MapError
from tandemu.memory.guest_memory import GuestMemory, Loan
from tandemu.memory.map import Device, DeviceMap
from tandemu.memory.notes import PageNotes
from tandemu.memory.ram import Ram, RamRegion

__all__ = [
    "Device",
    "DeviceMap",
    "DirtyLog",
    "GuestMemory",
    "Loan",
    "MapError",
    "PageNotes",
    "Ram",
    "RamRegion",
    "WriteTracker",
]
