"""Real guests: Debian's kernel to a shell and off again, OpenSBI, U-Boot, the installer."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tandemu import Machine
from tandemu.guests import build_initramfs, fetch_packages, pull_image
from tandemu.guests.deb import DebFile
from tandemu.machine import Ending
from tests.host.pseudo_terminal import ROOT, PseudoTerminal
from tests.long import STRESS

PROMPT = "~ # "
PATIENCE_S = 900 if STRESS else 120
INSTALLER_PATIENCE_S = 6 * PATIENCE_S

pytestmark = [pytest.mark.guest, pytest.mark.timeout(8 * PATIENCE_S)]


@pytest.fixture(scope="module")
def packages() -> dict[str, Path]:
    return fetch_packages(["busybox-static", "opensbi", "u-boot-qemu"], "riscv64")


@pytest.fixture(scope="module")
def kernel() -> Path:
    return pull_image("debian-riscv64").kernel


def initramfs(packages: dict[str, Path], *commands: str) -> bytes:
    """One that runs *commands* and powers off."""
    busybox = DebFile(packages["busybox-static"]).read("usr/bin/busybox")
    script = ["#!/bin/sh", "mount -t proc proc /proc", *commands, "poweroff -f"]
    return build_initramfs(busybox=busybox, init="\n".join(script) + "\n")


def test_a_shell_runs_commands_and_powers_off() -> None:
    with Machine.of_guest(timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect(PROMPT, PATIENCE_S)
        vm.console.send("uname -m; echo $((6 * 7))\n")
        vm.console.expect(re.compile(r"\nriscv64\r?\n42\r?\n"), PATIENCE_S)
        vm.console.expect(PROMPT, PATIENCE_S)
        vm.console.send("exit 0\n")
        assert vm.wait().ending is Ending.POWERED_OFF


def test_the_shells_exit_status_is_the_machines() -> None:
    with Machine.of_guest(timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect(PROMPT, PATIENCE_S)
        vm.console.send("exit 3\n")
        assert vm.wait().exit_status == 3


@pytest.mark.parametrize("cpus", [1, 2])
def test_everything_is_optimised(monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    """Every block where a slice ends becomes a region: kernel and programs do what they did."""
    monkeypatch.setenv("TANDEMU_OPTIMISER", "eager")
    numbers = "".join(f"{number}\n" for number in range(1, 100_001)).encode()
    with Machine.of_guest(cpus=cpus, timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect(PROMPT, PATIENCE_S)
        vm.console.send("seq 100000 | gzip | gunzip | sha256sum; seq 100000 | sort -r | md5sum\n")
        backwards = b"\n".join(sorted(numbers.split(), reverse=True)) + b"\n"
        vm.console.expect(hashlib.sha256(numbers).hexdigest(), PATIENCE_S)
        vm.console.expect(hashlib.md5(backwards).hexdigest(), PATIENCE_S)
        # On a busy host the compiler may not have had its turn yet: there is more to do.
        while not vm.statistics()["optimised_us"]:
            vm.console.send("seq 100000 | md5sum\n")
            vm.console.expect(hashlib.md5(numbers).hexdigest(), PATIENCE_S)
        vm.console.send("exit 0\n")
        assert vm.wait().ending is Ending.POWERED_OFF
        counts = vm.statistics()
    assert counts["regions"] and counts["exits_write"]
    assert counts["translated_us"] and counts["optimised_us"]
    assert not counts["regions_compiler_ends"]


def test_a_reboot_begins_anew_and_the_power_goes_off_as_people_type_it() -> None:
    with Machine.of_guest(timeout=PATIENCE_S) as vm:
        vm.start()
        for command in ("reboot", "reboot -f"):
            vm.console.expect("'poweroff' powers the machine off", PATIENCE_S)
            vm.console.expect(PROMPT, PATIENCE_S)
            vm.console.send(f"{command}\n")
        vm.console.expect(PROMPT, PATIENCE_S)
        vm.console.send("poweroff\n")
        assert vm.wait().ending is Ending.POWERED_OFF


def test_a_halt_ends_and_a_panic_ends_with_its_cause() -> None:
    sent = {
        "halt": (Ending.POWERED_OFF, 0, ""),
        "echo c > /proc/sysrq-trigger": (Ending.PANICKED, 125, "sysrq triggered crash"),
    }
    for command, end in sent.items():
        with Machine.of_guest(timeout=PATIENCE_S) as vm:
            vm.start()
            vm.console.expect(PROMPT, PATIENCE_S)
            vm.console.send(f"{command}\n")
            result = vm.wait()
            assert (result.ending, result.exit_status, result.detail) == end


def test_four_cpus_come_up(packages: dict[str, Path], kernel: Path) -> None:
    initrd = initramfs(packages, "echo CPUs: $(nproc)")
    with Machine(kernel=kernel, initrd=initrd, cpus=4, timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect("CPUs: 4", PATIENCE_S)
        assert vm.wait().exit_status == 0


def test_a_panic_without_a_restart_ends_too(kernel: Path) -> None:
    with Machine(kernel=kernel, append="console=ttyS0", timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect("Kernel panic - not syncing: VFS: Unable to mount root fs", PATIENCE_S)
        result = vm.wait()
        assert (result.ending, result.exit_status) == (Ending.PANICKED, 125)
        assert "Unable to mount root fs" in result.reason


def test_opensbi_hands_over_to_linux(packages: dict[str, Path], kernel: Path) -> None:
    firmware = DebFile(packages["opensbi"]).read(
        "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"
    )
    initrd = initramfs(packages, "echo reached user space")
    with Machine(kernel=kernel, initrd=initrd, firmware=firmware, timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect("OpenSBI v", PATIENCE_S)
        vm.console.expect("Linux version", PATIENCE_S)
        vm.console.expect("reached user space", PATIENCE_S)
        assert vm.wait().exit_status == 0


def test_u_boot_reaches_its_prompt(packages: dict[str, Path]) -> None:
    firmware = DebFile(packages["u-boot-qemu"]).read("usr/lib/u-boot/qemu-riscv64/u-boot.bin")
    with Machine(firmware=firmware, timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect("U-Boot 20", PATIENCE_S)
        vm.console.expect("Hit any key to stop autoboot", PATIENCE_S)
        vm.console.send(" ")
        vm.console.expect("=> ", PATIENCE_S)
        vm.console.send("poweroff\n")
        assert vm.wait().exit_status == 0


def test_a_pipe_stops_the_autoboot_of_u_boot(packages: dict[str, Path], tmp_path: Path) -> None:
    """It polls for a key while it counts; the input has to be there before it has counted."""
    firmware = tmp_path / "u-boot.bin"
    firmware.write_bytes(
        DebFile(packages["u-boot-qemu"]).read("usr/lib/u-boot/qemu-riscv64/u-boot.bin")
    )
    command = [sys.executable, "-m", "tandemu", "run", "--firmware", str(firmware)]
    done = subprocess.run(
        [*command, "--timeout", str(PATIENCE_S)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        input=b"\nprintenv bootdelay\npoweroff\n",
        capture_output=True,
    )
    assert b"=> printenv bootdelay" in done.stdout
    assert done.returncode == 0


def test_the_installer_reaches_its_first_menu() -> None:
    with Machine.of_guest("debian-installer-riscv64", timeout=INSTALLER_PATIENCE_S) as vm:
        vm.start()
        vm.console.expect("Select a language", INSTALLER_PATIENCE_S)


def test_the_command_boots_to_a_shell_on_a_terminal() -> None:
    with PseudoTerminal("-m", "tandemu", "run", environment={"TERM": "vt100"}) as terminal:
        terminal.expect(b"Booting debian-riscv64")
        terminal.expect(PROMPT.encode(), PATIENCE_S)
        terminal.type(b"echo $TERM is here; cat\r")
        terminal.expect(b"vt100 is here", PATIENCE_S)
        # What cat says twice shows that it, and not the shell, will hear of Ctrl-C.
        terminal.type(b"twice\r")
        for _ in range(2):
            terminal.expect(b"twice", PATIENCE_S)
        terminal.type(b"\x03")  # Ctrl-C is the guest's
        terminal.expect(PROMPT.encode(), PATIENCE_S)
        terminal.type(b"exit 5\r")
        assert terminal.finish(PATIENCE_S) == 5
        assert terminal.restored


def test_the_command_takes_its_input_from_a_pipe() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "tandemu", "run", "--timeout", str(PATIENCE_S)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        input=b"echo $((6 * 7)) is the answer\nexit 4\n",
    )
    assert answer.returncode == 4, answer.stderr
    assert b"42 is the answer" in answer.stdout
