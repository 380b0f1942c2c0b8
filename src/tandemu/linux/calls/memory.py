"""System calls on memory."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import MOST_VECTORS, Buffer, for_host, host_vectors, signed
from tandemu.linux.growth import first_present
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.limits import MEMLOCK
from tandemu.linux.mappings import (
    LOCK_ON_FAULT,
    MAP_ANONYMOUS,
    MAP_LOCKED,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_TYPE,
    NOT_IN_CHILD,
    PROT_WRITE,
    SEALED,
    SHARED_ANONYMOUS,
    UNLIMITED,
    Mapping,
    round_up,
)
from tandemu.linux.proc import subject
from tandemu.linux.remapping import remap
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory
    from tandemu.linux.task import Task

calls = Calls()

_NOBODYS = 1 << 63
"""An address that no process can access."""


@calls.row("brk", "hex", native=True)
def _brk(task: Task, wanted: int) -> int:
    with task.kernel.memory_lock:
        return task.memory.set_break(wanted)


@calls.row("mmap", "hex size hex hex fd long", native=True, missing="no-execute")
def _mmap(
    task: Task, address: int, size: int, protection: int, flags: int, descriptor: int, offset: int
) -> int:
    name = ""
    descriptor = signed(descriptor)
    if flags & MAP_ANONYMOUS:
        descriptor = -1
        if signed(flags) & MAP_TYPE == MAP_SHARED:
            name = SHARED_ANONYMOUS
    else:
        if descriptor < 0 or descriptor in task.kernel.descriptors:
            return -errno.EBADF
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return -errno.EBADF
    with task.kernel.memory_lock:
        return task.memory.map(
            address, size, signed(protection), signed(flags) & 0xFFFFFFFF, descriptor, offset, name
        )


@calls.row("munmap", "hex size", native=True)
def _munmap(task: Task, address: int, size: int) -> int:
    with task.kernel.memory_lock:
        return task.memory.unmap(address, size)


@calls.row("mprotect", "hex size hex", native=True)
def _mprotect(task: Task, address: int, size: int, protection: int) -> int:
    with task.kernel.memory_lock:
        return task.memory.protect(address, size, protection)


@calls.row("mremap", "hex size size hex hex", native=True)
def _mremap(task: Task, address: int, old: int, size: int, flags: int, wish: int) -> int:
    with task.kernel.memory_lock:
        return remap(task.memory, address, old, size, flags, wish)


_ADVICE_ON_FORK = {10: NOT_IN_CHILD, 11: 0}
"""MADV_DONTFORK and MADV_DOFORK: the child would have a hole in its window."""
_POISON = frozenset((100, 101))
"""MADV_HWPOISON, MADV_SOFT_OFFLINE: they take pages from the host for good."""
_GUARD_INSTALL = 102
_DISCARDS = frozenset((4, 8, 9, 10, 18, 24, _GUARD_INSTALL))
"""MADV_DONTNEED, FREE, REMOVE, DONTFORK, WIPEONFORK, DONTNEED_LOCKED: what was there is gone."""


@calls.row("madvise", "hex size int", native=True, missing="MADV_HWPOISON, MADV_SOFT_OFFLINE")
def _madvise(task: Task, address: int, size: int, advice: int) -> int:
    memory, advice = task.memory, signed(advice)
    if advice in _POISON:
        return -errno.EPERM
    # The host knows which advice there is; it is asked about nothing at all.
    result = host.call(NUMBERS["madvise"], memory.base, 0, advice)
    if result < 0:
        return result
    end = address + round_up(size)
    if address % PAGE or end >= 1 << 64:
        return -errno.EINVAL

    def advise(piece: Mapping) -> int:
        is_kept = piece.traits & SEALED and not piece.protection & PROT_WRITE
        if is_kept and advice in _DISCARDS and piece.flags == MAP_PRIVATE and piece.name[:1] != "/":
            return -errno.EPERM
        if advice in _ADVICE_ON_FORK:
            memory.leaves_out = True
            task.kernel.forbid_forks()
            memory.cut(piece.start, piece.end)
            piece.traits = piece.traits & ~NOT_IN_CHILD | _ADVICE_ON_FORK[advice]
            memory.add(piece)
            return 0
        if advice == _GUARD_INSTALL:
            memory.has_guards = True
        place = memory.base + piece.start
        return host.call(NUMBERS["madvise"], place, piece.end - piece.start, advice)

    return _on_pieces(task, address, end, advise)


def _on_pieces(
    task: Task, address: int, end: int, function: Callable[[Mapping], int], *, stops: bool = False
) -> int:
    """Call *function* for what is mapped in a range; ENOMEM if that is not all of it.

    *stops*: at the first hole, instead of going on behind it.
    """
    done, result = address, 0
    with task.kernel.memory_lock:
        for piece in task.memory.pieces(address, end):
            if piece.start != done:
                result = -errno.ENOMEM
                if stops:
                    return result
            done = piece.end
            failure = function(piece)
            if failure < 0:
                return failure
    return result if done == end else -errno.ENOMEM


@calls.row("mseal", "hex size hex")
def _mseal(task: Task, address: int, size: int, flags: int) -> int:
    memory, end = task.memory, address + round_up(size)
    if flags or address % PAGE or end >= 1 << 64:
        return -errno.EINVAL
    if not memory.covers(address, end):
        return -errno.ENOMEM

    def seal(piece: Mapping) -> int:
        memory.cut(piece.start, piece.end)
        piece.traits |= SEALED
        memory.add(piece)
        memory.has_seals = 1
        return 0

    return _on_pieces(task, address, end, seal)


_MS_ASYNC, _MS_INVALIDATE, _MS_SYNC = 1, 2, 4


@calls.row("msync", "hex size hex")
def _msync(task: Task, address: int, size: int, flags: int) -> int:
    memory, end = task.memory, address + (round_up(size) & UNLIMITED)
    if flags & ~(_MS_ASYNC | _MS_INVALIDATE | _MS_SYNC) or address % PAGE:
        return -errno.EINVAL
    if flags & _MS_ASYNC and flags & _MS_SYNC:
        return -errno.EINVAL
    if end > memory.limit:
        return -errno.ENOMEM

    def sync(piece: Mapping) -> int:
        return host.call(
            NUMBERS["msync"], memory.base + piece.start, piece.end - piece.start, flags
        )

    return _on_pieces(task, address, end, sync)


def _locker(task: Task, name: str, flags: int = 0) -> Callable[[Mapping], int]:
    memory = task.memory

    def lock(piece: Mapping) -> int:
        start = piece.start
        if piece.name == "[stack]":
            # What the stack has not grown to yet is mapped, but not there to be locked.
            start = first_present(memory, start, piece.end)
        return host.call(NUMBERS[name], memory.base + start, piece.end - start, flags)

    return lock


def _lock_range(task: Task, name: str, address: int, size: int, flags: int = 0) -> int:
    if name != "munlock" and not _may_lock(task):
        return -errno.EPERM
    start = address & -PAGE
    end = start + round_up(size + address % PAGE)
    if end > 1 << 64:
        return -errno.EINVAL
    return _on_pieces(task, start, end, _locker(task, name, flags), stops=True)


def _may_lock(task: Task) -> bool:
    return task.kernel.limits.get(MEMLOCK)[0] > 0 or host.has_capability(host.CAP_IPC_LOCK)


@calls.row("mlock", "hex size")
def _mlock(task: Task, address: int, size: int) -> int:
    return _lock_range(task, "mlock", address, size)


@calls.row("mlock2", "hex size hex")
def _mlock2(task: Task, address: int, size: int, flags: int) -> int:
    if signed(flags) & ~_MLOCK_ONFAULT:
        return -errno.EINVAL
    return _lock_range(task, "mlock2", address, size, flags)


@calls.row("munlock", "hex size")
def _munlock(task: Task, address: int, size: int) -> int:
    return _lock_range(task, "munlock", address, size)


@calls.row("mincore", "hex size ptr")
def _mincore(task: Task, address: int, size: int, result: int) -> int:
    memory = task.memory
    if address % PAGE:
        return -errno.EINVAL
    end = address + round_up(size)
    if end > memory.limit:
        return -errno.ENOMEM
    if result + round_up(size) // PAGE > memory.limit:
        return -errno.EFAULT
    if not memory.covers(address, end):
        return -errno.ENOMEM
    place = memory.host_address(result, round_up(size) // PAGE)
    return host.call(NUMBERS["mincore"], memory.base + address, size, place)


_MLOCK_ONFAULT = 1
_MOST_PAGES, _MASK64 = 1 << 20, (1 << 64) - 1
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


@calls.row("mlockall", "hex")
def _mlockall(task: Task, flags: int) -> int:
    # The host's own would make the reserved pages of the window real, and lock ours.
    memory, flags = task.memory, signed(flags)
    every = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
    if not flags or flags & ~every or flags == _MCL_ONFAULT:
        return -errno.EINVAL
    if not _may_lock(task):
        return -errno.EPERM
    if flags & _MCL_CURRENT:
        most = task.kernel.limits.get(MEMLOCK)[0]
        if memory.total_size() > most and not host.has_capability(host.CAP_IPC_LOCK):
            return -errno.ENOMEM
    on_fault = flags & _MCL_ONFAULT
    memory.locks_new = flags & _MCL_FUTURE and (LOCK_ON_FAULT if on_fault else MAP_LOCKED)
    if flags & _MCL_CURRENT:
        lock = _locker(task, "mlock2", _MLOCK_ONFAULT if on_fault else 0)
        with task.kernel.memory_lock:
            for mapping in list(memory.mappings):
                # What cannot be brought in, as pages without access, is no error here.
                lock(mapping)
    return 0


@calls.row("munlockall")
def _munlockall(task: Task) -> int:
    task.memory.locks_new = 0
    unlock = _locker(task, "munlock")
    with task.kernel.memory_lock:
        for mapping in list(task.memory.mappings):
            unlock(mapping)
    return 0


def _across_processes(name: str) -> None:
    number = NUMBERS[name]

    @calls.row(name, "pid ptr int ptr int hex")
    def across(
        task: Task, pid: int, local: int, locals: int, remote: int, remotes: int, flags: int
    ) -> int:
        if flags:
            return -errno.EINVAL
        memory = task.memory
        ours = host_vectors(memory, local, locals)
        if remotes > MOST_VECTORS:
            return -errno.EINVAL
        of = subject.find(task.kernel, signed(pid))
        if of is None:
            # A program of the host: its addresses are the host's.
            theirs = ctypes.create_string_buffer(memory.read(remote, 16 * remotes), 16 * remotes)
        else:
            theirs = _remote_vectors(memory, remote, remotes, of)
        return host.call(
            number, pid, ctypes.addressof(ours), locals, ctypes.addressof(theirs), remotes, flags
        )


def _remote_vectors(memory: Memory, place: int, count: int, of: subject.Subject) -> Buffer:
    """The guest's struct iovec array at *place*, with host addresses in the process *of*."""
    words = struct.unpack(f"<{2 * count}Q", memory.read(place, 16 * count))
    moved = []
    for start, size in zip(words[::2], words[1::2], strict=True):
        if size >> 63:
            raise OSError(errno.EINVAL, "a vector of negative size")
        # What begins outside is nobody's; what ends there meets the guard before.
        moved += [of.base + start if start < of.size else _NOBODYS, min(size, of.size)]
    return ctypes.create_string_buffer(struct.pack(f"<{2 * count}Q", *moved), 16 * count or 1)


