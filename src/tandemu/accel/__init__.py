"""The accelerator protocol: what an engine offers, in KVM's shape."""

from tandemu.accel.protocol import (
    AccelError,
    EntryFailed,
    Exit,
    Fence,
    FirmwareCall,
    Interrupted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    Shutdown,
    Stopped,
    Unsupported,
    Vcpu,
    Vm,
)

__all__ = [
    "AccelError",
    "EntryFailed",
    "Exit",
    "Fence",
    "FirmwareCall",
    "Interrupted",
    "MmioRead",
    "MmioWrite",
    "PortRead",
    "PortWrite",
    "Shutdown",
    "Stopped",
    "Unsupported",
    "Vcpu",
    "Vm",
]
