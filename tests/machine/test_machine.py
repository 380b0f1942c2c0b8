"""Lifecycle of a machine: starting, ending in every way, resetting, failing clearly."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tandemu.accel import AccelError, FirmwareCall, MmioRead, MmioWrite, Unsupported
from tandemu.board.riscv_parts import RAM_BASE, TEST, UART
from tandemu.firmware.sbi import HSM, SRST
from tandemu.machine import Ending, Machine, MachineError, MachineTimeout, machine
from tests.machine.scripted import IDLE, Script, ScriptedVcpu, ScriptedVm

KERNEL = bytes(0x100)
POWER_OFF, RESET, FAIL = 0x5555, 0x7777, 0x3333

Starter = Callable[..., Machine]


def finish(value: int) -> MmioWrite:
    return MmioWrite(TEST.base, 4, value)


def say(text: bytes) -> Script:
    for byte in text:
        yield MmioWrite(UART.base, 1, byte)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch):
    """Makes machines of scripts, in machine mode unless told otherwise."""
    made: list[Machine] = []

    def make(*scripts: Callable[[ScriptedVcpu], Script], **options) -> tuple[Machine, ScriptedVm]:
        vm = ScriptedVm(*scripts)
        monkeypatch.setattr(machine, "load_engine", lambda name: vm)
        options = {"kernel": KERNEL, "firmware": "none", "memory": "16M", **options}
        made.append(Machine(**options))
        return made[-1], vm

    yield make
    for one in made:
        one.stop()


def test_a_guest_prints_and_powers_off(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(b"hello\n")
        yield finish(POWER_OFF)

    vm, engine = scripted(script)
    with vm:
        vm.start()
        vm.console.expect("hello")
        result = vm.wait(10)
    assert (result.exit_status, result.ending) == (0, Ending.POWERED_OFF)
    assert engine.closed
    assert vm.statistics() == {"vcpus": 1}
    assert not vm.running


def test_the_guests_own_code_is_the_exit_status(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield finish(FAIL | 7 << 16)

    vm, _ = scripted(script)
    vm.start()
    result = vm.wait(10)
    assert (result.exit_status, result.ending) == (7, Ending.FAILED)
    assert result.reason == "the guest ended with a failure code, 7"


def test_a_reset_begins_anew_with_fresh_memory(scripted) -> None:
    lives: list[int] = []

    def script(vcpu: ScriptedVcpu) -> Script:
        lives.append(len(lives))
        yield from say(b"life %d\n" % len(lives))
        yield finish(RESET if len(lives) < 3 else POWER_OFF)

    vm, engine = scripted(script)
    vm.start()
    assert vm.wait(10).exit_status == 0
    assert vm.console.output == "life 1\nlife 2\nlife 3\n"
    assert engine.starts == 3


def test_the_reset_button(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(b"up ")
        while True:
            yield IDLE

    vm, _ = scripted(script)
    vm.start()
    vm.console.expect("up")
    vm.reset()
    vm.console.expect("up", 10)
    vm.stop()
    with pytest.raises(MachineError, match="does not run"):
        vm.reset()


def test_stop_ends_a_guest_that_waits(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        while True:
            yield IDLE

    vm, engine = scripted(script, cpus=4)
    vm.start()
    with pytest.raises(MachineTimeout, match="still runs"):
        vm.wait(0.01)
    assert vm.running
    vm.stop()
    vm.stop()
    assert vm.wait().ending is Ending.STOPPED
    assert engine.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hart ")]


def test_a_time_out_ends_the_run(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        while True:
            yield MmioRead(UART.base + 5, 1)

    vm, _ = scripted(script, timeout=0.05)
    vm.start()
    result = vm.wait(10)
    assert (result.exit_status, result.ending) == (124, Ending.TIMED_OUT)


def test_an_error_in_a_vcpus_thread_surfaces(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(b"x")
        raise ZeroDivisionError("inside")

    vm, engine = scripted(script, cpus=2)
    vm.start()
    with pytest.raises(MachineError, match="ZeroDivisionError: inside"):
        vm.wait(10)
    with pytest.raises(MachineError, match="the machine broke down"):
        vm.console.expect("never", 10)
    assert engine.closed


def test_what_the_engine_cannot_run_says_so(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield Unsupported(3, "triple fault")

    vm, _ = scripted(script)
    vm.start()
    with pytest.raises(MachineError, match=r"hart 0 \(code 3\): triple fault"):
        vm.wait(10)


def test_registers_are_shown_on_request_and_after_a_break_down(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        vcpu.registers["pc"] = 0x1234 + vcpu.index
        if vcpu.index:
            begun.set()
        elif begun.wait(10):
            yield from say(b"x")
        while True:
            vcpu.registers["a0"] = vcpu.index + 7
            yield IDLE
            if vcpu.registers.get("mcause"):
                yield Unsupported(3, "broken")

    begun = threading.Event()
    vm, engine = scripted(script, cpus=2)
    assert vm.dump() == ""
    vm.start()
    vm.console.expect("x", 10)
    shown = vm.dump()
    assert re.search(r"processor 0\n +pc 0+1234\b", shown)
    assert re.search(r"processor 1\n +pc 0+1235\b", shown)
    engine.vcpus[0].registers["mcause"] = 5
    engine.vcpus[0].kick()
    with pytest.raises(MachineError, match="broken"):
        vm.wait(10)
    assert re.search(r"mcause 0+5\b", vm.dump())


def test_an_access_where_nothing_is_gets_a_bus_error(scripted) -> None:
    answers: list[int | None] = []

    def script(vcpu: ScriptedVcpu) -> Script:
        answers.append((yield MmioRead(0x1800_0000, 4)))
        answers.append((yield MmioRead(UART.base + 5, 1)))
        yield finish(POWER_OFF)

    vm, _ = scripted(script)
    vm.start()
    vm.wait(10)
    assert answers == [None, 0x60]


def test_input_reaches_the_uart(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        line = b""
        while not line.endswith(b"\n"):
            if (yield MmioRead(UART.base + 5, 1)) & 1:
                line += bytes(((yield MmioRead(UART.base, 1)),))
        yield from say(b"got " + line)
        yield finish(POWER_OFF)

    vm, _ = scripted(script)
    vm.start()
    text = "x" * 100 + "\n"
    vm.console.send(text)
    assert vm.wait(20).exit_status == 0
    assert vm.console.output == "got " + text


def test_without_firmware_every_hart_starts_at_the_reset_vector(scripted) -> None:
    started: dict[int, int] = {}
    everybody = threading.Event()

    def script(vcpu: ScriptedVcpu) -> Script:
        started[vcpu.index] = vcpu.get("pc")
        if len(started) == 3:
            everybody.set()
        everybody.wait(10)
        if vcpu.index == 0:
            yield finish(POWER_OFF)
        while True:
            yield IDLE

    vm, _ = scripted(script, cpus=3)
    vm.start()
    vm.wait(20)
    assert started == {0: 0x1000, 1: 0x1000, 2: 0x1000}


def elf_kernel() -> bytes:
    """An ELF file with one loaded page at the start of RAM."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += (2).to_bytes(2, "little") + (243).to_bytes(2, "little") + (1).to_bytes(4, "little")
    header += (RAM_BASE + 0x200000).to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(8)
    header += bytes(4) + b"".join(n.to_bytes(2, "little") for n in (64, 56, 1, 64, 0, 0))
    segment = (1).to_bytes(4, "little") + (5).to_bytes(4, "little")
    numbers = (0, RAM_BASE + 0x200000, RAM_BASE + 0x200000, 120, 4096, 4096)
    return header + segment + b"".join(n.to_bytes(8, "little") for n in numbers)