_across_processes("process_vm_readv")
_across_processes("process_vm_writev")

# Nodes of memory ------------------------------------------------------------------------

for _name, _arguments in (
    ("get_mempolicy", "ptr ptr long ptr hex"),
    ("set_mempolicy", "int ptr long"),
    ("migrate_pages", "pid long ptr ptr"),
    ("memfd_secret", "hex"),
    ("process_mrelease", "fd hex"),
):
    calls.direct(_name, _arguments)


def _on_nodes(name: str, rest: str, pointers: frozenset[int] = frozenset()) -> None:
    number = NUMBERS[name]

    @calls.row(name, f"hex size {rest}")
    def on_nodes(task: Task, address: int, size: int, *rest: int) -> int:
        memory = task.memory
        if address % PAGE:
            return -errno.EINVAL
        end = address + round_up(size)
        # To take a policy back is right over holes, too.
        is_default = name == "mbind" and not rest[0]
        if end > memory.limit or not (is_default or memory.covers(address, end)):
            return -errno.EFAULT
        given = [
            for_host(memory, value) if index in pointers and value else value
            for index, value in enumerate(rest)
        ]
        return host.call(number, memory.base + address, size, *given)


_on_nodes("mbind", "int ptr long hex", frozenset((1,)))
_on_nodes("set_mempolicy_home_node", "long hex")


