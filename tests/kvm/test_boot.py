"""A stock Debian cloud kernel under KVM: to the first process, power-off, reboot, exit code.

It needs a KVM that is hardware, or one in the test bed (test_bed.py), where the guest's
files are named by the environment; elsewhere they are fetched.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tandemu.guests import build_initramfs
from tandemu.kvm.probe import find_problem
from tandemu.kvm.system import has_hardware
from tandemu.machine import Ending, Machine

HERE = os.environ.get("TANDEMU_KVM_GUEST", "")
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.guest,
    pytest.mark.skipif(
        bool(find_problem()) or not has_hardware(),
        reason=find_problem() or "a software KVM; the test bed runs this",
    ),
]

INIT = """\
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev 2>/dev/null
echo "INIT on $(nproc) CPUs, $(uname -m)"
grep -q do=ask /proc/cmdline && read what
case $what in
reboot) reboot -f ;;
fail) devmem 0xfe000000 32 $((7 << 16 | 0x3333)) ;;
esac

poweroff -f
"""
REACHED = re.compile(r"INIT on (\d+) CPUs, x86_64")
BOOT_S = 200.0


def kernel() -> Path:
    if HERE:
        return Path(HERE) / "kernel"
    from tandemu.guests.pull import pull_image

    return pull_image("debian-amd64").kernel


def initrd() -> bytes:
    if HERE:
        busybox = (Path(HERE) / "busybox").read_bytes()
    else:
        from tandemu.guests import fetch_packages
        from tandemu.guests.deb import DebFile

        package = fetch_packages(["busybox-static"], "amd64")["busybox-static"]
        busybox = DebFile(package).read("usr/bin/busybox")
    return build_initramfs(busybox=busybox, init=INIT, compress=False)


def machine(append: str, cpus: int = 1) -> Machine:
    return Machine(
        "x86_64",
        kernel=kernel(),
        initrd=initrd(),
        append=f"console=ttyS0 panic=-1 {append}",
        memory="256M",
        cpus=cpus,
        timeout=BOOT_S,
    )


@pytest.mark.parametrize("cpus", [1, 2])
def test_debian_boots_to_its_first_process_and_powers_off(cpus: int) -> None:
    with machine("quiet", cpus) as vm:
        assert vm.accel == "kvm"
        begun = time.monotonic()
        vm.start()
        try:
            assert vm.console.expect(REACHED, BOOT_S)[1] == str(cpus)
            reached = time.monotonic() - begun
            result = vm.wait(BOOT_S)
        finally:
            print(vm.console.output[-6000:])
        print(f"{reached:.1f} s to /init, {vm.statistics()}")
        assert result.ending is Ending.POWERED_OFF
        assert result.exit_status == 0


def test_a_reboot_begins_anew_and_an_exit_code_comes_out() -> None:
    with machine("quiet do=ask") as vm:
        vm.start()
        vm.console.expect(REACHED, BOOT_S)
        vm.console.send("reboot\n")
        vm.console.expect(REACHED, BOOT_S)
        vm.console.send("fail\n")
        result = vm.wait(BOOT_S)
        assert (result.ending, result.exit_status) == (Ending.FAILED, 7)
