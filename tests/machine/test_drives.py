"""Disks: options as people write them, files that cannot be one, and Linux on a disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tandemu import Machine
from tandemu.host.disk import open_image
from tandemu.host.disk.making import create_image
from tandemu.host.disk.qcow2.check import check
from tandemu.host.disk.qcow2.create import Qcow2Options
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.machine import MachineError
from tandemu.machine.attachments import Drive, parse_drive
from tests.long import STRESS

PROMPT = "~ # "
PATIENCE_S = 900 if STRESS else 120
LOOP = bytes.fromhex("6f000000")


def test_options() -> None:
    assert parse_drive("a.img") == Drive("a.img")
    assert parse_drive("a,,b,format=raw,readonly,serial=x,queues=2") == Drive(
        *("a,b", "raw", True, "virtio", "x", 2)
    )
    assert parse_drive("a,readonly=off") == Drive("a")
    assert parse_drive("a,bps=50M,bps-burst=1G,iops=300") == Drive(
        "a", bytes_per_s=50 << 20, burst_bytes=1 << 30, operations_per_s=300
    )
    assert parse_drive(Path("a,b")) == Drive("a,b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "without a file"),
        (",format=raw", "without a file"),
        ("a,colour=red", "'colour'"),
        ("a,format=raw,format=raw", "twice"),
        ("a,readonly=maybe", "readonly=on"),
        ("a,if=ide", "must be one of"),
        ("a,queues=many", "must be a number"),
        ("a,queues=0", "must be 1 to"),
        ("a,bps=fast", "must be a number"),
        ("a,iops-burst=5", "how many may come at once"),
        ("a,serial=" + "x" * 21, "at most 20"),
    ],
)
def test_options_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(MachineError, match=said):
        parse_drive(text)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for drive in (str(tmp_path / "none.img"), str(tmp_path), "/dev/null"):
        machine = Machine(kernel=LOOP, firmware="none", memory="16M", drives=[drive])
        with pytest.raises(MachineError, match=os.path.basename(drive)):
            machine.start()


def test_one_image_is_not_used_twice(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 16))
    drive = f"{image},format=raw"
    with Machine(kernel=LOOP, firmware="none", memory="16M", drives=[drive]) as first:
        first.start()
        second = Machine(kernel=LOOP, firmware="none", memory="16M", drives=[drive])
        with pytest.raises(MachineError, match="locked"):
            second.start()
    with Machine(kernel=LOOP, firmware="none", memory="16M", drives=[drive]) as third:
        third.start()


def test_slots_are_eight(tmp_path: Path) -> None:
    drives = []
    for number in range(9):
        (tmp_path / f"{number}.img").write_bytes(bytes(512))
        drives.append(f"{tmp_path}/{number}.img,format=raw,if=virtio-mmio")
    with Machine(kernel=LOOP, firmware="none", memory="16M", drives=drives[:8]) as vm:
        vm.start()
        vm.pause()
        assert sorted(vm.statistics().keys() & {f"disk{n}_requests" for n in range(9)}) == [
            f"disk{n}_requests" for n in range(8)
        ]
        vm.resume()
    machine = Machine(kernel=LOOP, firmware="none", memory="16M", drives=drives)
    with pytest.raises(MachineError, match="this board has 8"):
        machine.start()


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
def test_linux_keeps_files_on_a_disk(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    (source := tmp_path / "source.img").write_bytes(content)
    target = tmp_path / "target.img"
    with target.open("wb") as file:
        file.truncate(32 << 20)
    overlay = str(tmp_path / "overlay.qcow2")
    create_image(overlay, "qcow2", 8 << 20, Qcow2Options(backing="source.img"))

    def run(*commands: str) -> str:
        drives = [
            f"{source},readonly,format=raw",
            f"{target},format=raw,queues=2,serial=mine",
            f"{overlay},iops=5000",
        ]
        with Machine.of_guest(
            "debian-disk-riscv64", drives=drives, cpus=2, timeout=PATIENCE_S
        ) as vm:
            vm.start()
            vm.console.expect(PROMPT, PATIENCE_S)
            for command in commands:
                vm.console.send(command + "\n")
                vm.console.expect(PROMPT, PATIENCE_S)
            vm.console.send("poweroff\n")
            vm.wait()
            return vm.console.output

    output = run(
        "cat /sys/block/vdb/serial /sys/block/vda/ro; grep -c PCI-MSIX /proc/interrupts",
        "dd if=/dev/zero of=/dev/vda count=1",
        "mke2fs /dev/vdb >/dev/null 2>&1; mount -t ext4 /dev/vdb /tmp",
        "dd if=/dev/vda of=/tmp/copy bs=64k; cp /bin/busybox /tmp; sync; umount /tmp",
        "dd if=/dev/vdc bs=64k count=16 | sha256sum; dd if=/dev/vda of=/dev/vdc bs=64k seek=40",
        "sync",
    )
    assert hashlib.sha256(content).hexdigest() in output
    with open_image(overlay, read_only=True) as image:
        assert image.read(0, 1 << 20) == image.read(40 << 16, 1 << 20) == content
        assert isinstance(image, Qcow2Image)
        assert check(image.storage, image.header).is_clean
    assert "\r\nmine1\r\n" in output
    # A message each for the configuration and every queue: of three disks, one has two queues.
    assert "\r\n7\r\n" in output
    assert "can't open '/dev/vda'" in output or "not permitted" in output
    assert source.read_bytes() == content
    output = run(
        "mount -t ext4 /dev/vdb /tmp; sha256sum < /tmp/copy; cmp /tmp/busybox /bin/busybox"
        " && echo same; fstrim /tmp; umount /tmp",
    )
    assert hashlib.sha256(content).hexdigest() in output
    assert "\r\nsame\r\n" in output
    assert target.stat().st_blocks * 512 < 16 << 20