@calls.row("move_pages", "pid long ptr ptr ptr hex", missing="pages of other processes")
def _move_pages(
    task: Task, pid: int, count: int, pages: int, nodes: int, status: int, flags: int
) -> int:
    memory = task.memory
    if signed(pid) not in (0, os.getpid()):
        return -errno.EPERM
    if count > _MOST_PAGES:
        return -errno.E2BIG
    addresses = struct.unpack(f"<{count}Q", memory.read(pages, 8 * count))
    moved = struct.pack(
        f"<{count}Q", *(for_host(memory, one) & _MASK64 if one else 0 for one in addresses)
    )
    buffer = ctypes.create_string_buffer(moved, len(moved) or 1)
    return host.call(
        NUMBERS["move_pages"], 0, count, ctypes.addressof(buffer),
        for_host(memory, nodes) if nodes else 0, for_host(memory, status), flags,
    )  # fmt: skip


@calls.row("remap_file_pages", "hex size hex long hex")
def _remap_file_pages(
    task: Task, address: int, size: int, protection: int, page: int, flags: int
) -> int:
    memory = task.memory
    start, size = address & -PAGE, size & -PAGE
    with task.kernel.memory_lock:
        mapping = memory.find(start)
        if mapping is None or start + size > mapping.end:
            return -errno.EINVAL
        result = host.call(
            NUMBERS["remap_file_pages"], memory.base + start, size, protection, page, flags
        )
        if result >= 0:
            # Another part of the same file lies there now.
            memory.enter(start, size, mapping.protection, mapping.flags, mapping.name, page * PAGE)
    return result


calls.direct("membarrier", "int hex int", missing="as the host's, which sees all guest threads")
calls.refuse(
    "process_madvise userfaultfd pkey_alloc pkey_free pkey_mprotect map_shadow_stack",
    "as by a kernel that was built without it",
)
