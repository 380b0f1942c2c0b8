"""Hosts and guests that cannot be served: each is told with its cause and its mend.

What this host does not do by itself is played: answers of the kernel, and what it writes into the
page it shares with a vCPU.
"""

from __future__ import annotations

import errno
import os

import pytest

from tandemu.accel import EntryFailed, Exit, Unsupported
from tandemu.kvm import KvmError, KvmVcpu, KvmVm, abi, probe
from tandemu.kvm.abi import Capability, ExitReason, Ioctl
from tandemu.kvm.structures import EXIT_FAIL_ENTRY, EXIT_HARDWARE, EXIT_INTERNAL, RUN
from tandemu.kvm.system import System
from tests.kvm.guests import guest, needs_kvm, run

pytestmark = [pytest.mark.kvm, needs_kvm]

EXIT = RUN.offset("exit")


def answer_with(monkeypatch: pytest.MonkeyPatch, call: Ioctl, value: int, result: int) -> None:
    """Let the kernel answer *call* of *value* with *result*."""
    real = System.attempt

    def attempt(self: System, which: Ioctl, argument: int = 0) -> int:
        if (which, argument) == (call, value):
            return result
        return real(self, which, argument)

    monkeypatch.setattr(System, "attempt", attempt)


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EACCES, "add it to the group"),
        (errno.ENOENT, "modprobe"),
        (errno.ENODEV, "firmware's settings"),
        (errno.EBUSY, "another hypervisor"),
    ],
)
def test_a_node_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, number: int, mend: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tandemu.kvm.system.os.open", refuse)
    found = probe()
    assert not found.works
    assert "/dev/kvm cannot be opened" in found.problem
    assert errno.errorcode[number] in found.problem
    assert mend in found.problem


def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, abi.GET_API_VERSION, 0, 10)
    assert "version 10 where version 12 is needed" in probe().problem


def test_a_missing_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, abi.CHECK_EXTENSION, Capability.IMMEDIATE_EXIT, 0)
    problem = probe().problem
    assert "lacks IMMEDIATE_EXIT" in problem
    assert "Linux 4.12" in problem and "--accel jit" in problem


def test_no_memory_for_another_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, abi.CREATE_VM, 0, -errno.ENOMEM)
    with pytest.raises(KvmError, match=r"CREATE_VM fails.*ENOMEM.*give the machine less"):
        KvmVm()


def exit_of(vcpu: KvmVcpu, reason: ExitReason | int) -> Exit | None:
    return vcpu._rare_exit(int(reason))


def test_an_entry_the_hardware_refuses_is_told_with_its_reason() -> None:
    with guest() as machine:
        vcpu = machine.protected("90")
        EXIT_FAIL_ENTRY.over(vcpu._view, EXIT).hardware_entry_failure_reason = 0x8000_0021
        failed = exit_of(vcpu, ExitReason.FAIL_ENTRY)
        assert isinstance(failed, EntryFailed)
        assert failed.code == 0x8000_0021
        assert "hardware reason 0x80000021: the processor stands at" in failed.reason


def test_an_internal_error_is_told_with_its_data() -> None:
    with guest() as machine:
        vcpu = machine.protected("90")
        error = EXIT_INTERNAL.over(vcpu._view, EXIT)
        error.suberror, error.ndata, error.data[0] = 2, 1, 0xABC
        del error  # it holds the page
        said = exit_of(vcpu, ExitReason.INTERNAL_ERROR)
        assert isinstance(said, Unsupported)
        assert "an exit while an event was delivered" in said.reason
        assert "its data: 0xabc" in said.reason


def test_exits_nobody_expects_are_told_by_name_or_number() -> None:
    with guest() as machine:
        vcpu = machine.protected("90")
        EXIT_HARDWARE.over(vcpu._view, EXIT).hardware_exit_reason = 0x4D
        for reason, says in (
            (ExitReason.UNKNOWN, "hardware exit 0x4d"),
            (ExitReason.SET_TPR, "SET_TPR"),
            (777, "KVM exit 777 (unknown to Tandemu)"),
        ):
            said = exit_of(vcpu, reason)
            assert isinstance(said, Unsupported)
            assert says in said.reason and said.code == reason


def test_code_that_is_no_memory_cannot_be_run() -> None:
    with guest() as machine:
        said = run(machine.protected("b8000000d0ffe0"))  # mov eax, 0xd0000000; jmp eax
        assert isinstance(said, Unsupported)
        assert "cannot emulate" in said.reason and "rip 0xd0000000" in said.reason


def test_values_no_processor_has_are_refused() -> None:
    with guest() as machine:
        vcpu = machine.protected("90")
        with pytest.raises(KvmError, match="SET_SREGS fails"):
            vcpu.set("cr4", 1 << 40)
