"""vfork(2): the child's memory is the parent's until it ends or starts a program.

The host's kernel gives the child a copy of everything, this translator included, since another
program can be loaded into it then. What the child has changed meanwhile the parent takes over,
before either goes on: mappings, and the pages that are the child's alone (bit 56 of
/proc/PID/pagemap), where they differ. While other threads of the parent run, they write, too; a
second copy, of the child's as it began, tells then which bytes are the child's.

Both sides talk through a page that they share: a word that says how far the child is. It lies in
the child's robust list (get_robust_list(2)), so the kernel itself says when the child is gone,
by whatever death or another program of the host.

Left out: what the child has written when a signal ends it that the host's kernel acts on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import struct
from typing import TYPE_CHECKING

from tandemu.linux import clone, host
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.mappings import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_TYPE,
    PROT_EXEC,
    PROT_WRITE,
    Mapping,
)
from tandemu.linux.memory import Memory

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

_FUTEX, _WAIT, _WAKE = NUMBERS["futex"], 0, 1
_WAITERS, _OWNER_DIED, _TID = 0x80000000, 0x40000000, 0x3FFFFFFF
_NEWS, _DONE = _TID, _TID - 1
"""No thread has such a number."""
_PATIENCE_NS = 100_000_000
_PRESENT, _SWAPPED, _ALONE = 1 << 63, 1 << 62, 1 << 56
_STATE, _ACKNOWLEDGED, _PLACE, _SIZE, _HEAD = 0, 4, 8, 16, 64
_REPORT = struct.Struct("<3Q")
_MAPPING = struct.Struct("<3QiiiH")
_CHUNK_PAGES = 1 << 14
_WALL = 0x40000000
_DEAD_NOW = _WALL | 0x01000000 | 4 | 1
"""__WALL, WNOWAIT, WEXITED and WNOHANG."""


class Rendezvous:
    """The page that parent and child share."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))

    def word(self, offset: int) -> int:
        """A word of 32 bits."""
        return ctypes.c_uint32.from_address(self.address + offset).value

    def set(self, offset: int, value: int) -> None:
        """Change it, and wake who waits for that."""
        ctypes.c_uint32.from_address(self.address + offset).value = value
        host.quick(_FUTEX, self.address + offset, _WAKE, 1 << 30)

    def wait(self, offset: int, value: int) -> None:
        """Wait while the word has *value*, but not for ever."""
        time = (ctypes.c_int64 * 2)(0, _PATIENCE_NS)
        host.call(_FUTEX, self.address + offset, _WAIT, value, ctypes.addressof(time))

    def set_report(self, place: int, size: int) -> None:
        """Say where in the child's memory its report is."""
        ctypes.c_uint64.from_address(self.address + _PLACE).value = place
        ctypes.c_uint64.from_address(self.address + _SIZE).value = size

    def report(self) -> tuple[int, int]:
        """What `set_report` said."""
        place = ctypes.c_uint64.from_address(self.address + _PLACE).value
        return place, ctypes.c_uint64.from_address(self.address + _SIZE).value


# The child's side -----------------------------------------------------------------------


