"""The errors of this layer."""

from __future__ import annotations

import errno
import os

from tandemu.accel import AccelError


class KvmError(AccelError):
    """KVM refused or cannot do something; *errno* is the kernel's reason, 0 if there is none."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.errno = number


_MENDS = {
    errno.EACCES: "give this user access: add it to the group that owns /dev/kvm ('kvm')",
    errno.EPERM: "give this user access: add it to the group that owns /dev/kvm ('kvm')",
    errno.ENOENT: "load the kernel module (modprobe kvm-intel or kvm-amd); in a virtual machine,"
    " allow nested virtualization; else use --accel jit",
    errno.ENODEV: "switch on VT-x or AMD-V in the firmware's settings; else use --accel jit",
    errno.ENXIO: "load the kernel module (modprobe kvm-intel or kvm-amd)",
    errno.EBUSY: "another hypervisor holds the processor's extensions: end it",
    errno.ENOMEM: "the host is out of memory: give the machine less, or free some",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENOTTY: "the host's kernel is too old for this call: use a newer one",
}


def refused(what: str, number: int) -> KvmError:
    """The error for *what*, refused with *number* of errno.h, with the mend where one is known."""
    name = errno.errorcode.get(number, str(number))
    mend = _MENDS.get(number, "'tandemu doctor' says what this host's KVM can do")
    return KvmError(f"{what}: {os.strerror(number)} ({name}); {mend}", number)
