"""The test bed: a machine with a real KVM, made of QEMU's emulation of AMD's SVM.

Debian's kernel with its kvm-amd module, a Python, Tandemu's sources and tests go into an
initramfs; ``qemu-system-x86_64 -cpu qemu64,+svm,+npt -accel tcg`` boots it; the tests run
inside and report on the serial line. Of Tandemu only what the KVM path imports is put in, and
virtqueue code made here: should it import the translator, or compile, the tests inside fail.
"""

from __future__ import annotations

import hashlib
import inspect
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tandemu.device.virtqueue.native import make as make_virtqueues
from tandemu.guests import cache_folder, cpio, fetch_packages
from tandemu.guests.deb import DebFile
from tandemu.guests.initramfs import applets

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {"ir", "isa", "jit", "linux", "__pycache__"}
PYTHON = "3.13"
PACKAGES = (
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libc6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "busybox-static",
)
KERNELS = {"host": "linux-image-amd64", "guest": "linux-image-cloud-amd64"}
PYTHON_PACKAGES = (
    *("_pytest", "iniconfig", "packaging", "pluggy", "pygments", "pytest"),
    *("py", "pytest_timeout"),
)
KEPT_BASES = 2
MODULES = ("irqbypass", "ccp", "kvm", "kvm-amd")
_LIBRARIES = re.compile(
    r"usr/lib(64|/x86_64-linux-gnu)/"
    r"(ld-linux|libc\.|libm\.|libdl|libpthread|librt|libutil|libz\.|libexpat\.|libffi\.|libbz2|liblzma)"
)
_UNWANTED = re.compile(
    r"(test|idlelib|tkinter|ensurepip|lib2to3|pydoc_data|turtledemo|_test\w*|config-3.*)(/|\.|$)"
)
_STDLIB = f"usr/lib/python{PYTHON}/"

INIT = """\
#!/bin/sh
export PATH=/bin:/usr/bin PYTHONPATH=/t/src:/t:/t/site PYTHONDONTWRITEBYTECODE=1 HOME=/root
export TANDEMU_KVM_GUEST=/guest XDG_CACHE_HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for module in irqbypass ccp kvm kvm-amd; do
    [ -e /modules/$module.ko ] && insmod /modules/$module.ko
done
cd /t
echo "BED up $(cut -d' ' -f1 /proc/uptime) $(ls /dev/kvm)"
@RUN@
echo "BED done $(cut -d' ' -f1 /proc/uptime)"
poweroff -f
"""
TEST_S = 240
"""Of one test inside: one that hangs is reported, and the others run."""
PYTEST = (
    f"python{PYTHON} -m pytest -p bed_report -p pytest_timeout -p no:cacheprovider"
    " -c /t/pytest.ini --rootdir /t --import-mode=importlib -q -rsf --color=no -m kvm"
    f" --timeout={TEST_S} --timeout-method=signal"
)
REPORT = """\
def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        print(f"\\nRESULT {report.outcome} {report.duration:.2f} {report.nodeid}", flush=True)
"""
_RESULT = re.compile(r"^RESULT (passed|failed|skipped) ([\d.]+) (\S+)", re.MULTILINE)


@dataclass
class Outcome:
    """What the bed said: its console, and for each test function its worst outcome."""

    console: str
    tests: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def _kernel_packages() -> dict[str, Path]:
    """The kernels behind the packages that always depend on the newest."""
    newest = fetch_packages(KERNELS.values(), "amd64")
    names = {}
    for kind, package in KERNELS.items():
        depends = DebFile(newest[package]).control()["Depends"]
        names[kind] = depends.split(",")[0].split("(")[0].strip()
    found = fetch_packages(names.values(), "amd64")
    return {kind: found[name] for kind, name in names.items()}


def _unpack(package: Path, folder: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)


def add_tree(entries: dict[str, cpio.Entry], folder: Path, prefix: str = "") -> None:
    for path in sorted(folder.rglob("*")):
        name = prefix + str(path.relative_to(folder))
        for parent in reversed(Path(name).parents):
            if str(parent) != ".":
                entries.setdefault(str(parent), cpio.directory(str(parent)))
        if path.is_symlink():
            entries[name] = cpio.symlink(name, os.readlink(path))
        elif path.is_file():
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            entries[name] = cpio.file(name, path.read_bytes(), mode)


