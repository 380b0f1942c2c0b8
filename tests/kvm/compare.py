"""Tandemu and QEMU on the same KVM: the test bed boots Debian under both, in turn.

``python -m tests.kvm.compare [TURNS]`` prints, for each run, the seconds from process start to
the guest's first process, and those for some KiB of console output; then the ratios of the
minima. QEMU runs ``-M microvm`` with the libraries of this host beside it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tandemu.guests import build_initramfs, cpio
from tests.kvm import bed

PRINTED_KIB = 8
INIT = f"""\
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
echo INIT-REACHED
yes | head -c {PRINTED_KIB << 10} | tr '\\n' x
echo
echo INIT-PRINTED
poweroff -f
"""
_APPEND = "console=ttyS0 quiet panic=-1"
SCRIPT = f"""\
mark() {{ read up rest < /proc/uptime; echo "MARK $1 $up"; }}
watch() {{
    mark "$1 begin"
    while read line; do
        case "$line" in *INIT-REACHED*) mark "$1 init" ;; *INIT-PRINTED*) mark "$1 printed" ;; esac
    done
}}
for turn in @TURNS@; do
    python{bed.PYTHON} -m tandemu run --arch x86_64 --kernel /guest/kernel --initrd /q/initrd \\
        --memory 256M --append "{_APPEND}" </dev/null | watch tandemu
    /q/lib/ld-linux-x86-64.so.2 --library-path /q/lib /q/qemu -L /q/share -nodefaults \\
        -M microvm,pcie=off,rtc=off -accel kvm -cpu host -m 256 -no-user-config -no-reboot \\
        -display none -serial stdio -kernel /guest/kernel -initrd /q/initrd \\
        -append "{_APPEND}" </dev/null | watch qemu
done
"""
_MARK = re.compile(r"^MARK (\w+) (\w+) ([\d.]+)", re.MULTILINE)
_FIRMWARE = ("bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin")


def _qemu(folder: Path) -> None:
    """QEMU with its libraries and firmware into *folder*."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("lib", "share"):
        (folder / name).mkdir(parents=True)
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise FileNotFoundError("no qemu-system-x86_64; install it")
    shutil.copy(program, folder / "qemu")
    needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(0x", needed):
        shutil.copy(library, folder / "lib")
    for name in _FIRMWARE:
        for place in (Path("/usr/share/qemu"), Path("/usr/share/seabios")):
            if (place / name).exists():
                shutil.copy(place / name, folder / "share")
                break


def compare(turns: int) -> str:
    """Run both in turn; return the bed's console."""
    kernel, initrd = bed.build("sh /q/run.sh", runner="")
    work = initrd.parent / "compare"
    _qemu(work / "q")
    busybox = (initrd.parent / "system/usr/bin/busybox").read_bytes()
    (work / "q/initrd").write_bytes(build_initramfs(busybox=busybox, init=INIT, compress=False))
    script = SCRIPT.replace("@TURNS@", " ".join(str(turn) for turn in range(turns)))
    (work / "q/run.sh").write_text(script)
    entries: dict[str, cpio.Entry] = {}
    bed.add_tree(entries, work)
    with initrd.open("ab") as file:
        file.write(cpio.write(entries.values()))
    return bed.boot(kernel, initrd, 120.0 * turns + 60).console


def _report(console: str) -> str:
    boots: dict[str, list[float]] = {"tandemu": [], "qemu": []}
    prints: dict[str, list[float]] = {"tandemu": [], "qemu": []}
    last = 0.0
    for who, what, text in _MARK.findall(console):
        now = float(text)
        if what != "begin":
            (boots if what == "init" else prints)[who].append(now - last)
        last = now
    lines = []
    for name, table in (("to /init", boots), (f"{PRINTED_KIB} KiB printed", prints)):
        ours, theirs = table["tandemu"], table["qemu"]
        shown = [" ".join(f"{value:.2f}" for value in values) for values in (ours, theirs)]
        ratio = f"{min(ours) / min(theirs):.2f}" if ours and theirs else "?"
        lines.append(f"{name}: Tandemu {shown[0]} s, QEMU {shown[1]} s, ratio {ratio}")
    return "\n".join(lines)


if __name__ == "__main__":
    said = compare(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    print(_report(said) if _MARK.search(said) else said)