class Spawn:
    """A child of vfork, before it ends or starts a program."""

    def __init__(
        self, kernel: Kernel, rendezvous: Rendezvous, *, is_copy: bool, others_run: bool
    ) -> None:
        self._is_copy = is_copy
        """What it does to its memory is its own: CLONE_VFORK without CLONE_VM."""
        self._memory = kernel.memory
        self._rendezvous = rendezvous
        self._parent = self._reference = os.getppid()
        self._others_run = others_run
        self._begin()
        # struct robust_list_head: no list, but one lock that is being taken.
        head = rendezvous.address + _HEAD
        words = (ctypes.c_uint64 * 3).from_address(head)
        words[0], words[1], words[2] = head, _STATE, rendezvous.address
        host.quick(NUMBERS["set_robust_list"], head, 24)
        rendezvous.set(_STATE, os.getpid() | _WAITERS)

    def _begin(self) -> None:
        """Remember how things are now."""
        self._before = [_described(one) for one in self._memory.mappings]
        if self._others_run and not self._is_copy:
            self._reference = clone.new_process(clone.Wish(signal=0))
            if self._reference == 0:
                _stay()

    def go_on(self) -> None:
        """After what was given back was not the last."""
        self._begin()

    def give_back(self, *, done: bool) -> None:
        """Have the parent take what was changed; *done*: it may go on then."""
        meeting = self._rendezvous
        if not self._is_copy:
            report = self._report()
            kept = ctypes.create_string_buffer(report, len(report))
            meeting.set_report(ctypes.addressof(kept), len(report))
            meeting.set(_ACKNOWLEDGED, 0)
            meeting.set(_STATE, _NEWS)
            while not meeting.word(_ACKNOWLEDGED) and os.getppid() == self._parent:
                meeting.wait(_ACKNOWLEDGED, 0)
            self._forget_reference()
        if done:
            meeting.set(_STATE, _DONE)
            host.quick(NUMBERS["set_robust_list"], 0, 24)

    def _forget_reference(self) -> None:
        if self._reference != self._parent:
            with contextlib.suppress(OSError):
                os.kill(self._reference, signal.SIGKILL)
                os.waitpid(self._reference, _WALL)
            self._reference = self._parent

    def _report(self) -> bytes:
        """Mappings if they are others now, then runs of bytes that are."""
        memory = self._memory
        now = [_described(one) for one in memory.mappings]
        mappings = b"".join(now) if now != self._before else b""
        runs = []
        for mapping in memory.mappings:
            if mapping.flags & MAP_TYPE != MAP_PRIVATE or not mapping.protection:
                continue
            for page in _pages_alone(memory, mapping.start, mapping.end):
                runs.append(self._changes(page))
        changed = b"".join(runs)
        head = _REPORT.pack(memory.break_end, len(mappings), len(changed))
        return head + mappings + changed

    def _changes(self, page: int) -> bytes:
        """The runs of bytes in *page* that are not as they were: address, size, bytes."""
        place = self._memory.base + page
        mine, before = _read(os.getpid(), place, PAGE), _read(self._reference, place, PAGE)
        if len(mine) < PAGE or mine == before:
            return b""
        if len(before) < PAGE or self._reference == self._parent:
            return struct.pack("<QQ", page, PAGE) + mine
        return b"".join(
            struct.pack("<QQ", page + offset, 1) + mine[offset : offset + 1]
            for start in range(0, PAGE, 64)
            if mine[start : start + 64] != before[start : start + 64]
            for offset in range(start, start + 64)
            if mine[offset] != before[offset]
        )


def _stay() -> None:
    """The second copy: it waits to be killed, or for its parent's death."""
    host.set_mask((1 << 64) - 1)
    host.quick(NUMBERS["prctl"], 1, signal.SIGKILL)
    while True:
        host.call(NUMBERS["pause"])


def _described(mapping: Mapping) -> bytes:
    name = os.fsencode(mapping.name)
    numbers = (mapping.start, mapping.end, mapping.offset, mapping.flags, mapping.protection)
    return _MAPPING.pack(*numbers, mapping.traits, len(name)) + name


