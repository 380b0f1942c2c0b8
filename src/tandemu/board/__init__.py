"""Boards as values: their parts, their device tree, loading and putting them together.

The names below are imported when they are first used: a machine needs one board, and its
start must be quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandemu.board.errors import BoardError, DeviceTreeError, LoadError
    from tandemu.board.hart import Hart, HartState
    from tandemu.board.instance import Firmware, Instance, build
    from tandemu.board.kernel_image import parse_kernel
    from tandemu.board.loader import BootPlan, plan_boot
    from tandemu.board.program import Program, Segment, raw, read_file
    from tandemu.board.riscv_virt import RiscvVirt
    from tandemu.board.x86_instance import X86Instance, build_x86
    from tandemu.board.x86_kernel import X86Kernel, parse_x86_kernel
    from tandemu.board.x86_loader import X86BootPlan, plan_x86_boot
    from tandemu.board.x86_microvm import X86Microvm

__all__ = [
    "BoardError",
    "BootPlan",
    "DeviceTreeError",
    "Firmware",
    "Hart",
    "HartState",
    "Instance",
    "LoadError",
    "Program",
    "RiscvVirt",
    "Segment",
    "X86BootPlan",
    "X86Instance",
    "X86Kernel",
    "X86Microvm",
    "build",
    "build_x86",
    "parse_kernel",
    "parse_x86_kernel",
    "plan_boot",
    "plan_x86_boot",
    "raw",
    "read_file",
]

_MODULES = {
    "BoardError": "errors",
    "DeviceTreeError": "errors",
    "LoadError": "errors",
    "Hart": "hart",
    "HartState": "hart",
    "Firmware": "instance",
    "Instance": "instance",
    "build": "instance",
    "parse_kernel": "kernel_image",
    "BootPlan": "loader",
    "plan_boot": "loader",
    "Program": "program",
    "Segment": "program",
    "raw": "program",
    "read_file": "program",
    "RiscvVirt": "riscv_virt",
    "X86Instance": "x86_instance",
    "build_x86": "x86_instance",
    "X86Kernel": "x86_kernel",
    "parse_x86_kernel": "x86_kernel",
    "X86BootPlan": "x86_loader",
    "plan_x86_boot": "x86_loader",
    "X86Microvm": "x86_microvm",
}
"""Where each of them is."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
