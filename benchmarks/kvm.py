"""The KVM engine against QEMU on the same KVM: starts, boots, console, memory, exits.

Small guests run on any KVM. A stock kernel needs one that is hardware: on a host without, the
cases that need it are measured in the test bed (`benchmarks.kvm_bed`), where both contenders run
on an emulated processor. There only ratios mean something, and the names begin with ``bed-``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import QEMU, TANDEMU, Case, Command, Measured, Missing, tandemu
from tandemu.guests import GuestError, build_initramfs, fetch_packages
from tandemu.guests.deb import DebFile
from tandemu.guests.pull import pull_image
from tandemu.kvm.probe import find_problem
from tandemu.kvm.system import has_hardware
from tests.kvm.kernels import FOREVER, POWER_OFF, elf, port, say

REACHED = "init-was-reached"
INIT = f"""#!/bin/sh
export PATH=/bin
echo {REACHED}
poweroff -f
"""
APPEND = "console=ttyS0 quiet panic=-1"
QEMU_EXIT = 0x501
END = POWER_OFF + port(QEMU_EXIT, 0) + FOREVER
"""Tandemu's way to power off, then QEMU's: a device that ends it with status 1."""
STARTED = "!"
FIFO_BYTES = 16
HERE_KIB, BED_KIB = 1024, 64
"""Text for the console: an exit in the bed takes a tenth of a millisecond."""


def qemu(*arguments: str | Path, memory: int, exit_status: int = 0) -> Command:
    """QEMU's microvm on KVM with its console on standard output."""
    program = shutil.which("qemu-system-x86_64") or "qemu-system-x86_64"
    # A software KVM lacks what `-cpu host` sets up.
    processor = "host" if has_hardware() else "qemu64"
    options = (
        *("-nodefaults", "-no-user-config", "-M", "microvm,pcie=off,rtc=off", "-accel", "kvm"),
        *("-cpu", processor, "-m", str(memory), "-no-reboot", "-display", "none"),
        *("-serial", "stdio", *map(str, arguments)),
    )
    return Command((program, *options), exit_status=exit_status)


def on_both(kernel: Path) -> dict[str, Command]:
    """Run the PVH *kernel*, which ends with `END`, on both."""
    ending = f"isa-debug-exit,iobase={QEMU_EXIT:#x},iosize=1"
    return {
        TANDEMU: tandemu("run", "--arch", "x86_64", "--memory", "64M", "--kernel", kernel),
        QEMU: qemu("-device", ending, "-kernel", kernel, memory=64, exit_status=1),
    }


def text(kib: int) -> str:
    """Code that prints *kib* KiB as a driver does: it asks for room, then fills the FIFO."""
    # mov ecx, number; next: mov dx, 0x3fd; wait: in al, dx; test al, 0x20; jz wait
    # mov dx, 0x3f8; mov al, '.'; (out dx, al) 16 times; dec ecx; jnz next
    loop = "66bafd03eca82074fb66baf803b02e" + "ee" * FIFO_BYTES + "ffc9"
    back = 256 - (len(loop) // 2 + 2)
    return "b9" + ((kib << 10) // FIFO_BYTES).to_bytes(4, "little").hex() + loop + f"75{back:02x}"


def small_cases(folder: Path, prefix: str, kib: int) -> Iterator[Case]:
    """Those whose guests are a few instructions."""

    def kernel(name: str, code: str) -> Path:
        path = folder / f"{name}.elf"
        path.write_bytes(elf(code))
        return path

    first = on_both(kernel("first", say(STARTED) + END))
    yield Case("kvm", f"{prefix}first-instruction", first, until=STARTED)
    long = on_both(kernel("text", say("\n") + text(kib) + say("\n") + END))
    # Long enough for one run of each.
    expect = "." * (kib << 10)
    yield Case("kvm", f"{prefix}console-{kib}-kib", long, expect=expect, once=True)


def debian() -> tuple[Path, bytes]:
    """The stock kernel and a static BusyBox, fetched if they are not there."""
    try:
        package = fetch_packages(["busybox-static"], "amd64")["busybox-static"]
        return pull_image("debian-amd64").kernel, DebFile(package).read("usr/bin/busybox")
    except GuestError as error:
        raise Missing(str(error)) from error


def debian_cases(folder: Path, prefix: str, kernel: Path, busybox: bytes) -> Iterator[Case]:
    """A stock kernel to its first process, and what the monitor's own memory is then."""
    initrd = folder / "kvm.cpio"
    initrd.write_bytes(build_initramfs(busybox=busybox, init=INIT, compress=False))
    files = ("--kernel", kernel, "--initrd", initrd, "--append", APPEND)
    own = tandemu("run", "--arch", "x86_64", "--memory", "256M", *files)
    rival = qemu(*(str(word).replace("--", "-", 1) for word in files), memory=256)
    yield Case("kvm", f"{prefix}linux", {TANDEMU: own, QEMU: rival}, until=REACHED)
    memory = {TANDEMU: own}
    yield Case("kvm", f"{prefix}memory", memory, expect=REACHED, watch_memory=True, once=True)


def cases(folder: Path) -> Iterator[Case | Measured]:
    """All of them; those that need a real KVM in the bed where this host has none."""
    if problem := find_problem():
        raise Missing(problem)
    yield from small_cases(folder, "", HERE_KIB)
    for name, expect in (("exits", "python_us"), ("machines", "further_mib")):
        command = Command((sys.executable, "-m", f"benchmarks.kvm_{name}"))
        yield Case("kvm", name, {TANDEMU: command}, expect=f"metric {expect}")
    if has_hardware():
        yield from debian_cases(folder, "", *debian())
    else:
        # It needs pytest and half a minute to build, which hosts with a real KVM are spared.
        from benchmarks import kvm_bed

        yield from kvm_bed.measured(folder)
