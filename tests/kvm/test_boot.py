"""A stock Debian cloud kernel under KVM: to the first process, power-off, reboot, exit code.

It needs a KVM that is hardware, or one in the test bed (test_bed.py), where the guest's
files are named by the environment; elsewhere they are fetched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
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


def busybox() -> bytes:
    if HERE:
        return (Path(HERE) / "busybox").read_bytes()
    from tandemu.guests import fetch_packages
    from tandemu.guests.deb import DebFile

    package = fetch_packages(["busybox-static"], "amd64")["busybox-static"]
    return DebFile(package).read("usr/bin/busybox")


def disk_driver() -> bytes:
    """The kernel's module for disks."""
    if HERE:
        return (Path(HERE) / "virtio_blk.ko").read_bytes()
    from tandemu.guests import cpio
    from tandemu.guests.pull import pull_image

    image = pull_image("debian-disk-amd64")
    members = {entry.path: entry.data for entry in cpio.read(image.initrd.read_bytes())}
    return members["lib/modules/virtio_blk.ko"]


def initrd(init: str = INIT, files: Mapping[str, bytes] | None = None) -> bytes:
    return build_initramfs(busybox=busybox(), init=init, files=files, compress=False)


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


ROOT_INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox mount -t proc proc /proc
for number in 1 2; do
    /bin/busybox mkdir /mnt/$number
    /bin/busybox mount -t virtiofs share$number /mnt/$number
done
/bin/busybox cp /mnt/1/content /mnt/2/copy
echo "ROOT $(/bin/busybox grep -c PCI-MSIX /proc/interrupts) $(/bin/busybox cat /mnt/1/hello)"
/bin/busybox poweroff -f
"""


DISK_INIT = """\
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev 2>/dev/null
insmod /virtio_blk.ko
dd if=/dev/vda of=/dev/vdb bs=64k conv=fsync 2>/dev/null
echo "DISK $(grep -c PCI-MSIX /proc/interrupts) $(grep -c fasteoi.*virtio /proc/interrupts)"
poweroff -f
"""


@pytest.mark.parametrize("messages", [True, False], ids=["messages", "wires"])
def test_disks(tmp_path: Path, messages: bool) -> None:
    one, two = tmp_path / "one.img", tmp_path / "two.img"
    one.write_bytes(os.urandom(4 << 20))
    two.write_bytes(bytes(4 << 20))
    with Machine(
        *("x86_64",),
        kernel=kernel(),
        initrd=initrd(DISK_INIT, {"/virtio_blk.ko": disk_driver()}),
        append="console=ttyS0 panic=-1 quiet" + ("" if messages else " pci=nomsi"),
        memory="256M",
        timeout=BOOT_S,
        drives=[f"{one},format=raw,readonly", f"{two},format=raw"],
    ) as vm:
        vm.start()
        try:
            found = vm.console.expect(re.compile(r"DISK (\d+) (\d+)"), BOOT_S)
            result = vm.wait(BOOT_S)
        finally:
            print(vm.console.output[-6000:])
        assert (int(found[1]), int(found[2])) == ((4, 0) if messages else (0, 2))
        assert result.ending is Ending.POWERED_OFF
    assert two.read_bytes() == one.read_bytes()


def test_folders_are_root_and_shares(tmp_path: Path) -> None:
    root, one, two = (tmp_path / name for name in ("root", "one", "two"))
    for folder in (*(root / name for name in ("bin", "proc", "mnt", "dev", "sbin")), one, two):
        folder.mkdir(parents=True)
    (root / "bin/busybox").write_bytes(busybox())
    (root / "sbin/init").write_text(ROOT_INIT)
    for program in ("bin/busybox", "sbin/init"):
        (root / program).chmod(0o755)
    content = os.urandom(1 << 20)
    (one / "content").write_bytes(content)
    (one / "hello").write_text("hello")
    with Machine(
        *("x86_64",),
        kernel=kernel(),
        append="console=ttyS0 panic=-1 quiet",
        memory="256M",
        timeout=BOOT_S,
        root=root,
        shares=[f"{one}:share1,readonly", f"{two}:share2"],
    ) as vm:
        vm.start()
        try:
            found = vm.console.expect(re.compile(r"ROOT (\d+) hello"), BOOT_S)
            result = vm.wait(BOOT_S)
        finally:
            print(vm.console.output[-6000:])
        # Of each folder: configuration, the queue of high priority, requests.
        assert int(found[1]) >= 9
        assert result.ending is Ending.POWERED_OFF
        print(vm.statistics())
    assert (two / "copy").read_bytes() == content


def test_a_reboot_begins_anew_and_an_exit_code_comes_out() -> None:
    with machine("quiet do=ask") as vm:
        vm.start()
        vm.console.expect(REACHED, BOOT_S)
        vm.console.send("reboot\n")
        vm.console.expect(REACHED, BOOT_S)
        vm.console.send("fail\n")
        result = vm.wait(BOOT_S)
        assert (result.ending, result.exit_status) == (Ending.FAILED, 7)
