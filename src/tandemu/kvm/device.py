"""An in-kernel device of a VM, such as VFIO's: Linux Documentation/virt/kvm/devices.

Its state is attributes, by group and number, each of a size that its documentation names.
"""

from __future__ import annotations

import ctypes

from tandemu.bits import U64, Layout
from tandemu.kvm import abi
from tandemu.kvm.calls import File
from tandemu.kvm.structures import CREATE_DEVICE, DEVICE_ATTR

VFIO = 4


class KvmDevice(File):
    """Device of type *kind* in the VM whose file is *vm*; `KvmError` if it cannot be made."""

    def __init__(self, vm: File, kind: int) -> None:
        request = CREATE_DEVICE.ctype(type=kind)
        vm.structure(abi.CREATE_DEVICE, request)
        super().__init__(request.fd)

    def has(self, group: int, attribute: int) -> bool:
        """Whether the device knows this attribute."""
        request = DEVICE_ATTR.ctype(group=group, attr=attribute)
        return self.attempt(abi.HAS_DEVICE_ATTR, ctypes.addressof(request)) == 0

    def read(self, group: int, attribute: int, layout: Layout | None = None) -> int | bytes:
        """An attribute: a number of 64 bits, or the bytes of *layout*."""
        size = layout.size if layout else U64.size
        content = (ctypes.c_uint8 * size)()
        self._access(abi.GET_DEVICE_ATTR, group, attribute, ctypes.addressof(content))
        return bytes(content) if layout else int.from_bytes(content, "little")

    def write(self, group: int, attribute: int, value: int | bytes = 0) -> None:
        """Set an attribute, to a number of 64 bits or to bytes of the size it has."""
        data = value if isinstance(value, bytes) else value.to_bytes(U64.size, "little")
        content = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        self._access(abi.SET_DEVICE_ATTR, group, attribute, ctypes.addressof(content))

    def _access(self, call: abi.Ioctl, group: int, attribute: int, address: int) -> None:
        self.structure(call, DEVICE_ATTR.ctype(group=group, attr=attribute, addr=address))
