"""``tandemu doctor``: what this host can do, what is missing, how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tandemu.cli.version import VERSION
from tandemu.guests import GuestError, cache_folder, list_images
from tandemu.guests.sources import find_source
from tandemu.guests.store import folder_size
from tandemu.kvm import probe
from tandemu.kvm.abi import Capability
from tandemu.memory import Ram
from tandemu.native import ExecutableMemory, NativeError

_SUPPORTED_MACHINES = ("x86_64", "amd64")
_OLDEST_PYTHON = (3, 11)
_CODE_BYTES = 64 << 20
_ROOM_BYTES = 300 << 20


class Verdict(Enum):
    """What a finding means; the value is shown."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "BAD"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: *subject*, what was found, and for a bad one the mend in *text*."""

    subject: str
    verdict: Verdict
    text: str


def _good(subject: str, text: str) -> Finding:
    return Finding(subject, Verdict.GOOD, text)


def _note(subject: str, text: str) -> Finding:
    return Finding(subject, Verdict.NOTE, text)


def _bad(subject: str, text: str) -> Finding:
    return Finding(subject, Verdict.BAD, text)


def _host() -> Finding:
    name = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if platform.system() == "Linux" and platform.machine().lower() in _SUPPORTED_MACHINES:
        return _good("host", f"{name}, {len(os.sched_getaffinity(0))} CPU(s)")
    return _bad(
        "host", f"{name}: the translator runs on Linux on x86-64; here only the slow evaluator does"
    )


def _python() -> Finding:
    name = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info >= _OLDEST_PYTHON:
        return _good("Python", name)
    return _bad("Python", f"{name} is too old: install Python 3.11 or newer")


def _llvmlite() -> Finding:
    try:
        import llvmlite
        from llvmlite import binding

        version = ".".join(str(part) for part in binding.llvm_version_info)
    except (ImportError, OSError, RuntimeError) as error:
        return _bad("llvmlite", f"cannot be loaded ({error}): run 'pip install llvmlite'")
    return _good("llvmlite", f"{llvmlite.__version__}, LLVM {version}")


def _executable_memory() -> Finding:
    try:
        with ExecutableMemory(_CODE_BYTES, low=True) as memory:
            where = memory.address
    except NativeError as error:
        return _bad("executable memory", str(error))
    return _good("executable memory", f"{_CODE_BYTES >> 20} MiB below 2 GiB, at {where:#x}")


def _guest_memory() -> Finding:
    try:
        Ram(1 << 30).close()
    except (OSError, AttributeError) as error:
        return _bad("guest memory", f"memfd_create fails ({error}): a newer Linux is needed")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return _good("guest memory", f"memfd works, {free} MiB of the host's memory are free")


_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


def _huge_pages(setting: Path = _HUGE_PAGES) -> Finding:
    """Whether the host gives huge pages to shared memory, which guest RAM is."""
    subject = "huge pages"
    try:
        chosen = setting.read_text(encoding="ascii").partition("[")[2].partition("]")[0]
    except OSError:
        return _note(subject, "this kernel has none for guest memory; machines do without them")
    if chosen in ("never", "deny"):
        return _note(
            subject,
            f"{chosen!r} for guest memory: a KVM guest starts faster with"
            f" 'echo advise > {setting}', as root",
        )
    return _good(subject, f"{chosen!r} for guest memory")


_CACHED = (("guests", "guests"), ("native", "native code"), ("regions", "regions"),
           ("apt", "package index"), ("packages", "packages"))  # fmt: skip


def _cache() -> Finding:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except (OSError, GuestError) as error:
        return _bad(
            "cache", f"{error}: make it writable, or set XDG_CACHE_HOME to a folder that is"
        )
    free = shutil.disk_usage(folder).free
    parts = [(title, folder_size(folder / name)) for name, title in _CACHED]
    listed = ", ".join(f"{title} {size / 1e6:.0f}" for title, size in parts if size)
    used = f"{folder_size(folder) / 1e6:.0f} MB used" + (f" ({listed})" if listed else "")
    text = f"{folder}, {used}, {free / 1e9:.1f} GB free"
    if free < _ROOM_BYTES:
        return _bad("cache", f"{text}: a guest needs 0.3 GB; free space or set XDG_CACHE_HOME")
    return _good("cache", text)


def _kvm() -> Finding:
    found = probe()
    if not found.works:
        return _note("KVM", f"{found.problem} (guests that the translator has do without it)")
    if not found.hardware:
        return _note("KVM", f"{found.summary}; a stock kernel may meet what it lacks")
    return _good("KVM", found.summary)


def _kvm_capabilities() -> Finding:
    found = probe()
    if not found.api_version:
        return _note("KVM capabilities", "none: see KVM")
    missing = [one.name for one in Capability if one.name not in found.capabilities]
    text = f"{len(found.capabilities)} of the {len(Capability)} that are asked for"
    return _good("KVM capabilities", f"{text}; not {', '.join(missing)}" if missing else text)


def _apt() -> Finding:
    if shutil.which("apt-get") is None:
        return _note(
            "apt", "there is none: guest images cannot be fetched, bring your own --kernel"
        )
    try:
        source = find_source("trixie")
    except GuestError as error:
        return _note("apt", str(error))
    keyring = "an embedded key" if "BEGIN PGP" in source.keyring else source.keyring
    text = f"guests come from {source.uri}, verified with {keyring or 'the keys apt trusts'}"
    return _good("apt", text) if keyring else _note("apt", text)


def _guests() -> Finding:
    try:
        here = [recipe.name for recipe, image in list_images() if image is not None]
    except GuestError as error:
        return _bad("guests", str(error))
    if here:
        return _good("guests", f"here: {', '.join(here)}")
    return _note("guests", "none yet; 'tandemu run' fetches the default one (54 MB)")


def _terminal() -> Finding:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _note("terminal", "input or output is none; a guest's console streams then")
    size = os.get_terminal_size()
    return _good("terminal", f"{os.environ.get('TERM', '?')}, {size.columns} x {size.lines}")


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _host,
    _python,
    _llvmlite,
    _executable_memory,
    _guest_memory,
    _huge_pages,
    _cache,
    _guests,
    _apt,
    _terminal,
    _kvm,
    _kvm_capabilities,
)


def findings() -> Iterator[Finding]:
    """Look at one thing after the other."""
    for check in _CHECKS:
        try:
            yield check()
        except Exception as error:
            # A check that breaks is a finding; the others are still wanted.
            yield _bad(check.__name__.strip("_"), f"could not be looked at: {error}")


def doctor() -> int:
    """Print the findings; return 0 if machines can run here, else 1."""
    print(f"tandemu {VERSION}")
    bad = 0
    for finding in findings():
        print(f"{finding.verdict.value:>4}  {finding.subject:<17}  {finding.text}")
        bad += finding.verdict is Verdict.BAD
    print("Machines run here." if not bad else f"{bad} thing(s) to mend before machines run here.")
    return 1 if bad else 0
