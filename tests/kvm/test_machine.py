"""Tiny kernels on a whole `Machine` with KVM: they also run where no stock kernel does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tandemu.kvm.system import has_hardware
from tandemu.machine import Ending, Machine, MachineError
from tests.kvm.guests import needs_kvm
from tests.kvm.kernels import (
    EXIT_7,
    FOREVER,
    PANIC,
    POWER_OFF,
    RESET,
    bzimage,
    elf,
    port,
    say,
)

pytestmark = [pytest.mark.kvm, needs_kvm]

PATIENCE_S = 120
"""Of the test bed on a loaded host; nothing takes so long otherwise."""
CHECK_ZERO_PAGE = "81be020200004864725374020f0b"
"""cmp dword [rsi+0x202], "HdrS"; je over; ud2"""
CHECK_START_INFO = "813b78c56e3374020f0b"
"""cmp dword [ebx], hvm_start_info's magic; je over; ud2"""


def machine(kernel: bytes, **options: object) -> Machine:
    settings: dict[str, object] = {
        "memory": "32M",
        "accel": "kvm",
        "timeout": PATIENCE_S,
        **options,
    }
    return Machine("x86_64", kernel=kernel, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kernel",
    [
        bzimage(CHECK_ZERO_PAGE + say("hello") + POWER_OFF + FOREVER),
        elf(CHECK_START_INFO + say("hello") + POWER_OFF + FOREVER),
        elf(CHECK_ZERO_PAGE + say("hello") + POWER_OFF + FOREVER, note=False),
    ],
    ids=["bzImage", "PVH", "ELF"],
)
def test_a_kernel_starts_prints_and_powers_off(kernel: bytes) -> None:
    with machine(kernel) as vm:
        vm.start()
        result = vm.wait(PATIENCE_S)
        assert (result.ending, result.exit_status) == (Ending.POWERED_OFF, 0)
        assert vm.console.output == "hello"


def test_a_guest_reports_a_code_and_a_panic() -> None:
    ends = ((EXIT_7, 7, Ending.FAILED), (PANIC + FOREVER, 125, Ending.PANICKED))
    for code, status, ending in ends:
        with machine(bzimage(code)) as vm:
            vm.start()
            result = vm.wait(PATIENCE_S)
            assert (result.ending, result.exit_status) == (ending, status)


def test_a_reset_begins_anew() -> None:
    with machine(bzimage(say("x") + RESET + FOREVER)) as vm:
        vm.start()
        vm.console.expect("xxx", PATIENCE_S)
        vm.stop()
        assert vm.wait(PATIENCE_S).ending is Ending.STOPPED


def test_the_kernel_sees_command_line_and_initrd() -> None:
    # The zero page's fields lead to both: print a byte of each, then power off.
    code = (
        "8b8e28020000" "8a01" "66baf803" "ee"  # mov ecx, [rsi+cmd_line_ptr]; out [rcx]
        "8b8e18020000" "8a01" "ee" + POWER_OFF + FOREVER  # [rsi+ramdisk_image]
    )  # fmt: skip
    with machine(bzimage(code), append="quiet", initrd=b"Zebra") as vm:
        vm.start()
        assert vm.wait(PATIENCE_S).exit_status == 0
        assert vm.console.output == "qZ"


def test_input_reaches_the_guest() -> None:
    # wait: mov dx, 0x3fd; in al, dx; test al, 1; jz wait; mov dx, 0x3f8; in al, dx; out dx, al
    code = "66bafd03eca80174f766baf803ecee" + POWER_OFF + FOREVER
    with machine(bzimage(code)) as vm:
        vm.start()
        vm.console.send("k")
        assert vm.wait(PATIENCE_S).exit_status == 0
        assert vm.console.output == "k"


def test_a_time_out_and_a_stop_end_an_endless_guest() -> None:
    with machine(bzimage(FOREVER), timeout=0.3, cpus=2) as vm:
        vm.start()
        assert vm.wait(PATIENCE_S).exit_status == 124
    with machine(bzimage("faf4ebfd"), cpus=2) as vm:  # cli; hlt
        vm.start()
        begun = time.monotonic()
        vm.stop()
        assert time.monotonic() - begun < PATIENCE_S / 2


