"""The PCI transport: Virtio 1.2, section 4.1, for devices that are not transitional.

One base address register has all structures, at 4 KiB from one another. Interrupts are MSI-X
messages where the board takes messages, else the function's pin.

Left out: the legacy interface, shared memory of devices that have none.
"""

from __future__ import annotations

import struct
import threading

from tandemu.device.pci import Bar, Identity, MessageSink, Msix, PciFunction
from tandemu.device.registers import Access, Peripheral, Register, RegisterMap, state, states
from tandemu.device.virtio.core import QUEUE_LIMIT, VirtioDevice
from tandemu.device.virtio.features import (
    CONFIGURATION_INTERRUPT,
    NO_VECTOR,
    QUEUE_INTERRUPT,
)
from tandemu.device.virtio.transport import TransportRegisters

VENDOR, FIRST_DEVICE = 0x1AF4, 0x1040
_SUBSYSTEM = 0x1100
_BAR, _MSIX_BAR = 4, 1
_BAR_BYTES, _PART_BYTES = 0x4000, 0x1000
_COMMON, _ISR, _DEVICE, _NOTIFY = range(4)
_COMMON_BYTES, _ISR_BYTES = 0x3C, 1
_NOTIFY_MULTIPLIER = 4

_VENDOR_CAPABILITY = 9
_CAP_COMMON, _CAP_NOTIFY, _CAP_ISR, _CAP_DEVICE, _CAP_WINDOW = range(1, 6)
_WINDOW_DATA = 16
_WORD = 0xFFFF_FFFF


class _Common(TransportRegisters):
    """The common configuration structure (section 4.1.4.3)."""

    registers = RegisterMap(
        Register("device_feature_select", 0x00),
        Register("device_feature", 0x04, access=Access.RO),
        Register("driver_feature_select", 0x08),
        Register("driver_feature", 0x0C),
        Register("configuration_vector", 0x10, 2, reset=NO_VECTOR),
        Register("queue_count", 0x12, 2, access=Access.RO),
        Register("device_status", 0x14, 1),
        Register("generation", 0x15, 1, access=Access.RO),
        Register("queue_select", 0x16, 2),
        Register("queue_size", 0x18, 2),
        Register("queue_vector", 0x1A, 2),
        Register("queue_enable", 0x1C, 2),
        Register("notify_offset", 0x1E, 2, access=Access.RO),
        Register("descriptor_area", 0x20),
        Register("descriptor_area_high", 0x24),
        Register("driver_area", 0x28),
        Register("driver_area_high", 0x2C),
        Register("device_area", 0x30),
        Register("device_area_high", 0x34),
        Register("notify_data", 0x38, 2, access=Access.RO),
        Register("queue_reset", 0x3A, 2),
    )

    vectors: int
    """How many message vectors there are."""

    configuration_vector: int = registers.configuration_vector.state()
    queue_vectors: list[int] = states(QUEUE_LIMIT, 16, NO_VECTOR)
    interrupts: int = state(2)
    """What the guest has not been told by the pin yet."""

    def write_configuration_vector(self, value: int) -> None:
        self.configuration_vector = value if value < self.vectors else NO_VECTOR

    def read_queue_count(self) -> int:
        return len(self.device.queues)

    def read_device_status(self) -> int:
        return self.device.status

    def write_device_status(self, value: int) -> None:
        self.device.write_status(value)
        if value == 0:
            self.reset()

    def read_queue_size(self) -> int:
        return self.device.read_queue_size()

    def read_queue_vector(self) -> int:
        index = self.device.selected
        return NO_VECTOR if index is None else self.queue_vectors[index]

    def write_queue_vector(self, value: int) -> None:
        index = self.device.selected
        if index is not None:
            self.queue_vectors[index] = value if value < self.vectors else NO_VECTOR

    def read_queue_enable(self) -> int:
        return self.device.read_queue_enable()

    def write_queue_enable(self, value: int) -> None:
        if value == 1:
            self.device.enable_queue()

    def read_notify_offset(self) -> int:
        return self.device.selected or 0

    def read_notify_data(self) -> int:
        return self.device.selected or 0


