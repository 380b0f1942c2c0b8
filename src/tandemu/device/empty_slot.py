"""What answers where a board has room for a device but none is plugged in."""

from __future__ import annotations

from tandemu.bits import mask
from tandemu.device.registers import Access, Peripheral, Register, RegisterMap


class EmptyVirtioSlot(Peripheral):
    """A virtio-mmio transport without a device: Virtio 1.2, section 4.2.2, device ID 0."""

    registers = RegisterMap(
        Register("magic", 0x00, access=Access.RO, reset=0x7472_6976),
        Register("interface_version", 0x04, access=Access.RO, reset=2),
        Register("device_id", 0x08, access=Access.RO),
        Register("vendor_id", 0x0C, access=Access.RO, reset=0x554D_4551),
    )

    def read_magic(self) -> int:
        return self.registers.magic.reset_value

    def read_interface_version(self) -> int:
        return self.registers.interface_version.reset_value

    def read_device_id(self) -> int:
        return self.registers.device_id.reset_value

    def read_vendor_id(self) -> int:
        return self.registers.vendor_id.reset_value


class EmptyBus:
    """A bus on which nobody answers, such as a PCI bus without a function: reads are all ones."""

    def read(self, offset: int, size: int) -> int:
        return mask(size * 8)

    def write(self, offset: int, size: int, value: int) -> None:
        return None
