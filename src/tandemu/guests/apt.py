"""Debian packages of any architecture through the system's apt, beside the system.

A private state folder keeps apt's lists, caches and settings apart from the system's,
so neither root nor a change to the system is needed. apt verifies the archive's signed
index; what it downloads is checked against that index's SHA-256 a second time here.
Left out: resolving dependencies (a guest names each package it takes).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tandemu.guests.errors import GuestError
from tandemu.guests.progress import Progress, Silent
from tandemu.guests.sources import Source, find_source
from tandemu.guests.store import (
    cache_folder,
    clear_disk_errors,
    lock,
    make_folder,
    remove,
    scratch,
    writing,
)

DEFAULT_SUITE = "trixie"
_OTHER_NAMES = {"trixie": ("stable", "oldstable"), "bookworm": ("oldstable", "oldoldstable")}
"""What a suite may be called besides its code name, as releases go by."""
_REFRESH_AFTER_S = 24 * 3600
_SAFE_WORD = re.compile(r"[a-z0-9][a-z0-9+.\-]*")
_PRINTED_URI = re.compile(
    r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})"
)
_PRINTED_LINE = re.compile(r"^'[^']+' (?P<file>\S+_\S+\.deb) \d+ ", re.MULTILINE)
_MAXIMUM_PACKAGE = 4 << 30
_NAMED = 6
"""Of more packages than this only the number is shown."""


@dataclass(frozen=True, slots=True)
class Package:
    """A downloaded package: where it is and what the signed index says of it."""

    name: str
    version: str
    sha256: str
    path: Path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(output: str) -> str:
    """What apt said went wrong, in one line, without our own paths."""
    lines = [
        " ".join(line[2:].split()).rstrip(".")
        for line in output.splitlines()
        if line.startswith(("E:", "W:")) and "Some index files failed" not in line
    ]
    return "; ".join(dict.fromkeys(lines))[:600] or output.strip()[-600:] or "it gave no reason"


class Apt:
    """apt with a state folder of its own for one *suite* and *architecture*."""

    def __init__(
        self,
        architecture: str,
        suite: str = DEFAULT_SUITE,
        *,
        mirror: str = "",
        progress: Progress | None = None,
    ) -> None:
        for word in (architecture, suite):
            if not _SAFE_WORD.fullmatch(word):
                raise GuestError(f"{word!r} names no Debian suite or architecture")
        if shutil.which("apt-get") is None or shutil.which("apt-config") is None:
            raise GuestError(
                "there is no apt on this system, and guest images are assembled from Debian "
                "packages with it. Install apt (most distributions package it) and name a mirror "
                "with --mirror URL, or bring your own files: tandemu run --kernel FILE"
            )
        self._architecture = architecture
        self._suite = suite
        self._names = (suite, *_OTHER_NAMES.get(suite, ()))
        self._source: Source = find_source(suite, mirror)
        self._progress = progress or Silent()
        self._folder = cache_folder() / "apt" / f"{suite}-{architecture}"
        self._configuration = self._folder / "apt.conf"

    # ---- running apt ---------------------------------------------------------------------

    def _source_line(self, name: str) -> str:
        """What sources.list says to fetch the suite under one of its names."""
        keyring = self._source.keyring
        if "BEGIN PGP" in keyring:
            keyring = str(self._folder / "archive-key.asc")
        options = f" [arch={self._architecture}{f' signed-by={keyring}' if keyring else ''}]"
        return f"deb{options} {self._source.uri} {name} main\n"

    def _prepare(self) -> None:
        for name in ("state/lists/partial", "cache/archives/partial", "log"):
            make_folder(self._folder / name)
        (self._folder / "state/status").touch()
        if "BEGIN PGP" in self._source.keyring:
            with writing(self._folder / "archive-key.asc") as file:
                file.write(self._source.keyring.encode())
        sources = self._folder / "sources.list"
        lines = [self._source_line(name) for name in self._names]
        if not sources.exists() or sources.read_text() not in lines:
            self._stamp.unlink(missing_ok=True)  # another mirror: its index has to be fetched
            self._use_name(self._suite)
        with writing(self._configuration) as file:
            file.write(self._settings().encode())

    def _use_name(self, name: str) -> None:
        with writing(self._folder / "sources.list") as file:
            file.write(self._source_line(name).encode())

    def _settings(self) -> str:
        """An apt.conf: what the system says of reaching mirrors (proxies, …), and our folders."""
        dump = subprocess.run(
            ["apt-config", "dump", "--format", "%F \"%v\";%n", "--no-empty"],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip
        kept = [
            line
            for line in dump.splitlines()
            if line.startswith(("Acquire::", "Dir::Bin::", "Dir::Etc::netrc", "Dir::Etc::trusted"))
            and not line.startswith(
                ("Acquire::Languages", "Acquire::IndexTargets", "Acquire::Changelogs")
            )
        ]
        folder = self._folder
        own = {
            "Dir::State": f"{folder}/state",
            "Dir::State::lists": f"{folder}/state/lists",
            "Dir::State::status": f"{folder}/state/status",
            "Dir::Cache": f"{folder}/cache",
            "Dir::Log": f"{folder}/log",
            "Dir::Etc::sourcelist": f"{folder}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self._architecture,
            "APT::Architectures::": self._architecture,
            # Ours are folders of the user's, which apt's sandbox user cannot write.
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
        }
        return "\n".join(kept + [f'{key} "{value}";' for key, value in own.items()]) + "\n"

    def _start(self, arguments: list[str], folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["apt-get", "-q", *arguments],
            cwd=folder,
            env={
                "APT_CONFIG": str(self._configuration),
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C",
                **_proxies(),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Of its own, so that Ctrl-C reaches us alone and we end apt in order.
            process_group=0,
        )

    def _run(self, arguments: list[str], folder: Path, total: int = 0) -> tuple[int, str]:
        """Run apt-get, showing how the files in *folder* grow towards *total* bytes."""
        process = self._start(arguments, folder)
        try:
            text = self._follow(process, folder, total)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
        if process.returncode and os.strerror(errno.ENOSPC) in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return process.returncode, text

    def _follow(self, process: subprocess.Popen[str], folder: Path, total: int) -> str:
        while True:
            try:
                text, _ = process.communicate(timeout=0.1)
            except subprocess.TimeoutExpired:
                if total:
                    self._progress.advance(min(_size(folder), total), total)
                continue
            if total:
                self._progress.advance(total, total)
            return text

    # ---- what is asked of it -------------------------------------------------------------

    @property
    def _stamp(self) -> Path:
        return self._folder / "refreshed"

    def refresh(self, *, force: bool = False) -> None:
        """Fetch the archive's index, unless that was done within a day."""
        self._prepare()
        age_s = time.time() - self._stamp.stat().st_mtime if self._stamp.exists() else float("inf")
        if not force and 0 <= age_s < _REFRESH_AFTER_S:
            return
        self._progress.step(
            f"Reading the package index of Debian {self._suite} for {self._architecture}"
        )
        self._stamp.unlink(missing_ok=True)
        reason = ""
        # A mirror that caches may hold the index of one day and the signature of another;
        # under the suite's other name both are often of one day.
        for name in self._names:
            self._use_name(name)
            code, output = self._run(["update"], self._folder)
            if code == 0 and (name == self._suite or self._code_name() == self._suite):
                self._stamp.touch()
                return
            reason = reason or _reason(output)
        self._use_name(self._suite)
        raise GuestError(
            f"the package index of {self._source.uri} ({self._suite}) could not be fetched: "
            f"{reason}. Check the network, or name another mirror with --mirror URL"
        )

    def _code_name(self) -> str:
        """The code name in the signed release file that apt keeps, empty if it has none."""
        for path in (self._folder / "state/lists").glob("*Release"):
            found = re.search(r"^Codename: (\S+)$", path.read_text(errors="replace"), re.MULTILINE)
            if found:
                return found[1]
        return ""

    def _look_up(self, names: list[str]) -> dict[str, re.Match[str]]:
        """apt's plan for *names*: file, size and checksum of each from the signed index."""
        code, output = self._run(["download", "--print-uris", *names], self._folder)
        if code:
            raise GuestError(
                f"Debian {self._suite} has no such package for {self._architecture}: "
                f"{_reason(output)}"
            )
        found = {match["file"].partition("_")[0]: match for match in _PRINTED_URI.finditer(output)}
        for name in names:
            if name not in found:
                raise GuestError(f"apt gave no signed checksum for the package {name}")
            if int(found[name]["size"]) > _MAXIMUM_PACKAGE:
                raise GuestError(
                    f"the package {name} claims {found[name]['size']} bytes; 4 GiB is the limit"
                )
        return found

    def download(self, names: Iterable[str], folder: Path) -> dict[str, Package]:
        """Fetch packages into *folder*, keeping those that are there and are current."""
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if not _SAFE_WORD.fullmatch(name):
                raise GuestError(f"{name!r} cannot be the name of a Debian package")
        make_folder(self._folder)
        make_folder(folder)
        with lock(self._folder / "lock"):
            self.refresh()
            plan = self._look_up(wanted)
            try:
                return self._download(plan, wanted, folder)
            except GuestError:
                # A mirror drops superseded packages: with a fresh index, once more.
                self.refresh(force=True)
                return self._download(self._look_up(wanted), wanted, folder)

    def with_dependencies(self, names: Iterable[str]) -> list[str]:
        """The packages called *names*, or of patterns such as ``?essential``, and all they need.

        As apt would install them on a system that has none.
        """
        make_folder(self._folder)
        with lock(self._folder / "lock"):
            self.refresh()
            options = ["--print-uris", "--yes", "--no-install-recommends"]
            code, output = self._run(["install", *options, *names], self._folder)
        if code:
            raise GuestError(
                f"apt cannot put the packages of Debian {self._suite} for {self._architecture} "
                f"together: {_reason(output)}"
            )
        return sorted({match["file"].partition("_")[0] for match in _PRINTED_LINE.finditer(output)})

    @property
    def mirror(self) -> str:
        """Where packages are fetched from."""
        return self._source.uri

    def clean(self) -> None:
        """Remove the package index, some 100 MB: it is fetched again when it is needed."""
        with lock(self._folder / "lock"):
            self._stamp.unlink(missing_ok=True)
            remove(self._folder / "state/lists")
            remove(self._folder / "cache")

    def _download(
        self, plan: dict[str, re.Match[str]], wanted: list[str], folder: Path
    ) -> dict[str, Package]:
        missing = [
            name for name in wanted if not _is(folder / plan[name]["file"], plan[name]["sha256"])
        ]
        if missing:
            total = sum(int(plan[name]["size"]) for name in missing)
            room = shutil.disk_usage(folder).free
            if room < total:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            few = len(missing) <= _NAMED
            what = ", ".join(missing) if few else f"{len(missing)} packages"
            self._progress.step(f"Fetching {what} ({total / 1e6:.0f} MB)")
            with scratch(folder, "fetching") as staging:
                code, output = self._run(["download", *missing], staging, total)
                if code:
                    raise GuestError(
                        f"fetching {', '.join(missing)} failed: {_reason(output)}. "
                        "Check the network and the free space, then try again"
                    )
                for name in missing:
                    file = staging / plan[name]["file"]
                    if not _is(file, plan[name]["sha256"]):
                        raise GuestError(
                            f"what came for the package {name} does not have the SHA-256 its "
                            "signed index names; try again, or name another mirror with --mirror"
                        )
                    file.replace(folder / file.name)
        return {
            name: Package(
                name,
                plan[name]["file"].split("_")[1].replace("%3a", ":"),
                plan[name]["sha256"],
                folder / plan[name]["file"],
            )
            for name in wanted
        }


def _proxies() -> dict[str, str]:
    names = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HOME")
    return {key: value for key, value in os.environ.items() if key.lower() in names or key in names}


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # renamed meanwhile
            continue
    return total


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def fetch_packages(
    names: Iterable[str],
    architecture: str,
    suite: str = DEFAULT_SUITE,
    *,
    folder: Path | None = None,
    mirror: str = "",
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Fetch Debian packages, verified, and return where each ``.deb`` is.

    They stay in *folder* (default: the cache) and are not fetched again while current.
    Packages for all architectures are asked for with any *architecture*.
    """
    apt = Apt(architecture, suite, mirror=mirror, progress=progress)
    where = folder or cache_folder() / "packages" / f"{suite}-{architecture}"
    with clear_disk_errors(where):
        return {name: package.path for name, package in apt.download(names, where).items()}
