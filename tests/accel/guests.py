"""The same small guests for every engine, in each one's machine code.

A guest is RAM at the engine's usual place and one vCPU that begins at its first byte. Memory that
is no RAM is at `HOLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tandemu.accel import Exit, Interrupted, Vcpu, Vm
from tandemu.memory import Ram, RamRegion

HOLE = 0x4000_0000
RAM_BYTES = 1 << 20
PAGE = 4096


@dataclass(frozen=True)
class Architecture:
    """Machine code in hexadecimal. *data* and *other* are registers, *data* the one stored."""

    engine: str
    base: int
    data: str
    endless: str
    """Jump to itself."""
    count: str
    """data = 0; again: store data (4 bytes) at HOLE; data += 1; jump again."""
    echo: str
    """again: load 4 bytes from HOLE into data; data += 1; store them at HOLE + 8; jump again."""
    store_ram: str
    """Store 4 bytes at base + 0x20000 and base + 0x50000, then at HOLE; then jump to itself."""
    steps: str
    """Three times data += 1, each of `step_bytes`; then jump to itself."""
    step_bytes: int
    load_far: str
    """again: load 4 bytes from base + 0x200000, store them at HOLE; jump again."""
    store_far: str
    """again: load 4 bytes from base + 0x200000, store data = 7 there, store it at HOLE; again."""
    start: Callable[[Any], Vm]
    enter: Callable[[Any, int], None]


def _riscv_vm(module: Any) -> Vm:
    vm: Vm = module.JitVm()
    return vm


def _riscv_enter(vcpu: Vcpu, pc: int) -> None:
    vcpu.set("pc", pc)


def _x86_vm(module: Any) -> Vm:
    vm: Vm = module.KvmVm()
    return vm


def _x86_enter(vcpu: Any, pc: int) -> None:
    """32-bit protected mode with flat segments, no paging."""
    flat = {
        "base": 0,
        "limit": 0xFFFF_FFFF,
        "present": 1,
        "dpl": 0,
        "db": 1,
        "s": 1,
        "l": 0,
        "g": 1,
    }
    values = {"rip": pc, "rflags": 2, "cr0": 0x11, "rax": 0}
    for name, selector, kind in (("cs", 8, 0xB), *((one, 16, 3) for one in ("ds", "es", "ss"))):
        fields = {**flat, "l": 0, "g": 1, "selector": selector, "type": kind}
        values |= {f"{name}.{field}": value for field, value in fields.items()}
    vcpu.set_many(values)


RISCV = Architecture(
    engine="tandemu.jit.machine.vm",
    base=0x1000_0000,
    data="a0",
    endless="6f000000",  # j .
    # lui t0, 0x40000; li a0, 0; again: sw a0, 0(t0); addi a0, a0, 1; j again
    count="b7020040" "13050000" "23a0a200" "13051500" "6ff09fff",
    # lui t0, 0x40000; again: lw a0, 0(t0); addi a0, a0, 1; sw a0, 8(t0); j again
    echo="b7020040" "03a50200" "13051500" "23a4a200" "6ff05fff",
    # lui t0, 0x40000; lui t1, 0x10020; lui t2, 0x10050; sw a0, 0(t1); sw a0, 0(t2)
    # sw a0, 0(t0); j .
    store_ram="b7020040" "37030210" "b7030510" "2320a300" "23a0a300" "23a0a200" "6f000000",
    steps="13051500" "13051500" "13051500" "6f000000",
    step_bytes=4,
    # lui t0, 0x40000; lui t1, 0x10200; again: lw a0, 0(t1); sw a0, 0(t0); j again
    load_far="b7020040" "37032010" "03250300" "23a0a200" "6ff09fff",
    # lui t0, 0x40000; lui t1, 0x10200; again: lw a0, 0(t1); li a0, 7; sw a0, 0(t1); sw a0, 0(t0)
    # j again
    store_far="b7020040" "37032010" "03250300" "13057000" "2320a300" "23a0a200" "6ff01fff",
    start=_riscv_vm,
    enter=_riscv_enter,
)  # fmt: skip

X86 = Architecture(
    engine="tandemu.kvm",
    base=0,
    data="rax",
    endless="ebfe",
    # mov ebx, HOLE; xor eax, eax; again: mov [ebx], eax; inc eax; jmp again
    count="bb0000004031c0890340ebfb",
    # mov ebx, HOLE; again: mov eax, [ebx]; inc eax; mov [ebx+8], eax; jmp again
    echo="bb000000408b0340894308ebf8",
    # mov ebx, HOLE; mov [0x20000], eax; mov [0x50000], eax; mov [ebx], eax; jmp .
    store_ram="bb00000040a300000200a3000005008903ebfe",
    steps="404040ebfe",
    step_bytes=1,
    # mov ebx, HOLE; again: mov eax, [0x200000]; mov [ebx], eax; jmp again
    load_far="bb00000040a1000020008903ebf7",
    # mov ebx, HOLE; again: mov eax, [0x200000]; mov eax, 7; mov [0x200000], eax; mov [ebx], eax; …
    store_far="bb00000040a100002000b807000000a3000020008903ebed",
    start=_x86_vm,
    enter=_x86_enter,
)

FAR = 0x20_0000


class Guest:
    """A VM with RAM and one vCPU at the beginning of *code*."""

    def __init__(self, architecture: Architecture, module: Any, code: str) -> None:
        self.architecture = architecture
        self.ram = Ram(RAM_BYTES)
        self.vm = architecture.start(module)
        self.base = architecture.base
        self.vm.set_memory_slot(RamRegion(self.base, RAM_BYTES, self.ram))
        self.vcpu = self.vm.create_vcpu(0)
        self.at = self.base + 0x1000
        data = bytes.fromhex(code)
        self.ram.view[0x1000 : 0x1000 + len(data)] = data
        self.begin()

    def begin(self) -> None:
        """Put the vCPU at the code's first instruction."""
        self.architecture.enter(self.vcpu, self.at)

    def run(self) -> Exit:
        """Run to an exit that is no `Interrupted`."""
        while isinstance(exit := self.vcpu.run(), Interrupted):
            pass
        return exit

    def close(self) -> None:
        self.vm.close()
        self.ram.close()


@contextmanager
def guest(architecture: Architecture, module: Any, code: str) -> Iterator[Guest]:
    made = Guest(architecture, module, code)
    try:
        yield made
    finally:
        made.close()
