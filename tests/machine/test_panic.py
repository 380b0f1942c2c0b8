"""A guest's panic is its end, known by the kernel's words; a reset may be the end as well."""

from __future__ import annotations

import pytest

from tandemu.accel import MmioRead, Shutdown
from tandemu.board.riscv_parts import UART
from tandemu.machine import Ending, panic
from tandemu.machine.panic import SpinWatch, cause_before_reset
from tests.machine.scripted import IDLE, Script, ScriptedVcpu
from tests.machine.test_machine import POWER_OFF, RESET, finish, say, scripted  # noqa: F401

REPORT = b"[    1.2] Kernel panic - not syncing: VFS: no root\r\n[    1.2] CPU: 0\r\n"
LAST_WORDS = b"[    1.3] ---[ end Kernel panic - not syncing: VFS: no root ]---\r\n"


def test_a_panic_is_told_from_a_restart() -> None:
    assert cause_before_reset(REPORT) == "VFS: no root"
    assert cause_before_reset(REPORT + LAST_WORDS) == "VFS: no root"
    assert cause_before_reset(b"~ # reboot\r\n[  3.1] reboot: Restarting system\r\n") == ""
    # Somebody read an old log before.
    assert cause_before_reset(REPORT + b"~ # reboot\r\nreboot: Restarting system\r\n") == ""
    assert cause_before_reset(b"") == ""


def watch(output: bytes, busy: list[list[float]]) -> str:
    found = ""
    spinning = SpinWatch(lambda: (len(output), output), lambda: busy.pop(0))
    for _ in range(len(busy)):
        found = found or spinning.check()
    return found


def test_only_a_busy_guest_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(panic.time, "monotonic", lambda: float(next(clock)))
    busy = [[0.0, 5.0], [0.1, 5.9], [0.2, 6.9]]
    assert watch(REPORT + LAST_WORDS, list(busy)) == "VFS: no root"
    assert watch(REPORT, list(busy)) == ""
    # A pager shows an old log, or whoever reads it goes on.
    assert watch(REPORT + LAST_WORDS + b"(END)", list(busy)) == ""
    assert watch(b"x ---[ end Kernel panic - not syncing: y ]---", list(busy)) == ""
    # Nobody is busy.
    assert watch(REPORT + LAST_WORDS, [[0.0], [0.01], [0.02], [0.03]]) == ""


def test_a_panic_that_resets_ends_the_machine(scripted) -> None:  # noqa: F811
    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(REPORT)
        yield finish(RESET)

    vm, engine = scripted(script)
    vm.start()
    result = vm.wait(10)
    assert (result.ending, result.exit_status) == (Ending.PANICKED, 125)
    assert result.reason == "the guest's kernel panicked: VFS: no root"
    assert engine.starts == 1
    assert "the guest's kernel panicked" in repr(vm)


def test_a_guest_that_spins_after_a_panic_is_ended(scripted) -> None:  # noqa: F811
    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(REPORT + LAST_WORDS)
        while True:
            yield MmioRead(UART.base + 5, 1)

    vm, _ = scripted(script)
    vm.start()
    assert vm.wait(60).ending is Ending.PANICKED


def test_a_reset_is_the_end_where_that_is_wanted(scripted) -> None:  # noqa: F811
    def script(vcpu: ScriptedVcpu) -> Script:
        yield finish(RESET)

    vm, engine = scripted(script, reboot=False)
    vm.start()
    result = vm.wait(10)
    assert (result.ending, result.exit_status, engine.starts) == (Ending.RESET, 0, 1)


def test_the_reset_button_still_works_then(scripted) -> None:  # noqa: F811
    lives: list[int] = []

    def script(vcpu: ScriptedVcpu) -> Script:
        lives.append(1)
        yield from say(b"up")
        if len(lives) == 2:
            yield finish(POWER_OFF)
        while True:
            yield IDLE

    vm, _ = scripted(script, reboot=False)
    vm.start()
    vm.console.expect("up", 10)
    vm.reset()
    assert vm.wait(10).ending is Ending.POWERED_OFF


def test_a_processor_that_shuts_down_resets_the_machine(scripted) -> None:  # noqa: F811
    lives: list[int] = []
    told: list[str] = []

    def script(vcpu: ScriptedVcpu) -> Script:
        lives.append(1)
        yield Shutdown("a triple fault") if len(lives) == 1 else finish(POWER_OFF)

    vm, _ = scripted(script, notice=told.append)
    vm.start()
    assert vm.wait(10).ending is Ending.POWERED_OFF
    assert "resets: processor 0, a triple fault" in told[0]
    lives.clear()
    vm, _ = scripted(script, reboot=False)
    vm.start()
    result = vm.wait(10)
    assert (result.ending, result.exit_status) == (Ending.SHUT_DOWN, 125)
    assert "processor 0, a triple fault" in result.reason
    assert "processor 0" in vm.dump()
