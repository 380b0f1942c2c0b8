"""Boards as values: their parts, their device tree, loading and putting them together."""

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
