"""Generated code on disk, so that it is compiled once per host and version.

Entries live in `$XDG_CACHE_HOME/tandemu/native` (default `~/.cache`). An entry's
key covers every source file of the generator packages, the caller's options,
the host's processor and the llvmlite that compiles: whatever could change the
code changes the key. An entry is written to a temporary file and renamed, so
that concurrent processes and interrupted ones leave whole files or none; it
carries a checksum, and one that does not verify, or that belongs to somebody
else, is rebuilt. Of several processes that need the same code one compiles, and
the others wait for it. Where the cache cannot be written, code is kept in memory,
in a folder of `/dev/shm`: for the children of this process, and for later ones until
the host restarts. That costs a notice, nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from tandemu.native.errors import NativeError
from tandemu.native.host import host_description, llvm_description

GENERATOR_PACKAGES = ("bits", "memory", "ir", "isa", "native", "slots", "jit")
"""Packages whose sources decide what code of an engine is generated."""
ENTRY_LIMIT = 64
"""So many entries are kept, newest use first …"""
SIZE_LIMIT = 256 << 20
"""… and so many bytes of them."""

Notice = Callable[[str], None]

_MAGIC = b"TANDEMUE"
_VERSION = 1
_DIGEST_DIGITS = 64
_PREFIX = struct.Struct("<8sIIIQ")  # magic, version, CRC-32, sizes of key and payload
_ENTRY_SUFFIX = ".native"
_MEMO_SUFFIX = ".sources"
_TEMPORARY_SUFFIX = ".part"
_LOCK_SUFFIX = ".lock"
_STALE_TEMPORARY_S = 3600
_SHARED_MEMORY = "/dev/shm"
_told: set[str] = set()
"""What this process has been told already: once is enough, however many entries there are."""
# A file changed so shortly before it was hashed may change again within one
# tick of the file system's clock: its state is not worth remembering yet.
_RACY_NS = 2_000_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def default_directory() -> str | None:
    """Return where the cache belongs, or None if the user has no home directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification has relative paths ignored
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "tandemu", "native") if os.path.isabs(base) else None


def memory_directory(make: bool = True) -> str | None:
    """A directory of this user's in the host's memory; None where there is or can be none.

    Everybody may write beside it: one that somebody else has made under its name is not taken.
    """
    path = os.path.join(_SHARED_MEMORY, f"tandemu-{os.geteuid()}")
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        state = os.lstat(path)
    except OSError:
        return None
    own = stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()
    return path if own and not state.st_mode & 0o077 else None


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=5)


def _tell_once(text: str, notice: Notice | None) -> None:
    if text not in _told:
        _told.add(text)
        (notice or _warn)(text)


