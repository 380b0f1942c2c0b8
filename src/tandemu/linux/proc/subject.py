"""Whom a file of /proc/PID tells of: the process itself, or another one that runs a program here.

Of another process everything is read from the host's /proc: where its window is
(`identity.traces`), what is mapped there. That a page may be executed the host does not know;
it is marked as not to be dumped (`dd` among VmFlags of smaps) to say so.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tandemu.linux import identity
from tandemu.linux.mappings import MAP_SHARED, MAP_TYPE, PROT_EXEC, PROT_READ, PROT_WRITE, Mapping

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

_LETTERS = ((0, "r", PROT_READ), (1, "w", PROT_WRITE), (2, "x", PROT_EXEC))
_AT_ENTRY = 9


class Area(NamedTuple):
    """One line of maps, addresses of the program, and what smaps has below it."""

    start: int
    end: int
    protection: int
    is_shared: bool
    offset: int
    device: str
    inode: str
    name: str
    details: tuple[str, ...]

    def number(self, key: str) -> int:
        """The value in kB of a line of `details`."""
        for line in self.details:
            if line.startswith(key):
                return int(line.split()[1])
        return 0

    def line(self) -> str:
        """The line of maps."""
        letters = "".join(x if self.protection & bit else "-" for _, x, bit in _LETTERS)
        place = f"{self.start:08x}-{self.end:08x} {letters}{'s' if self.is_shared else 'p'}"
        line = f"{place} {self.offset:08x} {self.device} {self.inode}"
        return f"{line} ".ljust(73) + f"{self.name}\n" if self.name else f"{line} \n"


class Subject:
    """A process, as the host's number of it says."""

    def __init__(self, kernel: Kernel, pid: int, traces: identity.Traces | None) -> None:
        self.kernel = kernel
        self.pid = pid
        self.traces = traces
        """None of the process at hand."""

    @property
    def base(self) -> int:
        """Host address of its address 0."""
        return self.kernel.memory.base if self.traces is None else self.traces.base

    @property
    def size(self) -> int:
        """Bytes of its window."""
        return self.kernel.memory.limit if self.traces is None else self.traces.size

    @property
    def stack(self) -> int:
        """Where its stack began."""
        return self.kernel.image.stack if self.traces is None else self.traces.stack

    @property
    def heap(self) -> int:
        """Where its heap begins."""
        return self.kernel.memory.break_start if self.traces is None else self.traces.heap

    def read(self, name: str) -> bytes:
        """What the host says in /proc/PID/*name*."""
        with self.kernel.limits.room(), open(f"/proc/{self.pid}/{name}", "rb") as file:
            return file.read()

    def threads(self) -> list[int]:
        """Its threads that run its program."""
        if self.traces is None:
            return sorted(task.tid for task in self.kernel.tasks)
        found = []
        for name in os.listdir(f"/proc/{self.pid}/task"):
            try:
                if self.read(f"task/{name}/comm").rstrip(b"\n") != identity.OUR_THREAD:
                    found.append(int(name))
            except OSError:
                continue
        return sorted(found)

    def areas(self, *, details: bool = False) -> list[Area]:
        """What is mapped, lowest first; with what smaps says, if *details*."""
        with_flags = details or self.traces is not None
        text = self.read("smaps" if with_flags else "maps").decode("utf-8", "surrogateescape")
        found = [area for raw in _blocks(text, self.base, self.size) for area in self._told(raw)]
        return _joined(found) if not details else found

    def mapped_from(self, address: int, size: int) -> int:
        """How many of *size* bytes from *address* on are mapped without a gap."""
        end, place = address + size, address
        if self.traces is None:
            for mapping in self.kernel.memory.pieces(address, end):
                if mapping.start > place:
                    break
                place = mapping.end
            return place - address
        text = self.read("maps").decode("utf-8", "surrogateescape")
        for area in _blocks(text, self.base, self.size):
            if area.end > place and (area.protection or area.inode != "0"):
                if area.start > place or place >= end:
                    break
                place = min(area.end, end)
        return place - address

    def _told(self, raw: Area) -> Iterator[Area]:
        """What the program has mapped where the host has *raw*."""
        if self.traces is not None:
            if raw.protection or raw.inode != "0":
                flags = next((one for one in raw.details if one.startswith("VmFlags:")), "")
                more = PROT_EXEC if " dd" in flags else 0
                yield raw._replace(protection=raw.protection | more, name=self._name_of(raw))
            return
        for mapping in self.kernel.memory.pieces(raw.start, raw.end):
            start, end = mapping.start, mapping.end
            offset = raw.offset + start - raw.start if raw.inode != "0" else 0
            name = raw.name if raw.inode != "0" else _own_name(mapping)
            yield raw._replace(
                start=start, end=end, protection=mapping.protection, offset=offset, name=name,
                is_shared=mapping.flags & MAP_TYPE == MAP_SHARED,
            )  # fmt: skip

    def _name_of(self, raw: Area) -> str:
        if raw.inode != "0":
            return raw.name
        if raw.start <= self.stack < raw.end:
            return "[stack]"
        return "[heap]" if raw.start == self.heap else ""

    def program_area(self, areas: list[Area]) -> Area | None:
        """That of the program's own file where it begins to run."""
        auxiliary = self.kernel.image.auxiliary if self.traces is None else self.read("auxv")
        pairs = struct.iter_unpack("<QQ", auxiliary[: len(auxiliary) // 16 * 16])
        entry = next((value for kind, value in pairs if kind == _AT_ENTRY), 0)
        return next((one for one in areas if one.start <= entry < one.end), None)


def _own_name(mapping: Mapping) -> str:
    return mapping.name if mapping.name[:1] == "[" else ""


def _blocks(text: str, base: int, size: int) -> Iterator[Area]:
    """The areas of a host's maps or smaps that lie in the window; addresses are its own then."""
    head: list[str] = []
    details: list[str] = []
    for line in text.split("\n"):
        first = line.split(" ", 1)[0]
        if first and not first.endswith(":"):
            if head:
                yield from _area(head, details, base, size)
            head, details = line.split(None, 5), []
        elif line:
            details.append(line)
    if head:
        yield from _area(head, details, base, size)


def _area(head: list[str], details: list[str], base: int, size: int) -> Iterator[Area]:
    start, end = (int(word, 16) - base for word in head[0].split("-"))
    if start < 0 or end > size:
        return
    protection = sum(bit for place, letter, bit in _LETTERS if head[1][place] == letter)
    name = head[5] if len(head) > 5 else ""
    yield Area(
        start, end, protection, head[1][3] == "s", int(head[2], 16), head[3], head[4], name,
        tuple(details),
    )  # fmt: skip


def _joined(areas: list[Area]) -> list[Area]:
    """Neighbours that are one to a kernel: it cuts areas for reasons of ours, too."""
    found: list[Area] = []
    for area in areas:
        before = found[-1] if found else None
        if (
            before is not None
            and before.end == area.start
            and before[2:4] == area[2:4]
            and before[5:8] == area[5:8]
            and (area.inode == "0" or before.offset + before.end - before.start == area.offset)
        ):
            found[-1] = before._replace(end=area.end)
        else:
            found.append(area)
    return found


def find(kernel: Kernel, pid: int) -> Subject | None:
    """The process with the number *pid*, or with such a thread; None if none of ours has it."""
    if pid == os.getpid() or any(task.tid == pid for task in kernel.tasks):
        return Subject(kernel, os.getpid(), None)
    try:
        with kernel.limits.room(), open(f"/proc/{pid}/stat", "rb") as file:
            traces = identity.traces(file.read(), kernel.memory.limit)
    except OSError:
        return None
    return None if traces is None else Subject(kernel, pid, traces)
