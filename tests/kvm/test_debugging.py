"""A debugger on machines under KVM: breakpoints, watched memory, steps, GDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandemu import Machine, MachineError, MachineTimeout
from tandemu.debug.target import Cause
from tandemu.kvm.system import has_hardware
from tests.kvm.guests import needs_kvm
from tests.kvm.kernels import ELF_BASE, elf
from tests.kvm.test_machine import machine
from tests.machine.gdb import gdb

pytestmark = [pytest.mark.kvm, needs_kvm]

PATIENCE_S = 60
DATA = 0x11_0000
COUNTING = "bb00001100" + "31c0" + "ffc0" + "8903" + "ebfa"
"""mov ebx, DATA; xor eax, eax; again: inc eax; mov [rbx], eax; jmp again"""
LOOP, STORE, JUMP = ELF_BASE + 7, ELF_BASE + 9, ELF_BASE + 11


@pytest.fixture
def vm() -> Iterator[Machine]:
    with machine(elf(COUNTING, note=False)) as made:
        made.start(paused=True)
        yield made


def test_breakpoints_and_steps(vm: Machine) -> None:
    registers = vm.cpus[0].registers
    assert registers["rip"] == ELF_BASE
    for turn in range(1, 4):
        vm.debug.run_to(STORE, PATIENCE_S)
        assert (registers["rip"], registers["rax"]) == (STORE, turn)
    vm.cpus[0].step(3)
    assert (registers["rip"], registers["rax"]) == (STORE, 4)
    for _ in range(3):
        vm.debug.breakpoints.add(LOOP)
        assert vm.debug.go_on(PATIENCE_S).cause is Cause.BREAKPOINT
        assert registers["rip"] == LOOP
    vm.debug.breakpoints.clear()
    with pytest.raises(MachineTimeout):
        vm.debug.go_on(0.2)
    assert int.from_bytes(vm.debug.read(DATA, 4), "little") > 4


@pytest.mark.skipif(not has_hardware(), reason="a KVM in software watches no data")
def test_watched_memory(vm: Machine) -> None:
    vm.debug.watch(DATA, 4)
    for turn in range(1, 4):
        stop = vm.debug.go_on(PATIENCE_S)
        assert (stop.cause, stop.address) == (Cause.WATCH_WRITE, DATA)
        assert vm.cpus[0].registers["rip"] == JUMP
        assert vm.debug.read(DATA, 1) == bytes((turn,))
    with pytest.raises(MachineError, match="4 debug registers"):
        vm.debug.watch(DATA, 64)
    with pytest.raises(MachineError, match="cannot watch for reads alone"):
        vm.debug.watch(DATA + 8, 4, reads=True, writes=False)


@pytest.mark.skipif(has_hardware(), reason="the processor watches data")
def test_no_watched_memory_in_software(vm: Machine) -> None:
    with pytest.raises(MachineError, match="need a host with VMX or SVM"):
        vm.debug.watch(DATA, 4)


def test_gdb(vm: Machine) -> None:
    output = gdb(
        vm.debugger("0").address,
        [
            *(f"hbreak *{STORE:#x} if $rax == 5", "continue", "p/x $rip", "p $eax", "delete"),
            *("stepi", "p/x $rip", "info registers cr0"),
            *("p $xmm0.uint128", "monitor info mem", f"monitor translate {DATA:#x}", "detach"),
        ],
        before=["set architecture i386:x86-64"],
    )
    assert f"{STORE:#x}" in output and f"{JUMP:#x}" in output, output
    assert "cr0" in output and f"\n{DATA:#x}" in output, output
    assert vm.status == "running"
