"""The Linux guest the cases boot: the stock Debian kernel and initial RAM disks made here."""

from __future__ import annotations

from pathlib import Path

from benchmarks.case import QEMU, TANDEMU, Command, Missing, qemu_system, tandemu
from tandemu.guests import GuestError, build_initramfs, cpio, find_image, pull_image

GUEST = "debian-riscv64"


def kernel() -> Path:
    """The kernel of the guest image, fetched if it is not there."""
    try:
        image = find_image(GUEST) or pull_image(GUEST)
    except GuestError as error:
        raise Missing(str(error)) from error
    return image.kernel


def guest_busybox() -> bytes:
    """Debian's static BusyBox for riscv64, from the guest image."""
    try:
        image = find_image(GUEST) or pull_image(GUEST)
        members = cpio.read(image.initrd.read_bytes())
    except (GuestError, OSError) as error:
        raise Missing(f"no BusyBox: {error}") from error
    return next((entry.data for entry in members if entry.path == "bin/busybox"), b"")


def initramfs(to: Path, *, init: str = "", program: Path | None = None) -> Path:
    """Write an initial RAM disk with BusyBox to *to*; /init is a script or a static program."""
    try:
        files = {"/init": program.read_bytes()} if program else {}
        content = build_initramfs(busybox=guest_busybox(), init=init, files=files, compress=False)
        to.write_bytes(content)
    except (GuestError, OSError) as error:
        raise Missing(f"no initial RAM disk: {error}") from error
    return to


def boot_commands(initrd: Path, *, harts: int = 1) -> dict[str, Command]:
    """Boot the kernel with *initrd* under both, on the same machine."""
    append = "console=ttyS0 rdinit=/init"
    image = kernel()
    return {
        TANDEMU: tandemu(
            *("run", "--arch", "riscv64", "--memory", "512M", "--cpus", str(harts)),
            *("--kernel", image, "--initrd", initrd, "--append", append),
        ),
        QEMU: qemu_system(
            *("-m", "512", "-smp", str(harts)),
            *("-kernel", image, "-initrd", initrd, "-append", append),
        ),
    }
