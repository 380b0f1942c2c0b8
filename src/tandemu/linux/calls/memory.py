"""System calls on memory."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import host_vectors, signed
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.memory import MAP_ANONYMOUS, round_up
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_MADV_DONTNEED, _MADV_FREE, _MADV_REMOVE, _MADV_POPULATE_READ = 4, 8, 9, 22
_HOSTS_ADVICE = frozenset((0, 1, 2, 3, _MADV_DONTNEED, _MADV_FREE, _MADV_REMOVE, 20, 21, 22, 23))
_IGNORED_ADVICE = frozenset((10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 24, 25))


@calls.row("brk", "hex")
def _brk(task: Task, wanted: int) -> int:
    with task.kernel.memory_lock:
        return task.memory.set_break(wanted)


@calls.row("mmap", "hex size hex hex fd long", missing="huge pages, MAP_GROWSDOWN, no-execute")
def _mmap(
    task: Task, address: int, size: int, protection: int, flags: int, descriptor: int, offset: int
) -> int:
    name = ""
    descriptor = signed(descriptor)
    if flags & MAP_ANONYMOUS:
        descriptor = -1
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


@calls.row("munmap", "hex size")
def _munmap(task: Task, address: int, size: int) -> int:
    with task.kernel.memory_lock:
        return task.memory.unmap(address, size)


@calls.row("mprotect", "hex size hex")
def _mprotect(task: Task, address: int, size: int, protection: int) -> int:
    with task.kernel.memory_lock:
        return task.memory.protect(address, size, protection)


@calls.row("mremap", "hex size size hex hex", missing="MREMAP_DONTUNMAP")
def _mremap(task: Task, address: int, old: int, size: int, flags: int, wish: int) -> int:
    with task.kernel.memory_lock:
        return task.memory.remap(address, old, size, flags, wish)


@calls.row("madvise", "hex size int")
def _madvise(task: Task, address: int, size: int, advice: int) -> int:
    memory = task.memory
    if address % PAGE or size >> 63:
        return -errno.EINVAL
    size = round_up(size)
    if address + size > memory.limit or not memory.covers(address, address + size):
        return -errno.ENOMEM
    if advice in _HOSTS_ADVICE:
        return host.call(NUMBERS["madvise"], memory.base + address, size, advice)
    return 0 if advice in _IGNORED_ADVICE else -errno.EINVAL


def _on_range(name: str, rest: str = "", *, aligned: bool = False) -> None:
    number = NUMBERS[name]

    @calls.row(name, f"hex size {rest}")
    def on_range(task: Task, address: int, size: int, *rest: int) -> int:
        memory = task.memory
        if aligned and address % PAGE:
            return -errno.EINVAL
        address, size = address & -PAGE, round_up(size + address % PAGE)
        if address + size > memory.limit or not memory.covers(address, address + size):
            return -errno.ENOMEM
        return host.call(number, memory.base + address, size, *rest)


_on_range("msync", "hex", aligned=True)
_on_range("mlock")
_on_range("mlock2", "hex")
_on_range("munlock")


@calls.row("mincore", "hex size ptr")
def _mincore(task: Task, address: int, size: int, result: int) -> int:
    memory = task.memory
    if address % PAGE:
        return -errno.EINVAL
    end = address + round_up(size)
    if end > memory.limit or not memory.covers(address, end):
        return -errno.ENOMEM
    place = memory.host_address(result, round_up(size) // PAGE)
    return host.call(NUMBERS["mincore"], memory.base + address, size, place)


@calls.row("mlockall", "hex")
def _mlockall(task: Task, flags: int) -> int:
    # The window's reserved pages must not be locked: they would become real.
    return 0


@calls.row("munlockall")
def _munlockall(task: Task) -> int:
    return 0


def _across_processes(name: str) -> None:
    number = NUMBERS[name]

    @calls.row(name, "pid ptr int ptr int hex", missing="the own process only")
    def across(
        task: Task, pid: int, local: int, locals: int, remote: int, remotes: int, flags: int
    ) -> int:
        if signed(pid) != os.getpid():
            return -errno.EPERM
        ours = host_vectors(task.memory, local, locals)
        theirs = host_vectors(task.memory, remote, remotes)
        return host.call(
            number, pid, ctypes.addressof(ours), locals, ctypes.addressof(theirs), remotes, flags
        )


_across_processes("process_vm_readv")
_across_processes("process_vm_writev")

calls.direct("membarrier", "int hex int", missing="as the host's, which sees all guest threads")
calls.refuse(
    "mbind get_mempolicy set_mempolicy migrate_pages move_pages set_mempolicy_home_node "
    "remap_file_pages process_madvise process_mrelease userfaultfd memfd_secret pkey_alloc "
    "pkey_free pkey_mprotect map_shadow_stack mseal",
    "as by a kernel that was built without it",
)
