"""A guest's disk, and a flood of text on its console: Tandemu's devices and QEMU's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import QEMU, ROOT, TANDEMU, Case, Missing, qemu_system, tandemu
from benchmarks.compute import bare_metal_commands
from tandemu.guests import GuestError, build_initramfs, cpio, find_image, pull_image

GUEST = "debian-disk-riscv64"
_DISK_BYTES = 64 << 20
_SECONDS = 2
_INIT = f"""#!/bin/sh
mount -t devtmpfs devtmpfs /dev
for module in $(cat /etc/modules); do
    case $module in */virtio_blk.ko) insmod $module ;; esac
done
/bin/requests /dev/vda {_SECONDS}
poweroff -f
"""
_FLOOD = """
int main(void)
{
    volatile unsigned char *uart = (volatile unsigned char *)0x10000000;
    for (int count = 0; count < 1000000; count++) {
        while (!(uart[5] & 0x20))
            ;
        uart[0] = count % 64 == 63 ? '\\n' : '0' + count % 64;
    }
    return 0;
}
"""


def _initramfs(to: Path, program: Path) -> Path:
    """The guest's own with our program and first process."""
    try:
        image = find_image(GUEST) or pull_image(GUEST)
        members = {entry.path: entry.data for entry in cpio.read(image.initrd.read_bytes())}
    except (GuestError, OSError) as error:
        raise Missing(str(error)) from error
    files = {
        f"/{path}": data
        for path, data in members.items()
        if path == "etc/modules" or path.endswith("/virtio_blk.ko")
    }
    files["/bin/requests"] = program.read_bytes()
    content = build_initramfs(
        busybox=members["bin/busybox"], init=_INIT, files=files, compress=False
    )
    to.write_bytes(content)
    return to


def cases(folder: Path) -> Iterator[Case]:
    """The guest measures itself: microseconds for each request of a kind."""
    source = ROOT / "benchmarks" / "guest" / "requests.c"
    program = build.guest_linux([source], folder / "requests")
    initrd = _initramfs(folder / "io.cpio", program)
    disk = folder / "io.img"
    disk.write_bytes(random.Random(1).randbytes(_DISK_BYTES))
    image = find_image(GUEST)
    assert image is not None
    append = "console=ttyS0 quiet"
    yield Case(
        "io",
        "disk",
        {
            TANDEMU: tandemu(
                *("run", "--arch", "riscv64", "--kernel", image.kernel, "--initrd", initrd),
                *("--append", append, "--drive", f"{disk},format=raw"),
            ),
            QEMU: qemu_system(
                *("-m", "512", "-kernel", image.kernel, "-initrd", initrd, "-append", append),
                *("-drive", f"file={disk},format=raw,if=none,id=disk"),
                *("-device", "virtio-blk-pci,drive=disk"),
            ),
        },
        expect="metric write_1m_us",
        cores=2,
    )
    text = folder / "flood.c"
    text.write_text(_FLOOD, encoding="ascii")
    yield Case("io", "console", bare_metal_commands(build.baremetal([text], folder / "flood.elf")))
