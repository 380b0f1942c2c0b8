"""Whether KVM really works here: the findings behind ``tandemu doctor`` and ``--accel auto``.

Opening /dev/kvm proves little: a guest of ten instructions is run. A processor that shows
its own system neither VMX nor SVM cannot run guests in hardware, so a KVM that works there
is software (or paravirtual): small guests run on it, a stock kernel may not.
"""

from __future__ import annotations

import os
import threading
import time

from tandemu.accel import Interrupted, PortWrite
from tandemu.bits import Record
from tandemu.kvm.abi import Capability
from tandemu.kvm.errors import KvmError
from tandemu.kvm.system import NODE, Path, System, has_hardware
from tandemu.kvm.vm import KvmVm
from tandemu.memory import Ram, RamRegion

_CODE_AT = 0x1000
_PAGE = 4096
_CODE = bytes.fromhex(
    "b80700"  # mov ax, 7
    "bb0500"  # mov bx, 5
    "01d8"  # add ax, bx
    "f7e3"  # mul bx
    "89c1"  # mov cx, ax
    "49"  # dec cx
    "31c8"  # xor ax, cx
    "a30018"  # mov [0x1800], ax
    "a10018"  # mov ax, [0x1800]
    "e710"  # out 0x10, ax
)
_ANSWER = PortWrite(0x10, 2, 7)
_MACHINES = ("x86_64", "amd64")


class Findings(Record):
    """What was found. *problem* is empty if KVM runs guests, else cause and mend."""

    node: Path
    problem: str = ""
    api_version: int = 0
    capabilities: tuple[str, ...] = ()
    hardware: bool = False
    run_us: float = 0.0
    """How long the ten instructions took, the VM's making not counted."""

    @property
    def works(self) -> bool:
        """Whether a guest was run and gave the right answer."""
        return not self.problem

    @property
    def summary(self) -> str:
        """The findings in a line."""
        if self.problem:
            return self.problem
        kind = "hardware" if self.hardware else "software (no VMX or SVM to be seen)"
        return (
            f"{self.node}, API version {self.api_version}, {kind}, a guest of ten instructions"
            f" ran in {self.run_us:.0f} µs"
        )


def probe(node: Path = NODE, machine: str = "") -> Findings:
    """Look at KVM and run a guest on it. Never raises."""
    machine = machine or os.uname().machine
    if machine.lower() not in _MACHINES:
        return Findings(
            node,
            f"this host is {machine}: the KVM engine runs x86-64 guests on x86-64 hosts only;"
            " for guests of other architectures use --accel jit",
        )
    try:
        system = System(node)
    except KvmError as error:
        return Findings(node, str(error))
    capabilities = tuple(one.name for one in Capability if system.capability(one))
    try:
        problem, seconds = _run_guest(system)
    except (KvmError, OSError) as error:
        problem, seconds = str(error), 0.0
    finally:
        system.close()
    return Findings(node, problem, system.api_version, capabilities, has_hardware(), seconds * 1e6)


def find_problem(node: Path = NODE, machine: str = "") -> str:
    """Why KVM cannot be used here, or nothing: as `probe`, but quick where it is hardware.

    A VM is about to be made anyway; only a KVM that cannot be hardware is tried first.
    """
    machine = machine or os.uname().machine
    if machine.lower() not in _MACHINES or not has_hardware():
        return probe(node, machine).problem
    try:
        System(node).close()
    except KvmError as error:
        return str(error)
    return ""


def _close(vm: KvmVm | None, ram: Ram) -> None:
    if vm is not None:
        vm.close()
    ram.close()


def _run_guest(system: System) -> tuple[str, float]:
    ram, vm = Ram(_PAGE, "probe"), None
    try:
        vm = KvmVm(system=system)
        ram.view[: len(_CODE)] = _CODE
        vm.set_memory_slot(RamRegion(_CODE_AT, _PAGE, ram))
        vcpu = vm.create_vcpu(0)
        vcpu.set("cs.base", 0)
        vcpu.set("cs", 0)
        vcpu.set("rip", _CODE_AT)
        vcpu.set("rflags", 2)
        begun = time.perf_counter()
        exit = vcpu.run()
        while isinstance(exit, Interrupted):
            exit = vcpu.run()
        seconds = time.perf_counter() - begun
    finally:
        # The end of a VM takes the kernel longer than its life here, and nobody waits for it.
        threading.Thread(target=_close, args=(vm, ram), name="end of the probe").start()
    if exit != _ANSWER:
        return (
            f"KVM opens, but a guest of ten instructions answered {exit} instead of"
            f" {_ANSWER}: use --accel jit",
            seconds,
        )
    return "", seconds