class VirtioPci:
    """*device* as the PCI function `function`; *message*: where its messages go, if anywhere."""

    def __init__(self, device: VirtioDevice, message: MessageSink | None = None) -> None:
        self.device = device
        vectors = 0 if message is None else len(device.queues) + 1
        self.common = _Common(device, vectors)
        self._lock = threading.Lock()
        self.msix = None if message is None else Msix(vectors, message)
        identity = Identity(
            *(VENDOR, FIRST_DEVICE + device.number, device.pci_class, 1, VENDOR, _SUBSYSTEM)
        )
        doorbells = {
            _NOTIFY * _PART_BYTES + index * _NOTIFY_MULTIPLIER: descriptor
            for index, descriptor in enumerate(device.kicks)
        }
        bars = {_BAR: Bar(_BAR_BYTES, self, prefetchable=True, doorbells=doorbells)}
        if self.msix is not None:
            bars[_MSIX_BAR] = self.msix.bar
        self.function = PciFunction(identity, bars, 1)
        if self.msix is not None:
            self.msix.plug(self.function, _MSIX_BAR)
        self._add_capabilities()
        device.queue_interrupt = self._queue_interrupt
        device.configuration_interrupt = self._configuration_interrupt
        device.may_reach_memory = lambda: self.function.bus_master
        self.function.watch(self._configured)
        self._was_master = False

    def parts(self) -> dict[str, Peripheral]:
        """Everything that has state, by what it is."""
        found: dict[str, Peripheral] = {
            "device": self.device,
            "transport": self.common,
            "function": self.function,
        }
        if self.msix is not None:
            found["messages"] = self.msix
        return found

    def statistics(self) -> dict[str, int]:
        """What the device has done so far."""
        return self.device.statistics_of_requests()

    def close(self) -> None:
        """End the device's workers. No vCPU may be running."""
        self.device.close()

    def _add_capabilities(self) -> None:
        add = self._add_capability
        size = self.device.configuration()
        add(_CAP_COMMON, _COMMON, _COMMON_BYTES)
        add(_CAP_ISR, _ISR, _ISR_BYTES)
        if size:
            add(_CAP_DEVICE, _DEVICE, min(len(size), _PART_BYTES))
        notify_bytes = len(self.device.queues) * _NOTIFY_MULTIPLIER
        add(_CAP_NOTIFY, _NOTIFY, notify_bytes, struct.pack("<I", _NOTIFY_MULTIPLIER))
        # A window onto the structures for who can only reach configuration space (4.1.4.9).
        writable = struct.pack("<BBBBHII", 0, 0, 0xFF, 0, 0, _WORD, _WORD)
        body = struct.pack("<BBBBHII", 20, _CAP_WINDOW, 0, 0, 0, 0, 0) + bytes(4)
        self._window = self.function.add_capability(_VENDOR_CAPABILITY, body, writable)
        self.function.answer(
            self._window + _WINDOW_DATA, self._read_through_window, self._write_through_window
        )

    def _add_capability(self, kind: int, part: int, length: int, more: bytes = b"") -> None:
        size = 16 + len(more)
        body = struct.pack("<BBBBHII", size, kind, _BAR, 0, 0, part * _PART_BYTES, length)
        self.function.add_capability(_VENDOR_CAPABILITY, body + more)

    def _through_window(self) -> tuple[int, int] | None:
        """Offset and size of the access that the window is set to, if it can be made."""
        word = self.function.word
        bar = word(self._window + 4) & 0xFF
        offset, length = word(self._window + 8), word(self._window + 12)
        if bar != _BAR or length not in (1, 2, 4) or offset % length:
            return None
        return (offset, length) if offset + length <= _BAR_BYTES else None

    def _read_through_window(self) -> int:
        access = self._through_window()
        return 0 if access is None else self.read(*access)

    def _write_through_window(self, value: int) -> None:
        access = self._through_window()
        if access is not None:
            self.write(*access, value & (1 << 8 * access[1]) - 1)

    # What the guest sees -----------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read from the BAR."""
        part, within = divmod(offset, _PART_BYTES)
        if part == _COMMON:
            return self.common.read(within, size)
        if part == _DEVICE:
            return self.device.read_configuration(within, size)
        if part == _ISR and within == 0:
            return self._take_interrupts()
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write to the BAR."""
        part, within = divmod(offset, _PART_BYTES)
        if part == _NOTIFY:
            self.device.kick(within // _NOTIFY_MULTIPLIER)
        elif part == _COMMON:
            self.common.write(within, size, value)
            if within <= _STATUS_OFFSET < within + size and self.device.status == 0:
                self._take_interrupts()
        elif part == _DEVICE:
            self.device.write_configuration(within, value.to_bytes(size, "little"))

    # Interrupts --------------------------------------------------------------------------

    def _queue_interrupt(self, index: int) -> None:
        if self.msix is not None and self.msix.enabled:
            self.msix.signal(self.common.queue_vectors[index])
        else:
            self._raise(QUEUE_INTERRUPT)

    def _configuration_interrupt(self) -> None:
        if self.msix is not None and self.msix.enabled:
            self.msix.signal(self.common.configuration_vector)
        else:
            self._raise(CONFIGURATION_INTERRUPT)

    def _raise(self, interrupt: int) -> None:
        with self._lock:
            self.common.interrupts |= interrupt
            self.function.interrupt(True)

    def _take_interrupts(self) -> int:
        """Read the ISR status, which acknowledges all (section 4.1.4.5)."""
        with self._lock:
            taken = self.common.interrupts
            self.common.interrupts = 0
            self.function.interrupt(False)
        return taken

    def _configured(self, place: int) -> None:
        """Kick the queues once the function becomes bus master: kicks before were for nothing."""
        if self.function.bus_master != self._was_master:
            self._was_master = self.function.bus_master
            for index in range(len(self.device.queues)):
                self.device.kick(index)

    def restored(self) -> None:
        """Drive the pin as the loaded state has it, and look into the queues.

        A kick that was on its way is not part of the state.
        """
        with self._lock:
            self.function.interrupt(bool(self.common.interrupts))
        self._was_master = self.function.bus_master
        for index in range(len(self.device.queues)):
            self.device.kick(index)


_STATUS_OFFSET = _Common.registers.device_status.offset