def test_a_triple_fault_is_a_reset_or_the_end_with_cause_and_mend() -> None:
    # AMD resets the processor first, so the place it shows is not that of the fault there.
    told: list[str] = []
    with machine(bzimage(say("x") + "0f0b"), notice=told.append) as vm:
        vm.start()
        vm.console.expect("xx", PATIENCE_S)
        assert "resets: processor 0, a triple fault" in told[0]
    with machine(bzimage("0f0b"), reboot=False) as vm:
        vm.start()
        result = vm.wait(PATIENCE_S)
        assert (result.ending, result.exit_status) == (Ending.SHUT_DOWN, 125)
        assert re.search(r"triple fault.*rip 0x.*another machine", result.reason)


def test_registers_of_all_processors_are_shown_while_they_run_and_halt() -> None:
    # or rbx, 0x77 (the second processor waits to be started); then halt without interrupts
    with machine(bzimage("4883cb77" + say("x") + "faf4ebfd"), cpus=2) as vm:
        vm.start()
        vm.console.expect("x", PATIENCE_S)
        until = time.monotonic() + PATIENCE_S
        # Each processor has a thread, and that of the second may be late.
        while "not started" in vm.dump() and time.monotonic() < until:
            time.sleep(0.01)
        for _ in range(3):
            shown = vm.dump()
            assert re.search(r"processor 0\n.*rbx 0{14}77\b", shown), shown
            assert re.search(r"processor 1\n +rax ", shown), shown
        vm.stop()
    with machine(bzimage("4883cb770f0b"), reboot=False) as vm:
        vm.start()
        assert vm.wait(PATIENCE_S).ending is Ending.SHUT_DOWN
        assert "processor 0" in vm.dump()


@pytest.mark.skipif(not has_hardware(), reason="a software KVM shows the host's own CPUID")
@pytest.mark.parametrize(("model", "says"), [("", "e"), ("x86-64-v1", "ne")])
def test_a_cpu_model_is_what_the_guest_sees(model: str, says: str) -> None:
    # mov eax, 1; cpuid; bt ecx, 0 (SSE3, which every host has and the first level has not)
    code = "b8010000000fa20fbae1007207" + say("n") + say("e") + POWER_OFF + FOREVER
    with machine(bzimage(code), cpu=model) as vm:
        vm.start()
        assert vm.wait(PATIENCE_S).exit_status == 0
        assert vm.console.output == says


def test_a_cpu_model_that_cannot_be_is_told() -> None:
    with (
        machine(bzimage(FOREVER), cpu="pentium") as vm,
        pytest.raises(MachineError, match=r"pentium.*must be one of host"),
    ):
        vm.start()
    with pytest.raises(MachineError, match=r"jit has no CPU models.*leave --cpu out"):
        Machine("riscv64", kernel=b"x", cpu="host")


def test_many_machines_in_one_process() -> None:
    for _ in range(20):
        with machine(bzimage(say("n") + POWER_OFF + FOREVER)) as vm:
            vm.start()
            assert vm.wait(PATIENCE_S).exit_status == 0


def test_accesses_to_nothing_do_no_harm() -> None:
    # in eax, 0xcf8; cmp eax, -1; mov ebx, 0xd8000000; mov eax, [rbx]; mov [rbx], eax
    code = (
        "66baf80c" "ed" "83f8ff" "7402" "0f0b" "bb000000d8" "488b03" "4883f8ff" "7402" "0f0b"
        "488903" + port(0x9999, 1) + say("ok") + POWER_OFF + FOREVER
    )  # fmt: skip
    with machine(bzimage(code)) as vm:
        vm.start()
        assert vm.wait(PATIENCE_S).exit_status == 0
        assert vm.console.output == "ok"


@pytest.mark.parametrize(
    ("kind", "heavy"),
    [
        ("of other machines", "tandemu.ir tandemu.isa tandemu.jit tandemu.native tandemu.guests"),
        ("of other machines' boards", "tandemu.board.riscv tandemu.board.device_tree"),
        ("it can do without", "dataclasses difflib hashlib llvmlite pathlib shutil urllib"),
    ],
)
def test_a_start_imports_nothing(kind: str, heavy: str, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bzimage(POWER_OFF + FOREVER))
    words = ["run", "--arch", "x86_64", "--memory", "32M", "--kernel", str(kernel)]
    code = (
        "import sys; from tandemu.cli.main import main\n"
        f"assert not main({words})\n"
        f"print([name for name in sys.modules if name.startswith({(*heavy.split(),)!r})])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert answer.stdout.strip() == "[]", kind
