"""Making KVM's calls: one bound function for all ioctls that take an address or a number.

`KVM_RUN` is not made through this: see `tandemu.kvm.vcpu`. The host kernel checks every
argument, so the one thing to watch here is that a buffer is as large as its call says.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from tandemu.bits import Layout
from tandemu.kvm.abi import Ioctl
from tandemu.kvm.errors import refused

_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_ioctl.restype = ctypes.c_int


class File:
    """An open KVM file descriptor (system, VM, vCPU or device) and its calls."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def number(self, call: Ioctl, value: int = 0) -> int:
        """Make a call that takes a number and returns one; `KvmError` if it is refused."""
        result = self.attempt(call, value)
        if result < 0:
            raise refused(f"KVM_{call.name}({value:#x}) fails", -result)
        return result

    def attempt(self, call: Ioctl, value: int = 0) -> int:
        """As `number`, but a refusal is returned as the negated errno."""
        result: int = _ioctl(self.fd, call.code, value)
        return -ctypes.get_errno() if result < 0 else result

    def structure(self, call: Ioctl, value: Any) -> int:
        """Make a call on the structure *value* (a ctypes object); `KvmError` if refused."""
        result: int = _ioctl(self.fd, call.code, ctypes.addressof(value))
        if result < 0:
            raise refused(f"KVM_{call.name} fails", ctypes.get_errno())
        return result

    def get(self, call: Ioctl) -> Any:
        """The structure that *call* fills."""
        assert isinstance(call.argument, Layout)
        value = call.argument.ctype()
        self.structure(call, value)
        return value

    def close(self) -> None:
        """Close it; again: nothing happens."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def with_entries(header: Layout, entry: Any, count: int) -> Any:
    """A structure of variable length: fields of *header*, then *entries*, *count* of *entry*."""

    class Sized(ctypes.LittleEndianStructure):
        _fields_ = (("header", header.ctype), ("entries", entry * count))

    return Sized()
