"""System calls of System V IPC and POSIX message queues: shared memory, semaphores, messages.

Layouts are the host's own but for ``struct semid64_ds``, where x86-64 keeps a word free behind
each time (asm/sembuf.h). Shared memory lies in the program's window at the address that the
program wishes, or one that is free.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import for_host, signed
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.mappings import (
    LOWEST,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    TOP_GUARD,
    round_up,
)
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

for _name, _arguments in (
    ("msgget", "int hex"),
    ("msgctl", "int int ptr"),
    ("semget", "int int hex"),
    ("mq_open", "str hex mode ptr"),
    ("mq_unlink", "str"),
    ("mq_timedsend", "fd in size int ptr"),
    ("mq_timedreceive", "fd out size ptr ptr"),
    ("mq_getsetattr", "fd ptr ptr"),
    ("shmget", "int size hex"),
    ("shmctl", "int int ptr"),
):
    calls.direct(_name, _arguments)
calls.direct("semop", "int ptr size", restarts=False)
calls.direct("semtimedop", "int ptr size ptr", restarts=False)


_NOTIFICATION = struct.Struct("<Qii")
"""struct sigevent: value, signal, how."""
_NOTIFICATION_SIZE, _SIGEV_THREAD = 64, 2


@calls.row("mq_notify", "fd ptr")
def _mq_notify(task: Task, queue: int, event: int) -> int:
    if not event:
        return host.call(NUMBERS["mq_notify"], queue, 0)
    memory = task.memory
    data = bytearray(memory.read(event, _NOTIFICATION_SIZE))
    value, signal, how = _NOTIFICATION.unpack_from(data)
    if how == _SIGEV_THREAD:
        # The value is where the C library keeps what it wants back through a socket.
        value = for_host(memory, value) & 0xFFFFFFFFFFFFFFFF
        _NOTIFICATION.pack_into(data, 0, value, signal, how)
    buffer = ctypes.create_string_buffer(bytes(data), _NOTIFICATION_SIZE)
    return host.call(NUMBERS["mq_notify"], queue, ctypes.addressof(buffer))


# Messages -------------------------------------------------------------------------------


@calls.row("msgsnd", "int ptr size hex", restarts=False)
def _msgsnd(task: Task, queue: int, place: int, size: int, flags: int) -> int:
    # The size is of the text alone; the kernel looks at it before it looks at the message.
    return host.call(NUMBERS["msgsnd"], queue, for_host(task.memory, place), size, flags)


@calls.row("msgrcv", "int ptr size long hex", restarts=False)
def _msgrcv(task: Task, queue: int, place: int, size: int, kind: int, flags: int) -> int:
    return host.call(NUMBERS["msgrcv"], queue, for_host(task.memory, place), size, kind, flags)


# Semaphores -----------------------------------------------------------------------------

_IPC_SET, _IPC_STAT, _IPC_INFO = 1, 2, 3
_GETALL, _SETALL, _SEM_STAT, _SEM_INFO, _SEM_STAT_ANY = 13, 17, 18, 19, 20
_SEM_POINTERS = frozenset((_IPC_INFO, _GETALL, _SETALL, _SEM_INFO))
_SEM_DETAILS = frozenset((_IPC_SET, _IPC_STAT, _SEM_STAT, _SEM_STAT_ANY))
_PERMISSIONS_SIZE = 48
_HOST_SEMAPHORES = struct.Struct("<qQqQQQQ")  # used free changed free number free free
_SEMAPHORES = struct.Struct("<qqQQQ")
_SEMAPHORES_SIZE = _PERMISSIONS_SIZE + _SEMAPHORES.size


@calls.row("semctl", "int int int hex")
def _semctl(task: Task, semaphore: int, number: int, command: int, argument: int) -> int:
    command, memory = signed(command), task.memory
    if command in _SEM_POINTERS:
        argument = for_host(memory, argument)
    if command not in _SEM_DETAILS:
        return host.call(NUMBERS["semctl"], semaphore, number, command, argument)
    details = ctypes.create_string_buffer(_PERMISSIONS_SIZE + _HOST_SEMAPHORES.size)
    if command == _IPC_SET:
        # Of what is set only the permissions count.
        details.raw = memory.read(argument, _SEMAPHORES_SIZE)[:_PERMISSIONS_SIZE]
    result = host.call(NUMBERS["semctl"], semaphore, number, command, ctypes.addressof(details))
    if result >= 0 and command != _IPC_SET:
        used, _, changed, _, count, *free = _HOST_SEMAPHORES.unpack_from(details, _PERMISSIONS_SIZE)
        rest = _SEMAPHORES.pack(used, changed, count, *free)
        memory.write(argument, details.raw[:_PERMISSIONS_SIZE] + rest)
    return result


# Shared memory --------------------------------------------------------------------------

_SHM_RDONLY, _SHM_RND, _SHM_REMAP, _SHM_EXEC = 0o10000, 0o20000, 0o40000, 0o100000
_SHM_DETAILS_SIZE = 112
_SEGMENT = "/SYSV"


@calls.row("shmat", "int hex hex")
def _shmat(task: Task, segment: int, address: int, flags: int) -> int:
    memory = task.memory
    if signed(segment) < 0:
        return -errno.EINVAL
    if address:
        if address % PAGE:
            if not flags & _SHM_RND:
                return -errno.EINVAL
            address &= -PAGE
        if not address and flags & _SHM_REMAP:
            return -errno.EINVAL
    elif flags & _SHM_REMAP:
        return -errno.EINVAL
    details = ctypes.create_string_buffer(_SHM_DETAILS_SIZE)
    done = host.call(NUMBERS["shmctl"], segment, _IPC_STAT, ctypes.addressof(details))
    if done < 0:
        return done
    # struct shmid64_ds: the permissions, the size in bytes.
    key = int.from_bytes(details.raw[:4], "little")
    size = round_up(int.from_bytes(details.raw[48:56], "little"))
    protection = PROT_READ if flags & _SHM_RDONLY else PROT_READ | PROT_WRITE
    if flags & _SHM_EXEC:
        protection |= PROT_EXEC
    with task.kernel.memory_lock:
        if not address:
            address = memory.find_free(size)
            if not address:
                return -errno.ENOMEM
        elif address < LOWEST:
            return -errno.EPERM
        elif address + size > memory.limit - TOP_GUARD:
            return -errno.ENOMEM
        elif not flags & _SHM_REMAP and not memory.is_free(address, address + size):
            return -errno.EINVAL
        attached = host.call(
            NUMBERS["shmat"], segment, memory.base + address,
            flags & (_SHM_RDONLY | _SHM_EXEC) | _SHM_REMAP,
        )  # fmt: skip
        if attached < 0:
            return attached
        name = f"{_SEGMENT}{key:08x} (deleted)"
        memory.enter(address, size, protection, MAP_SHARED, name)
    return address


@calls.row("shmdt", "hex")
def _shmdt(task: Task, address: int) -> int:
    memory = task.memory
    if address % PAGE:
        return -errno.EINVAL
    with task.kernel.memory_lock:
        # What is left of it, wherever the program has cut and protected it otherwise.
        pieces = [
            (mapping.start, mapping.end - mapping.start)
            for mapping in memory.mappings
            if mapping.name.startswith(_SEGMENT) and mapping.start - mapping.offset == address
        ]
        for start, size in pieces:
            memory.unmap(start, size)
    return 0 if pieces else -errno.EINVAL
