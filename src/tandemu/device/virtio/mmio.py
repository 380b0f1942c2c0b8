"""The transport of registers in memory: Virtio 1.2, section 4.2 (version 2, not the legacy one).

Left out: shared memory regions (there are none).
"""

from __future__ import annotations

import threading

from tandemu.device.registers import Access, InterruptLine, Peripheral, Register, RegisterMap, state
from tandemu.device.virtio.features import CONFIGURATION_INTERRUPT, QUEUE_INTERRUPT
from tandemu.device.virtio.transport import TransportRegisters

SLOT_BYTES = 0x1000
_CONFIGURATION = 0x100
_NO_SHARED_MEMORY = 0xFFFF_FFFF
_VENDOR = 0x4D44_4E54  # "TNDM"


class VirtioMmio(TransportRegisters):
    """*device* behind a slot's registers; *line* is the slot's interrupt."""

    registers = RegisterMap(
        Register("magic", 0x000, access=Access.RO, reset=0x7472_6976),
        Register("interface_version", 0x004, access=Access.RO, reset=2),
        Register("device_id", 0x008, access=Access.RO),
        Register("vendor_id", 0x00C, access=Access.RO, reset=_VENDOR),
        Register("device_feature", 0x010, access=Access.RO),
        Register("device_feature_select", 0x014, access=Access.WO),
        Register("driver_feature", 0x020, access=Access.WO),
        Register("driver_feature_select", 0x024, access=Access.WO),
        Register("queue_select", 0x030, access=Access.WO),
        Register("largest_queue", 0x034, access=Access.RO),
        Register("queue_size", 0x038, access=Access.WO),
        Register("queue_ready", 0x044),
        Register("queue_notify", 0x050, access=Access.WO),
        Register("interrupt_status", 0x060, access=Access.RO),
        Register("interrupt_acknowledge", 0x064, access=Access.WO),
        Register("status", 0x070),
        Register("descriptor_area", 0x080, access=Access.WO),
        Register("descriptor_area_high", 0x084, access=Access.WO),
        Register("driver_area", 0x090, access=Access.WO),
        Register("driver_area_high", 0x094, access=Access.WO),
        Register("device_area", 0x0A0, access=Access.WO),
        Register("device_area_high", 0x0A4, access=Access.WO),
        Register("shared_memory_select", 0x0AC, access=Access.WO),
        Register("shared_memory", 0x0B0, count=4, access=Access.RO),
        Register("queue_reset", 0x0C0),
        Register("generation", 0x0FC, access=Access.RO),
    )

    line: InterruptLine

    interrupt_status: int = state(2)
    """What the guest has not acknowledged yet."""

    def prepare(self) -> None:
        self._lock = threading.Lock()
        self.device.queue_interrupt = lambda index: self._raise(QUEUE_INTERRUPT)
        self.device.configuration_interrupt = lambda: self._raise(CONFIGURATION_INTERRUPT)

    def restored(self) -> None:
        with self._lock:
            self.line(bool(self.interrupt_status))
        # A kick that was on its way is not part of the state.
        for index in range(len(self.device.queues)):
            self.device.kick(index)

    def _raise(self, interrupt: int) -> None:
        with self._lock:
            self.interrupt_status |= interrupt
            self.line(True)

    # A device of a board -------------------------------------------------------------------

    def parts(self) -> dict[str, Peripheral]:
        """Everything that has state, by what it is."""
        return {"device": self.device, "transport": self}

    def statistics(self) -> dict[str, int]:
        """What the device has done so far."""
        return self.device.statistics_of_requests()

    def close(self) -> None:
        """End the device's workers. No vCPU may be running."""
        self.device.close()

    # Registers -----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if offset >= _CONFIGURATION:
            return self.device.read_configuration(offset - _CONFIGURATION, size)
        return super().read(offset, size) if size == 4 and offset % 4 == 0 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= _CONFIGURATION:
            data = value.to_bytes(size, "little")
            self.device.write_configuration(offset - _CONFIGURATION, data)
        elif size == 4 and offset % 4 == 0:  # the registers have no other accesses (4.2.2.2)
            super().write(offset, size, value)

    def read_magic(self) -> int:
        return self.registers.magic.reset_value

    def read_interface_version(self) -> int:
        return self.registers.interface_version.reset_value

    def read_device_id(self) -> int:
        return self.device.number

    def read_vendor_id(self) -> int:
        return _VENDOR

    def read_largest_queue(self) -> int:
        index = self.device.selected
        return 0 if index is None else self.device.queue_sizes[index]

    def read_queue_ready(self) -> int:
        return self.device.read_queue_enable()

    def write_queue_ready(self, value: int) -> None:
        if value == 1:
            self.device.enable_queue()
        elif value == 0:
            self.device.reset_queue()

    def write_queue_notify(self, value: int) -> None:
        self.device.kick(value)

    def write_interrupt_acknowledge(self, value: int) -> None:
        with self._lock:
            self.interrupt_status &= ~value
            self.line(bool(self.interrupt_status))

    def read_status(self) -> int:
        return self.device.status

    def write_status(self, value: int) -> None:
        self.device.write_status(value & 0xFF)
        if value & 0xFF == 0:
            self.write_interrupt_acknowledge(QUEUE_INTERRUPT | CONFIGURATION_INTERRUPT)

    def write_shared_memory_select(self, value: int) -> None:
        """There is none to select."""

    def read_shared_memory(self, index: int) -> int:
        return _NO_SHARED_MEMORY