def _wanted(name: str) -> bool:
    if name.startswith(_STDLIB):
        rest = name.removeprefix(_STDLIB)
        return not _UNWANTED.match(rest.removeprefix("lib-dynload/"))
    return bool(_LIBRARIES.match(name)) or name == f"usr/bin/python{PYTHON}"


def _base(folder: Path) -> None:
    """Everything but Tandemu, into *folder*: ``kernel`` and ``base.cpio``, and a Python beside."""
    kernels = _kernel_packages()
    debs = fetch_packages(PACKAGES, "amd64")
    system, host, guest = folder / "system", folder / "host", folder / "guest"
    for package in debs.values():
        _unpack(package, system)
    _unpack(kernels["host"], host)
    _unpack(kernels["guest"], guest)
    for name in ("lib", "lib64"):
        if not (system / name).exists():
            (system / name).symlink_to(f"usr/{name}")
    _compile(system, system / _STDLIB)
    entries: dict[str, cpio.Entry] = {}
    found: dict[str, cpio.Entry] = {}
    add_tree(found, system / "usr", "usr/")
    for name in ("bin", "dev", "proc", "sys", "tmp", "root", "modules", "guest", "t", "usr"):
        entries[name] = cpio.directory(name)
    for link in ("lib", "lib64"):
        entries[link] = cpio.symlink(link, f"usr/{link}")
    for name, entry in found.items():
        if _wanted(name):
            for parent in reversed(Path(name).parents):
                if str(parent) != ".":
                    entries.setdefault(str(parent), cpio.directory(str(parent)))
            entries[name] = entry
    busybox = (system / "usr/bin/busybox").read_bytes()
    entries["bin/busybox"] = cpio.file("bin/busybox", busybox, 0o755)
    for applet in applets(busybox):
        if applet != "busybox":
            entries[f"bin/{applet}"] = cpio.symlink(f"bin/{applet}", "busybox")
    entries["dev/console"] = cpio.character_device("dev/console", 5, 1)
    for module in MODULES:
        for path in host.rglob(f"{module}.ko.xz"):
            name = f"modules/{module}.ko"
            entries[name] = cpio.file(name, lzma.decompress(path.read_bytes()))
    entries["guest/busybox"] = cpio.file("guest/busybox", busybox, 0o755)
    (image,) = (guest / "boot").glob("vmlinuz-*")
    (driver,) = guest.rglob("virtio_blk.ko.xz")
    entries["guest/virtio_blk.ko"] = cpio.file(
        "guest/virtio_blk.ko", lzma.decompress(driver.read_bytes())
    )
    entries["guest/kernel"] = cpio.file("guest/kernel", image.read_bytes())
    (folder / "base.cpio").write_bytes(cpio.write(entries.values()))
    (image,) = (host / "boot").glob("vmlinuz-*")
    shutil.copy(image, folder / "kernel")
    for unpacked in (host, guest):
        shutil.rmtree(unpacked)


