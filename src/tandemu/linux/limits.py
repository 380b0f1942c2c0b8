"""Resource limits of a program (getrlimit(2)), which runs in one process with the translator.

Most limits are the host's own. Two kinds are not:

- RLIMIT_AS and RLIMIT_DATA would bind the translator, whose memory is larger than the program's.
  They are kept here and looked at where the program maps memory (`tandemu.linux.mappings`).
- RLIMIT_NOFILE, RLIMIT_FSIZE and RLIMIT_NPROC bind by the host's soft limit. The host's hard limit
  stays where it is, so that Tandemu gets a descriptor, a file or a thread of its own even when
  the program may have none (`Limits.room`); the program's hard limit is kept here.

A program for the host that is executed gets what the program would have (`Limits.give_back`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import resource
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.errors import LinuxError
from tandemu.linux.growth import limit_stack
from tandemu.linux.host import NUMBERS
from tandemu.linux.mappings import UNLIMITED

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory

FSIZE, DATA, STACK, NPROC, NOFILE, MEMLOCK, ADDRESS_SPACE = 1, 2, 3, 6, 7, 8, 9
KINDS = 16
NAMES = (
    *(("Max cpu time", "seconds"), ("Max file size", "bytes"), ("Max data size", "bytes")),
    *(("Max stack size", "bytes"), ("Max core file size", "bytes"), ("Max resident set", "bytes")),
    *(("Max processes", "processes"), ("Max open files", "files")),
    *(("Max locked memory", "bytes"), ("Max address space", "bytes"), ("Max file locks", "locks")),
    *(("Max pending signals", "signals"), ("Max msgqueue size", "bytes")),
    *(("Max nice priority", ""), ("Max realtime priority", ""), ("Max realtime timeout", "us")),
)
"""Names and units in /proc/PID/limits, by number."""
_KEPT = frozenset((DATA, ADDRESS_SPACE))
_HARD_KEPT = frozenset((FSIZE, NPROC, NOFILE))
_HOSTS_STACK = 1 << 20
_LEAST_DATA = 256 << 20
"""What Python, the engine and its caches of code take."""
_PAIR = struct.Struct("<QQ")

Pair = tuple[int, int]


def host_limit(kind: int) -> Pair:
    """The host's soft and hard limit of this process."""
    buffer = ctypes.create_string_buffer(_PAIR.size)
    host.quick(NUMBERS["prlimit64"], 0, kind, 0, ctypes.addressof(buffer))
    soft, hard = _PAIR.unpack(buffer.raw)
    return soft, hard


def set_host_limit(kind: int, soft: int, hard: int) -> int:
    """Set them; a negative error number if the host refuses."""
    buffer = ctypes.create_string_buffer(_PAIR.pack(soft, hard), _PAIR.size)
    return host.quick(NUMBERS["prlimit64"], 0, kind, ctypes.addressof(buffer), 0)


def take_over() -> dict[int, Pair]:
    """Free this process of the limits that are kept for the program; they are returned.

    Before the engine reserves its memory. Where the host does not let go, the engine says so.
    """
    found = {}
    for kind in _KEPT:
        soft, hard = found[kind] = host_limit(kind)
        if soft != UNLIMITED and set_host_limit(kind, UNLIMITED, UNLIMITED) < 0:
            set_host_limit(kind, hard, hard)
            if kind == DATA and hard < _LEAST_DATA:
                raise LinuxError(
                    f"the hard limit on data is {hard >> 20} MiB, and the translator itself needs"
                    f" {_LEAST_DATA >> 20}: raise it (ulimit -d unlimited)",
                    errno.ENOMEM,
                )
    return found


def give_back(found: Mapping[int, Pair]) -> None:
    """Set what `take_over` found: the program is another process, and this one goes on."""
    for kind, (soft, hard) in found.items():
        set_host_limit(kind, soft, hard)