class NativeCache:
    """Code kept in *directory*, for the generator sources below *source_root*."""

    def __init__(
        self,
        directory: str | None = None,
        source_root: str | None = None,
        packages: Sequence[str] = GENERATOR_PACKAGES,
        memory: Callable[[bool], str | None] = memory_directory,
    ) -> None:
        self._memory = memory
        self.directory = default_directory() if directory is None else directory
        self.packages = packages
        if source_root is None:
            source_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self.source_root = source_root

    def load_or_build(
        self,
        name: str,
        key_parts: Sequence[str],
        build: Callable[[], bytes],
        notice: Notice | None = None,
    ) -> bytes:
        """Return what `build` makes, from disk if it was made before.

        *name* ("riscv64") begins the entry's file name, *key_parts* are the
        options the code depends on. *notice* is told when something is compiled, here or by a
        process that is waited for, and when the cache cannot be used (without it, the latter is
        a warning).
        What `build` raises passes through, and nothing is stored.
        """
        if not _NAME.fullmatch(name):
            raise NativeError(f"cache entry name {name!r}: must match {_NAME.pattern}")
        key = self.key(key_parts)
        if key is None:
            payload = self._build(name, build, notice)
            _tell_once(
                "native code is not kept for the next start, since there are no sources to "
                "identify it by: install Tandemu as it comes",
                notice,
            )
            return payload
        file_name = f"{name}-{zlib.crc32(key):08x}{_ENTRY_SUFFIX}"
        kept = self._read(file_name, key)
        if kept is not None:
            return kept
        with self._lock(name, notice) as waited:
            kept = self._read(file_name, key) if waited else None
            if kept is not None:
                return kept
            payload = self._build(name, build, notice)
            problem = self._keep(file_name, key, payload)
        if problem:
            _tell_once(problem, notice)
        return payload

    @staticmethod
    def _build(name: str, build: Callable[[], bytes], notice: Notice | None) -> bytes:
        if notice is not None:
            notice(f"compiling native code for {name} (one-off)")
        return build()

    def _read(self, file_name: str, key: bytes) -> bytes | None:
        """The entry's payload, from disk or from memory."""
        payload = None
        if self.directory is not None:
            payload = _read_entry(os.path.join(self.directory, file_name), key)
        if payload is None and (folder := self._memory(False)) is not None:
            payload = _read_entry(os.path.join(folder, file_name), key)
        return payload

    @contextlib.contextmanager
    def _lock(self, name: str, notice: Notice | None) -> Iterator[bool]:
        """Let one process at a time build what is called *name*; whether this one had to wait.

        Its file stays. Where there can be none, everybody builds for himself.
        """
        descriptor = -1
        if self.directory is not None:
            descriptor = _open_lock(self.directory, name)
        if descriptor < 0 and (folder := self._memory(True)) is not None:
            descriptor = _open_lock(folder, name)
        if descriptor < 0:
            yield False
            return
        waited = False
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = True
                if notice is not None:
                    notice(f"another process compiles native code for {name}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
            yield waited
        finally:
            os.close(descriptor)

    def _keep(self, file_name: str, key: bytes, payload: bytes) -> str:
        """Write an entry to disk, or else into memory; what to say of it, or nothing."""
        mend = "make it writable, or set XDG_CACHE_HOME to a directory of yours with free space"
        if self.directory is None:
            problem = "there is no home directory to keep native code in"
            mend = "set XDG_CACHE_HOME to a directory of yours"
        else:
            problem = self._store(os.path.join(self.directory, file_name), key, payload)
        if not problem:
            return ""
        folder = self._memory(True)
        if folder is None or self._store(os.path.join(folder, file_name), key, payload):
            return f"{problem}, and native code is compiled at each start: {mend}"
        return (
            f"{problem}, and native code is kept in memory until the host restarts (in {folder}): "
            f"{mend}"
        )

    def key(self, key_parts: Sequence[str]) -> bytes | None:
        """Return what identifies code made with *key_parts*; None without sources on disk.

        An entry holds all of it: the file's name is only where to look.
        """
        sources = self._source_digest()
        if sources is None:
            return None
        parts = (sources, host_description(), llvm_description(), *key_parts)
        return repr(parts).encode("utf-8", "surrogateescape")

    def _source_digest(self) -> str | None:
        """Return the SHA-256 of the generator's sources.

        It is remembered with the state (inode, size, times) of all files, so
        that a start reads no sources: the change time cannot be set back.
        """
        now = time.time_ns()
        files = sorted(source_files(self.source_root, self.packages))
        if not files:
            return None
        newest = max(max(state.st_mtime_ns, state.st_ctime_ns) for _, state in files)
        lines = [
            f"{path} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}" for path, s in files
        ]
        state = "\n".join([self.source_root, *self.packages, *lines]).encode(
            "utf-8", "surrogateescape"
        )
        memo = None
        if self.directory is not None:
            root = "\0".join([self.source_root, *self.packages]).encode("utf-8", "surrogateescape")
            memo = os.path.join(self.directory, f"{zlib.crc32(root):08x}{_MEMO_SUFFIX}")
            remembered = _read_memo(memo)
            if remembered is not None and remembered[_DIGEST_DIGITS:] == state:
                return remembered[:_DIGEST_DIGITS].decode("ascii", "replace")
        whole = hashlib.sha256()
        for path, _ in files:
            try:
                with open(os.path.join(self.source_root, path), "rb") as file:
                    data = file.read()
            except OSError:
                return None
            whole.update(f"{path}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
        digest = whole.hexdigest()
        if memo is not None and newest < now - _RACY_NS:
            with contextlib.suppress(OSError):
                write_atomically(memo, digest.encode(), state)
        return digest

    def _store(self, path: str, key: bytes, payload: bytes) -> str:
        """Write an entry; return what went wrong, or nothing."""
        checksum = zlib.crc32(payload)
        prefix = _PREFIX.pack(_MAGIC, _VERSION, checksum, len(key), len(payload))
        try:
            write_atomically(path, prefix, key, payload)
        except OSError as error:
            folder = os.path.dirname(path)
            return f"{folder} cannot be written ({error.strerror or error})"
        self._prune(os.path.dirname(path), keep=os.path.basename(path))
        return ""

    def _prune(self, folder: str, keep: str) -> None:
        """Remove the entries used longest ago beyond the limits, and abandoned temporary files."""
        entries: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(folder) as scan:
            for item in scan:
                with contextlib.suppress(OSError):
                    state = item.stat(follow_symlinks=False)
                    if item.name.endswith(_ENTRY_SUFFIX) and item.name != keep:
                        entries.append((state.st_mtime, state.st_size, item.path))
                    elif (
                        item.name.endswith(_TEMPORARY_SUFFIX)
                        and state.st_mtime < time.time() - _STALE_TEMPORARY_S
                    ):
                        os.unlink(item.path)
        total = 0
        for count, (_, size, path) in enumerate(sorted(entries, reverse=True), 1):
            total += size
            if count >= ENTRY_LIMIT or total > SIZE_LIMIT:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def _open_lock(folder: str, name: str) -> int:
    """The lock file of what is called *name*; negative where there can be none."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, f"{name}{_LOCK_SUFFIX}")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1


def load_or_build(
    name: str,
    key_parts: Sequence[str],
    build: Callable[[], bytes],
    notice: Notice | None = None,
    packages: Sequence[str] = GENERATOR_PACKAGES,
) -> bytes:
    """`NativeCache.load_or_build` on the user's cache; *packages* decide what is generated."""
    return NativeCache(packages=packages).load_or_build(name, key_parts, build, notice)


def source_files(root: str, packages: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path below *root* and state of every Python file of *packages*."""
    pending = list(packages)
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as scan:
                for item in scan:
                    path = f"{folder}/{item.name}"
                    if item.is_dir():
                        if item.name != "__pycache__":
                            pending.append(path)
                    elif item.name.endswith(".py"):
                        yield path, item.stat()
        except OSError:
            continue


def open_own(path: str) -> BinaryIO:
    """Open a file that surely this user wrote; OSError otherwise.

    What comes out of the cache is executed: a file that others own or may
    write to is not trusted.
    """
    file = open(path, "rb", buffering=0)  # noqa: SIM115 (the caller closes it)
    state = os.fstat(file.fileno())
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        file.close()
        raise PermissionError(f"{path} belongs to others")
    return file


def _read_memo(path: str) -> bytes | None:
    try:
        with open_own(path) as file:
            return file.read()
    except OSError:
        return None


def _read_entry(path: str, key: bytes) -> bytes | None:
    """Return an entry's payload; None, and the entry removed, if it does not verify."""
    with contextlib.suppress(OSError, struct.error), open_own(path) as file:
        magic, version, checksum, key_size, size = _PREFIX.unpack(file.read(_PREFIX.size))
        if (
            (magic, version, key_size) == (_MAGIC, _VERSION, len(key))
            and file.read(key_size) == key
            and len(payload := file.read()) == size
            and zlib.crc32(payload) == checksum
        ):
            with contextlib.suppress(OSError):
                os.utime(path)  # pruning goes by last use
            return payload
    with contextlib.suppress(OSError):
        os.unlink(path)
    return None


def write_atomically(path: str, *parts: bytes) -> None:
    """Write *parts* to *path* so that a reader sees the old file or the whole new one."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}-{time.monotonic_ns():x}{_TEMPORARY_SUFFIX}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
