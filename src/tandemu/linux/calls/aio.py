"""System calls of Linux's asynchronous input and output: io_setup(2) and its companions.

The host's kernel does it. A context is known by the address of its ring of events, which
libraries look into, so the ring is moved into the program's window; the kernel calls the context
by the new address from then on (fs/aio.c, aio_ring_mremap). A request is known by its own
address in the window, which is the host's but for the window's beginning.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import Buffer, for_host, host_vectors, signed_long
from tandemu.linux.host import NUMBERS, HostFault
from tandemu.linux.mappings import MAP_SHARED, PROT_READ, PROT_WRITE, round_up
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory
    from tandemu.linux.task import Task

calls = Calls()

_MREMAP = NUMBERS["mremap"]
_MAYMOVE_FIXED = 3
_RING_HEAD = struct.Struct("<8I")  # id, events, head, tail, magic, features, length of this
_RING_MAGIC = 0xA10A10A1
EVENT_SIZE, EVENT_REQUEST = 32, 8
"""struct io_event; where its request's address is."""
_REQUEST_SIZE = 64
_CODE_AT, _BUFFER_AT = 16, 24
_PLAIN = frozenset((0, 1))
"""IOCB_CMD_PREAD, IOCB_CMD_PWRITE: the buffer is one."""
_VECTORED = frozenset((7, 8))
_MOST_AT_ONCE = 1 << 16
_NAME = "/[aio] (deleted)"


@calls.row("io_setup", "int ptr")
def _io_setup(task: Task, count: int, result: int) -> int:
    memory = task.memory
    if memory.read_word(result):
        return -errno.EINVAL
    context = ctypes.c_uint64(0)
    done = host.call(NUMBERS["io_setup"], count, ctypes.addressof(context))
    if done < 0:
        return done
    ring = context.value
    head = _RING_HEAD.unpack(ctypes.string_at(ring, _RING_HEAD.size))
    size = round_up(_RING_HEAD.size + head[1] * EVENT_SIZE)
    with task.kernel.memory_lock:
        place = memory.find_free(size) if head[4] == _RING_MAGIC else 0
        if not place:
            host.call(NUMBERS["io_destroy"], ring)
            return -errno.ENOMEM
        moved = host.call(_MREMAP, ring, size, size, _MAYMOVE_FIXED, memory.base + place)
        if moved < 0:
            host.call(NUMBERS["io_destroy"], ring)
            return moved
        memory.enter(place, size, PROT_READ | PROT_WRITE, MAP_SHARED, _NAME)
    try:
        memory.write_word(result, place)
    except HostFault:
        _destroy(task, place)
        raise
    return 0


@calls.row("io_destroy", "ptr")
def _io_destroy(task: Task, context: int) -> int:
    return _destroy(task, context)


def _destroy(task: Task, context: int) -> int:
    memory = task.memory
    with task.kernel.memory_lock:
        ring = memory.find(context)
        if ring is None or ring.name != _NAME or ring.start != context:
            return -errno.EINVAL
        size = ring.end - ring.start
        result = host.call(NUMBERS["io_destroy"], memory.base + context)
        if result >= 0:
            # The kernel has unmapped it: the window must not have a hole.
            memory.unmap(context, size)
    return result


@calls.row("io_submit", "ptr long ptr")
def _io_submit(task: Task, context: int, count: int, requests: int) -> int:
    memory = task.memory
    count = signed_long(count)
    place = for_host(memory, context)
    if count <= 0 or memory.find(context) is None:
        return host.call(NUMBERS["io_submit"], place, min(count, 0), 0)
    submitted = 0
    while submitted < min(count, _MOST_AT_ONCE):
        try:
            request = memory.read_word(requests + 8 * submitted)
            result = _submit(memory, place, request)
        except OSError as error:
            result = -(error.errno or errno.EFAULT)
        if result <= 0:
            return submitted or result
        submitted += 1
    return submitted


def _submit(memory: Memory, context: int, request: int) -> int:
    """Hand one request over, where it lies: the kernel tells of it by that address."""
    data = memory.read(request, _REQUEST_SIZE)
    (code,) = struct.unpack_from("<H", data, _CODE_AT)
    (buffer,) = struct.unpack_from("<Q", data, _BUFFER_AT)
    kept: Buffer | None = None
    host_buffer = buffer
    if code in _PLAIN:
        host_buffer = for_host(memory, buffer)
    elif code in _VECTORED:
        (count,) = struct.unpack_from("<Q", data, _BUFFER_AT + 8)
        kept = host_vectors(memory, buffer, count)
        host_buffer = ctypes.addressof(kept)
    place = request + _BUFFER_AT
    if host_buffer != buffer:
        memory.write_word(place, host_buffer)
    try:
        array = ctypes.c_uint64(memory.base + request)
        return host.call(NUMBERS["io_submit"], context, 1, ctypes.addressof(array))
    finally:
        # The kernel has its own copy by now.
        if host_buffer != buffer:
            memory.write_word(place, buffer)


@calls.row("io_cancel", "ptr ptr ptr")
def _io_cancel(task: Task, context: int, request: int, result: int) -> int:
    memory = task.memory
    return host.call(
        NUMBERS["io_cancel"], for_host(memory, context), for_host(memory, request),
        for_host(memory, result),
    )  # fmt: skip


calls.direct("io_getevents", "ptr long long ptr ptr", restarts=False)
calls.direct("io_pgetevents", "ptr long long ptr ptr ptr", restarts=False)