class Limits:
    """The limits of one process as the program knows them; *inherited* is of `take_over`."""

    def __init__(self, memory: Memory, inherited: Mapping[int, Pair]) -> None:
        self._memory = memory
        self._kept = {kind: inherited.get(kind, (UNLIMITED, UNLIMITED)) for kind in _KEPT}
        self._hard = {kind: host_limit(kind)[1] for kind in _HARD_KEPT}
        self._host_stack_is_grown = False
        self.apply()

    def apply(self) -> None:
        """Have the memory's map obey."""
        memory = self._memory
        memory.address_space_limit = self._kept[ADDRESS_SPACE][0]
        memory.data_limit = self._kept[DATA][0]
        memory.stack_limit = host_limit(STACK)[0]

    def get(self, kind: int) -> Pair:
        """The soft and the hard limit; *kind* is a number below `KINDS`."""
        if kind in _KEPT:
            return self._kept[kind]
        soft, hard = host_limit(kind)
        return soft, min(hard, self._hard.get(kind, hard))

    def set(self, kind: int, soft: int, hard: int) -> int:
        """setrlimit(2) for the process itself, with the checks of kernel/sys.c."""
        if kind not in _KEPT and kind not in _HARD_KEPT:
            if kind == STACK:
                self._grow_hosts_stack()
            result = set_host_limit(kind, soft, hard)
            if kind == STACK and result >= 0:
                limit_stack(self._memory, soft)
            return result
        if soft > hard:
            return -errno.EINVAL
        if hard > self.get(kind)[1] and not host.has_capability(host.CAP_SYS_RESOURCE):
            return -errno.EPERM
        if kind in _KEPT:
            self._kept[kind] = soft, hard
            self.apply()
            return 0
        before = host_limit(kind)[1]
        if hard > before:
            before = hard
        elif kind == NOFILE and hard > _most_files():
            return -errno.EPERM
        result = set_host_limit(kind, soft, before)
        if result >= 0:
            self._hard[kind] = hard
        return result

    def _grow_hosts_stack(self) -> None:
        """The host's own stack gets what it needs before its limit is lowered."""
        if self._host_stack_is_grown:
            return
        self._host_stack_is_grown = True
        if host_limit(STACK)[0] <= _HOSTS_STACK:
            return
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.rstrip().endswith("[stack]"):
                    start, end = (int(word, 16) for word in line.split(" ", 1)[0].split("-"))
                    if end - start < _HOSTS_STACK:
                        # The kernel lengthens a stack for whoever reads below it.
                        ctypes.string_at(end - _HOSTS_STACK, 1)

    def give_back(self) -> None:
        """Have the host apply them all: a program of the host's is about to be executed."""
        for kind in _HARD_KEPT:
            set_host_limit(kind, *self.get(kind))
        for kind, (soft, hard) in self._kept.items():
            if soft != UNLIMITED or hard != UNLIMITED:
                set_host_limit(kind, soft, hard)

    def take_back(self) -> None:
        """Undo `give_back`, as far as the host lets: the execution has failed."""
        take_over()

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """While it lasts, Tandemu may open, write and start what the program may not."""
        before = {kind: host_limit(kind) for kind in _HARD_KEPT}
        for kind, (soft, hard) in before.items():
            if soft != hard:
                set_host_limit(kind, hard, hard)
        try:
            yield
        finally:
            for kind, (soft, hard) in before.items():
                if soft != hard:
                    set_host_limit(kind, soft, hard)

    def text(self) -> str:
        """What /proc/self/limits says (fs/proc/base.c)."""
        lines = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}\n"]
        for kind, (name, unit) in enumerate(NAMES):
            soft, hard = (
                "unlimited" if value == UNLIMITED else str(value) for value in self.get(kind)
            )
            lines.append(f"{name:<25} {soft:<20} {hard:<20} {unit and unit.ljust(10)}\n")
        return "".join(lines)


def _most_files() -> int:
    """fs.nr_open: no hard limit on descriptors is above it."""
    try:
        with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