def test_built_in_firmware_starts_hart_0_and_the_others_when_asked(scripted) -> None:
    seen: dict[int, tuple[int, int, int]] = {}

    def script(vcpu: ScriptedVcpu) -> Script:
        seen[vcpu.index] = (vcpu.get("pc"), vcpu.get("a0"), vcpu.get("a1"))
        if vcpu.index == 0:
            vcpu.registers |= {"a7": HSM, "a6": 0, "a0": 1, "a1": RAM_BASE, "a2": 99}
            yield FirmwareCall()
            while True:
                yield IDLE
        vcpu.registers |= {"a7": SRST, "a6": 0, "a0": 0, "a1": 0}
        yield FirmwareCall()

    vm, _ = scripted(script, kernel=elf_kernel(), firmware=None, cpus=2)
    vm.start()
    assert vm.wait(20).exit_status == 0
    assert seen[0][:2] == (RAM_BASE + 0x200000, 0)
    assert seen[1] == (RAM_BASE, 1, 99)


def test_a_function_that_the_machine_calls_may_stop_it(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(b"x")
        while True:
            yield IDLE

    vm, _ = scripted(script)
    tried: list[object] = []

    def watch(data: bytes) -> None:
        for wait in (lambda: vm.wait(9), lambda: vm.console.expect("y", 9)):
            try:
                wait()
            except MachineError as error:
                tried.append(str(error))
        tried.append(vm.dump())
        vm.stop()

    vm.console.mirror(watch)
    vm.start()
    assert vm.wait(10).ending is Ending.STOPPED
    assert "request_stop" in str(tried[0]) and "cannot expect" in str(tried[1])
    assert "processor 0" in str(tried[2])


def test_a_guests_machine_has_all_options() -> None:
    own = inspect.signature(Machine.__init__).parameters.keys() - {"self", "arch"}
    guests = inspect.signature(Machine.of_guest).parameters.keys() - {"name", "progress"}
    assert own == guests


def test_a_machine_says_what_it_is(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield finish(POWER_OFF)

    vm, _ = scripted(script, cpus=2)
    assert repr(vm) == "<Machine riscv64, 2 CPU(s), 16 MiB, engine jit: not started>"
    vm.start()
    vm.wait(10)
    assert repr(vm).endswith(": the guest powered off>")


def test_a_machine_runs_once(scripted) -> None:
    def script(vcpu: ScriptedVcpu) -> Script:
        yield finish(POWER_OFF)

    vm, _ = scripted(script)
    with pytest.raises(MachineError, match="call start"):
        vm.wait()
    vm.start()
    vm.wait(10)
    with pytest.raises(MachineError, match="started before"):
        vm.start()


def test_an_engine_that_refuses_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> ScriptedVm:
        raise AccelError("this host cannot; mend it so")

    monkeypatch.setattr(machine, "load_engine", lambda name: refuse)
    with Machine(kernel=KERNEL, firmware="none") as vm, pytest.raises(MachineError, match="mend"):
        vm.start()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "nothing to boot"),
        ({"kernel": "/nowhere/linux"}, "cannot read /nowhere/linux"),
        ({"kernel": b""}, "the kernel is empty"),
        ({"kernel": b"no kernel at all" * 10}, "no kernel this board can boot"),
        ({"kernel": elf_kernel(), "initrd": b""}, "initrd is empty"),
        ({"kernel": elf_kernel(), "initrd": bytes(32 << 20), "memory": "16M"}, "memory too small"),
        ({"kernel": elf_kernel()[:100]}, "truncated"),
        ({"kernel": KERNEL, "arch": "riscv46"}, "did you mean riscv64"),
        ({"kernel": KERNEL, "board": "virt"}, "must be one of riscv-virt"),
        ({"kernel": KERNEL, "accel": "warp"}, "must be one of auto, kvm, jit"),
        ({"kernel": KERNEL, "memory": "lots"}, "such as 512M"),
        ({"kernel": KERNEL, "cpus": 0}, "from 1 to 64"),
        ({"kernel": KERNEL, "append": "a\0b"}, "without NUL"),
        ({"kernel": KERNEL, "firmware": "/nowhere/fw"}, "cannot read /nowhere/fw"),
    ],
)
def test_bad_input_is_told_apart_before_anything_starts(
    options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(MachineError, match=complaint):
        Machine(**options)  # type: ignore[arg-type]


def test_files_are_taken_by_path(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(elf_kernel())
    vm = Machine(kernel=str(kernel), initrd=b"070701", memory="16M")
    assert str(kernel) in vm.layout
    assert "the initrd" in vm.layout


def test_the_package_exports_it() -> None:
    import tandemu

    assert tandemu.Machine is Machine
    assert "Machine" in dir(tandemu)
    with pytest.raises(AttributeError):
        tandemu.Nothing  # noqa: B018