def _pages_alone(memory: Memory, start: int, end: int) -> list[int]:
    """The pages from *start* to *end* that this process alone has, or may have."""
    found = []
    try:
        descriptor = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # No descriptor is to be had: all are looked at.
        return list(range(start, end, PAGE))
    try:
        for first in range(start, end, _CHUNK_PAGES * PAGE):
            count = min(end - first, _CHUNK_PAGES * PAGE) // PAGE
            data = os.pread(descriptor, 8 * count, (memory.base + first) // PAGE * 8)
            for index, (entry,) in enumerate(struct.iter_unpack("<Q", data)):
                if entry & _SWAPPED or entry & (_PRESENT | _ALONE) == _PRESENT | _ALONE:
                    found.append(first + index * PAGE)
    finally:
        os.close(descriptor)
    return found


def _read(pid: int, address: int, size: int) -> bytes:
    """Up to *size* bytes of process *pid*'s memory."""
    buffer = ctypes.create_string_buffer(size)
    vectors = (ctypes.c_uint64 * 4)(ctypes.addressof(buffer), size, address, size)
    place = ctypes.addressof(vectors)
    got = host.call(NUMBERS["process_vm_readv"], pid, place, 1, place + 16, 1, 0)
    return buffer.raw[: max(got, 0)]


# The parent's side ----------------------------------------------------------------------


def wait_for_child(memory: Memory, rendezvous: Rendezvous, pid: int) -> None:
    """Wait until the child *pid* of vfork has ended or started a program; take its changes."""
    while True:
        state = rendezvous.word(_STATE)
        if state == _DONE or state & _OWNER_DIED:
            return
        if state == _NEWS:
            place, size = rendezvous.report()
            take_over(memory, _read(pid, place, size))
            rendezvous.set(_STATE, pid | _WAITERS)
            rendezvous.set(_ACKNOWLEDGED, 1)
            continue
        rendezvous.wait(_STATE, state)
        if _is_dead(pid):
            return


def _is_dead(pid: int) -> bool:
    information = (ctypes.c_uint64 * 16)()
    place = ctypes.addressof(information)
    done = host.quick(NUMBERS["waitid"], 1, pid, place, _DEAD_NOW, 0)
    return done == -errno.ECHILD or (done == 0 and bool(information[0] & 0xFFFFFFFF))


def take_over(memory: Memory, report: bytes) -> None:
    """Make the changes in a child's *report* here."""
    if len(report) < _REPORT.size:
        return
    break_end, mappings, changes = _REPORT.unpack_from(report)
    position = _REPORT.size
    if mappings:
        _take_mappings(memory, report[position : position + mappings])
        memory.break_end = break_end
    position += mappings
    end = position + changes
    while position < end:
        address, size = struct.unpack_from("<QQ", report, position)
        position += 16
        _write(memory, address, report[position : position + size])
        position += size


def _write(memory: Memory, address: int, data: bytes) -> None:
    mapping = memory.find(address)
    if mapping is None:
        return
    protection = mapping.protection
    page = address & -PAGE
    if not protection & PROT_WRITE:
        memory.protect(page, PAGE, protection | PROT_WRITE)
    memory.write(address, data)
    if not protection & PROT_WRITE:
        memory.protect(page, PAGE, protection)
    if protection & PROT_EXEC:
        memory.flush_code(address, address + len(data))


def _take_mappings(memory: Memory, described: bytes) -> None:
    """Have what is mapped be what *described* says."""
    wanted: list[Mapping] = []
    position = 0
    while position < len(described):
        start, end, offset, flags, protection, traits, size = _MAPPING.unpack_from(
            described, position
        )
        position += _MAPPING.size
        name = os.fsdecode(described[position : position + size])
        position += size
        wanted.append(Mapping(start, end, protection, flags, name, offset, traits))
    for start, end in _outside(memory.mappings, wanted):
        memory.unmap(start, end - start)
    have = list(memory.mappings)
    for one in wanted:
        for start, end in _outside([one], have):
            part = one.part(start, end)
            _map(memory, part)
        if any(other.protection != one.protection for other in _overlapping(have, one)):
            memory.protect(one.start, one.end - one.start, one.protection)


def _map(memory: Memory, wanted: Mapping) -> None:
    """Map what the child has mapped new; the content of private memory comes as changes."""
    descriptor = -1
    flags = wanted.flags & MAP_TYPE | MAP_FIXED
    if wanted.name[:1] == "/":
        try:
            descriptor = os.open(wanted.name, os.O_RDWR if flags & 1 else os.O_RDONLY)
        except OSError:
            descriptor = -1
    try:
        memory.map(
            wanted.start, wanted.end - wanted.start, wanted.protection,
            flags if descriptor >= 0 else flags | MAP_ANONYMOUS, descriptor,
            wanted.offset if descriptor >= 0 else 0, wanted.name,
        )  # fmt: skip
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _overlapping(mappings: list[Mapping], one: Mapping) -> list[Mapping]:
    return [other for other in mappings if other.start < one.end and one.start < other.end]


def _outside(these: list[Mapping], those: list[Mapping]) -> list[tuple[int, int]]:
    """The ranges of *these* that are in none of *those*; both are in order."""
    found = []
    for one in these:
        start = one.start
        for other in _overlapping(those, one):
            if other.start > start:
                found.append((start, other.start))
            start = max(start, other.end)
        if start < one.end:
            found.append((start, one.end))
    return found
