"""System calls on the system: names, limits, randomness, shared memory of System V."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import pointer, signed
from tandemu.linux.host import NUMBERS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_FIELD = 65


@calls.row("uname", "ptr")
def _uname(task: Task, result: int) -> int:
    name = os.uname()
    texts = (
        name.sysname, name.nodename, name.release, name.version,
        task.kernel.architecture.name, "(none)",
    )  # fmt: skip
    fields = [os.fsencode(text)[:64].ljust(_FIELD, b"\0") for text in texts]
    task.memory.write(result, b"".join(fields))
    return 0


calls.direct("getrandom", "out size hex")
calls.direct("sysinfo", "ptr")
calls.direct("syslog", "int out size")
calls.direct("sethostname", "in size")
calls.direct("setdomainname", "in size")
calls.direct("getrlimit", "int ptr")


@calls.row("personality", "hex", missing="changing it")
def _personality(task: Task, wanted: int) -> int:
    return 0


_ADDRESS_SPACE_LIMITS = frozenset((2, 3, 9))
"""RLIMIT_DATA, RLIMIT_STACK, RLIMIT_AS: the translator itself would not live with them."""


@calls.row("setrlimit", "int ptr", missing="RLIMIT_AS, RLIMIT_DATA and RLIMIT_STACK do not bind")
def _setrlimit(task: Task, resource: int, limit: int) -> int:
    if resource in _ADDRESS_SPACE_LIMITS:
        return 0
    place = task.memory.host_address(limit, 16)
    return host.call(NUMBERS["setrlimit"], resource, place)


@calls.row("prlimit64", "pid int ptr ptr", missing="as setrlimit")
def _prlimit64(task: Task, pid: int, resource: int, new: int, old: int) -> int:
    memory = task.memory
    if resource in _ADDRESS_SPACE_LIMITS and signed(pid) in (0, os.getpid()):
        new = 0
    return host.call(
        NUMBERS["prlimit64"], pid, resource, pointer(memory, new, 16), pointer(memory, old, 16)
    )


for _name, _arguments in (
    ("msgget", "int hex"),
    ("msgsnd", "int in size hex"),
    ("msgctl", "int int ptr"),
    ("semget", "int int hex"),
    ("semop", "int ptr size"),
    ("semtimedop", "int ptr size ptr"),
    ("mq_open", "str hex mode ptr"),
    ("mq_unlink", "str"),
    ("mq_timedsend", "fd in size int ptr"),
    ("mq_timedreceive", "fd out size ptr ptr"),
    ("mq_getsetattr", "fd ptr ptr"),
):
    calls.direct(_name, _arguments, restarts=not _name.startswith("sem"))
calls.direct("mq_notify", "fd ptr", missing="SIGEV_THREAD")


@calls.row("msgrcv", "int ptr size long hex", restarts=False)
def _msgrcv(task: Task, queue: int, place: int, size: int, kind: int, flags: int) -> int:
    return host.call(
        NUMBERS["msgrcv"], queue, task.memory.host_address(place, size + 8), size, kind, flags
    )


_IPC_COMMAND = 0xFF
_SEM_POINTERS = frozenset((13, 17, 18))  # GETALL, SETALL, SEM_STAT


@calls.row("semctl", "int int int hex", missing="IPC_STAT, IPC_SET, SEM_STAT")
def _semctl(task: Task, semaphore: int, number: int, command: int, argument: int) -> int:
    command &= _IPC_COMMAND
    if command in (1, 2, 18, 20):
        return -errno.EINVAL
    if command in _SEM_POINTERS or command in (3, 19):
        argument = task.memory.host_address(argument, 4096)
    return host.call(NUMBERS["semctl"], semaphore, number, command, argument)


calls.direct("shmget", "int size hex")
calls.direct("shmctl", "int int ptr")


@calls.row("shmat", "int hex hex", missing="at an address of the program's choice")
def _shmat(task: Task, segment: int, address: int, flags: int) -> int:
    if address:
        return -errno.EINVAL
    memory = task.memory
    details = ctypes.create_string_buffer(256)
    done = host.call(NUMBERS["shmctl"], segment, 2, ctypes.addressof(details))
    if done < 0:
        return done
    # struct shmid64_ds: the permissions are 48 bytes, the size follows.
    size = int.from_bytes(details.raw[48:56], "little")
    protection = 1 if flags & 0o10000 else 3
    with task.kernel.memory_lock:
        place = memory.map(0, size, protection, 0x21, -1, 0, "/SYSV")
        if place < 0:
            return place
        attached = host.call(
            NUMBERS["shmat"], segment, memory.base + place, (flags & 0o10000) | 0o40000
        )
        if attached < 0:
            memory.unmap(place, size)
            return attached
    return place


@calls.row("shmdt", "hex")
def _shmdt(task: Task, address: int) -> int:
    memory = task.memory
    with task.kernel.memory_lock:
        mapping = memory.find(address)
        if mapping is None or mapping.name != "/SYSV" or mapping.start != address:
            return -errno.EINVAL
        return memory.unmap(address, mapping.end - address)
