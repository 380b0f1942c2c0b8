"""Boards as values: their parts, their device tree, loading and putting them together.

The names below are imported when they are first used: a machine needs one board, and its
start must be quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandemu.board.boot_plan import BootPlan, File, HartStart, Images
    from tandemu.board.errors import BoardError, DeviceTreeError, LoadError
    from tandemu.board.hart import Hart, HartState
    from tandemu.board.instance import Board, Firmware, Instance, Lent
    from tandemu.board.kernel_image import parse_kernel
    from tandemu.board.loader import plan_boot, plan_riscv_virt
    from tandemu.board.program import Program, Segment, raw, read_file
    from tandemu.board.riscv_assembly import assemble_riscv_virt
    from tandemu.board.riscv_virt import RiscvVirt
    from tandemu.board.x86_assembly import assemble_x86_microvm
    from tandemu.board.x86_kernel import X86Kernel, parse_x86_kernel
    from tandemu.board.x86_loader import plan_x86_boot, plan_x86_microvm
    from tandemu.board.x86_microvm import X86Microvm

__all__ = [
    "Board",
    "BoardError",
    "BootPlan",
    "DeviceTreeError",
    "File",
    "Firmware",
    "Hart",
    "HartStart",
    "HartState",
    "Images",
    "Instance",
    "Lent",
    "LoadError",
    "Program",
    "RiscvVirt",
    "Segment",
    "X86Kernel",
    "X86Microvm",
    "assemble_riscv_virt",
    "assemble_x86_microvm",
    "parse_kernel",
    "parse_x86_kernel",
    "plan_boot",
    "plan_riscv_virt",
    "plan_x86_boot",
    "plan_x86_microvm",
    "raw",
    "read_file",
]

_MODULES = {
    "BootPlan": "boot_plan",
    "File": "boot_plan",
    "HartStart": "boot_plan",
    "Images": "boot_plan",
    "BoardError": "errors",
    "DeviceTreeError": "errors",
    "LoadError": "errors",
    "Hart": "hart",
    "HartState": "hart",
    "Board": "instance",
    "Firmware": "instance",
    "Instance": "instance",
    "Lent": "instance",
    "parse_kernel": "kernel_image",
    "plan_boot": "loader",
    "plan_riscv_virt": "loader",
    "Program": "program",
    "Segment": "program",
    "raw": "program",
    "read_file": "program",
    "assemble_riscv_virt": "riscv_assembly",
    "RiscvVirt": "riscv_virt",
    "assemble_x86_microvm": "x86_assembly",
    "X86Kernel": "x86_kernel",
    "parse_x86_kernel": "x86_kernel",
    "plan_x86_boot": "x86_loader",
    "plan_x86_microvm": "x86_loader",
    "X86Microvm": "x86_microvm",
}
"""Where each of them is."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
