"""The accelerator protocol: what an engine offers, in KVM's shape.

The names below are imported when they are first used: who runs a foreign program needs none of
what machines are made of.
"""

from __future__ import annotations

from importlib import import_module

from tandemu.accel.errors import AccelError

# Type checkers know this name; importing typing would take time itself.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from tandemu.accel.capability import Capability
    from tandemu.accel.protocol import (
        BreakpointHit,
        ControllerVm,
        DebuggableVm,
        DoorbellVm,
        EntryFailed,
        Exit,
        Fence,
        FirmwareCall,
        Interrupted,
        MessageVcpu,
        MmioRead,
        MmioWrite,
        PortRead,
        PortWrite,
        PostingVm,
        ProfilingVm,
        Shutdown,
        Stopped,
        Unsupported,
        Vcpu,
        Vm,
        Watch,
        WatchpointHit,
    )

__all__ = [
    "AccelError",
    "BreakpointHit",
    "Capability",
    "ControllerVm",
    "DebuggableVm",
    "DoorbellVm",
    "EntryFailed",
    "Exit",
    "Fence",
    "FirmwareCall",
    "Interrupted",
    "MessageVcpu",
    "MmioRead",
    "MmioWrite",
    "PortRead",
    "PortWrite",
    "PostingVm",
    "ProfilingVm",
    "Shutdown",
    "Stopped",
    "Unsupported",
    "Vcpu",
    "Vm",
    "Watch",
    "WatchpointHit",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tandemu.accel' has no attribute {name!r}")
    module = "capability" if name == "Capability" else "protocol"
    value: object = getattr(import_module(f"tandemu.accel.{module}"), name)
    globals()[name] = value
    return value
