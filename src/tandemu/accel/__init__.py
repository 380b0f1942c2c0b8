"""The accelerator protocol: what an engine offers, in KVM's shape."""

from tandemu.accel.capability import Capability
from tandemu.accel.protocol import (
    AccelError,
    ControllerVm,
    EntryFailed,
    Exit,
    Fence,
    FirmwareCall,
    Interrupted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    ProfilingVm,
    Shutdown,
    Stopped,
    Unsupported,
    Vcpu,
    Vm,
)

__all__ = [
    "AccelError",
    "Capability",
    "ControllerVm",
    "EntryFailed",
    "Exit",
    "Fence",
    "FirmwareCall",
    "Interrupted",
    "MmioRead",
    "MmioWrite",
    "PortRead",
    "PortWrite",
    "ProfilingVm",
    "Shutdown",
    "Stopped",
    "Unsupported",
    "Vcpu",
    "Vm",
]