def _compile(system: Path, what: Path) -> None:
    """Compile Python sources with the bed's own Python, so that the bed need not."""
    loader = system / "usr/lib64/ld-linux-x86-64.so.2"
    python: list[str | Path] = [loader, "--library-path", system / "usr/lib/x86_64-linux-gnu"]
    environment = {"PYTHONHOME": str(system / "usr"), "PATH": os.environ["PATH"]}
    subprocess.run(
        [*python, system / f"usr/bin/python{PYTHON}", "-m", "compileall", "-q", what,
         "--invalidation-mode", "unchecked-hash", "-x", "/(test|idlelib|lib2to3)/"],
        check=False,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _installed(name: str) -> Path:
    """The file of the Python package or module *name* that runs the tests."""
    found = find_spec(name)
    if found is None or found.origin is None:
        raise OSError(f"no Python package {name}; ./test installs it")
    return Path(found.origin)


def _sources(system: Path, work: Path, run: str) -> bytes:
    """Tandemu, its KVM tests and pytest, as a second archive behind the first."""
    shutil.rmtree(work, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for path in (ROOT / "src/tandemu").iterdir():
        if path.name in LEFT_OUT:
            continue
        target = work / "t/src/tandemu" / path.name
        if path.is_dir():
            shutil.copytree(path, target, ignore=ignore)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    make_virtqueues(str(work / "t/src/tandemu"))  # there is no LLVM in the bed
    for tests in ("tests/kvm", "tests/accel"):
        shutil.copytree(ROOT / tests, work / "t" / tests, ignore=ignore)
    site = work / "t/site"
    for name in PYTHON_PACKAGES:
        source = _installed(name)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, site / name, ignore=ignore)
        else:
            site.mkdir(exist_ok=True)
            shutil.copy(source, site)
    for lexer in (site / "pygments/lexers").iterdir():
        if lexer.name not in ("__init__.py", "_mapping.py", "diff.py", "python.py"):
            lexer.unlink()
    (site / "bed_report.py").write_text(REPORT)
    (work / "t/pytest.ini").write_text(
        "[pytest]\nmarkers =\n    kvm\n    guest\n    unit\n    bench\n"
    )
    _compile(system, work / "t")
    entries: dict[str, cpio.Entry] = {}
    add_tree(entries, work)
    init = INIT.replace("@RUN@", run)
    entries["init"] = cpio.file("init", init.encode(), 0o755)
    return cpio.write(entries.values())


def base() -> Path:
    """The folder of what changes with Debian's packages only: kernel, ``base.cpio``, a Python.

    It is made beside and renamed, since several checkouts of the project share it.
    """
    parts = (_base, _wanted, add_tree, _kernel_packages, _compile)
    recipe = "".join(inspect.getsource(part) for part in parts)
    what = f"{recipe}{PACKAGES}{KERNELS}{MODULES}{_LIBRARIES.pattern}{_UNWANTED.pattern}"
    key = hashlib.sha256(what.encode()).hexdigest()
    beds = cache_folder() / "kvm-bed"
    folder = beds / key[:16]
    if (folder / "kernel").exists():
        return folder
    beds.mkdir(parents=True, exist_ok=True)
    older = sorted(beds.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in older[:-KEPT_BASES]:
        shutil.rmtree(path, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="new-", dir=beds))
    try:
        _base(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    except OSError:
        if not (folder / "kernel").exists():  # else: another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _with_folders(files: Iterable[cpio.Entry]) -> list[cpio.Entry]:
    """*files*, each folder they stand in before them."""
    entries: dict[str, cpio.Entry] = {}
    for entry in files:
        for parent in reversed(Path(entry.path).parents):
            if str(parent) != ".":
                entries.setdefault(str(parent), cpio.directory(str(parent)))
        entries[entry.path] = entry
    return list(entries.values())


def build(where: Path, run: str, more: Iterable[cpio.Entry] = ()) -> tuple[Path, Path]:
    """Kernel and initramfs of the bed, the latter in the folder *where*.

    The bed runs the shell command *run*, in the folder with Tandemu's sources, and powers
    off. *more* is put in besides.
    """
    folder = base()
    sources = _sources(folder / "system", where / "work", run) + cpio.write(_with_folders(more))
    initrd = where / "initrd"
    with (folder / "base.cpio").open("rb") as first, initrd.open("wb") as target:
        shutil.copyfileobj(first, target)
        target.write(sources)
    return folder / "kernel", initrd


def boot(kernel: Path, initrd: Path, timeout_s: float, echo: bool = False) -> Outcome:
    """Run the bed to its end; its tests' outcomes."""
    command: list[str | Path] = [
        "qemu-system-x86_64", "-M", "q35", "-cpu", "qemu64,+svm,+npt", "-accel", "tcg",
        "-m", "1536", "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot",
        "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    lines: list[str] = []
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\r\n")
            lines.append(text)
            if echo:
                print(text, flush=True)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    outcome = Outcome("\n".join(lines))
    for result, seconds, name in _RESULT.findall(outcome.console):
        function = name.partition("[")[0]
        worst = outcome.tests.get(function, "passed")
        outcome.tests[function] = worst if result == "passed" else result
        outcome.seconds[name] = float(seconds)
    return outcome


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tandemu-bed-") as work:
        where = build(Path(work), " ".join([PYTEST, *(sys.argv[1:] or ["tests/kvm"])]))
        print(where, os.stat(where[1]).st_size)
        boot(*where, 1200, echo=True)
