"""System calls that read and write, from one descriptor to another as well.

What is read from some files of /proc is the translator's to say (`proc.watch`); all else is
native.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import for_host, host_vectors, pointer, signed, signed_long
from tandemu.linux.host import NUMBERS
from tandemu.linux.proc.watch import MemoryFile, TextFile, advance, position
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory
    from tandemu.linux.task import Task

calls = Calls()

_MOST = 0x7FFFF000
"""MAX_RW_COUNT."""
_CHUNK = 1 << 16
_Vectors = list[tuple[int, int]]


def _file(task: Task, descriptor: int) -> TextFile | MemoryFile | None:
    return task.kernel.watch.file(signed(descriptor))


def _vectors(memory: Memory, address: int, count: int) -> _Vectors:
    """The guest's struct iovec array."""
    host_vectors(memory, address, count)
    words = struct.unpack(f"<{2 * count}Q", memory.read(address, 16 * count))
    return list(zip(words[::2], words[1::2], strict=True))


def _read(
    task: Task, file: TextFile | MemoryFile, descriptor: int, vectors: _Vectors, offset: int
) -> int:
    """Read from *file* at *offset*; from its position, and that is moved, if it is negative."""
    number = signed(descriptor)
    start = place = offset if offset >= 0 else position(number)
    for begin, size in vectors:
        address = begin
        left = min(size, _MOST - (place - start))
        while left > 0:
            try:
                data = file.read(left, place)
            except OSError:
                if place == start:
                    raise
                data = b""
            task.memory.write(address, data)
            address, left, place = address + len(data), left - len(data), place + len(data)
            if not data:
                break
        if left:
            break
    if offset < 0:
        advance(number, place)
    return place - start


def _write(
    task: Task, file: TextFile | MemoryFile, descriptor: int, vectors: _Vectors, offset: int
) -> int:
    number = signed(descriptor)
    start = place = offset if offset >= 0 else position(number)
    for begin, size in vectors:
        address = begin
        left = size
        while left > 0:
            data = task.memory.read(address, min(left, _CHUNK))
            try:
                done = file.write(data, place)
            except OSError:
                if place == start:
                    raise
                done = 0
            address, left, place = address + done, left - done, place + done
            if done < len(data):
                break
        if left:
            break
    if offset < 0:
        advance(number, place)
    return place - start


def _one(name: str, way: str, rest: str = "") -> None:
    """Declare read, write, pread64 or pwrite64."""
    number, transfer = NUMBERS[name], _read if way == "out" else _write

    @calls.row(name, f"file {way} size {rest}", native=True)
    def one(task: Task, descriptor: int, address: int, size: int, *rest: int) -> int:
        file = _file(task, descriptor)
        if file is None or (isinstance(file, TextFile) and transfer is _write):
            place = for_host(task.memory, address)
            return host.call(number, descriptor, place, size, *rest)
        offset = signed_long(rest[0]) if rest else -1
        if rest and offset < 0:
            return -errno.EINVAL
        return transfer(task, file, descriptor, [(address, min(size, _MOST))], offset)


_one("read", "out")
_one("write", "in")
_one("pread64", "out", "long")
_one("pwrite64", "in", "long")


def _vectored(name: str, rest: str, *, reads: bool) -> None:
    number, transfer = NUMBERS[name], _read if reads else _write

    @calls.row(name, f"file vectors int {rest}", native=True)
    def vectored(task: Task, descriptor: int, vectors: int, count: int, *rest: int) -> int:
        file, memory = _file(task, descriptor), task.memory
        if file is None or (isinstance(file, TextFile) and not reads):
            buffer = host_vectors(memory, vectors, count)
            return host.call(number, descriptor, ctypes.addressof(buffer), count, *rest)
        offset = signed_long(rest[0]) if rest else -1
        if offset < 0 and rest and not (offset == -1 and len(rest) == 3):
            return -errno.EINVAL
        return transfer(task, file, descriptor, _vectors(memory, vectors, count), offset)


_vectored("readv", "", reads=True)
_vectored("writev", "", reads=False)
_vectored("preadv", "long long", reads=True)
_vectored("pwritev", "long long", reads=False)
_vectored("preadv2", "long long hex", reads=True)
_vectored("pwritev2", "long long hex", reads=False)


# From one descriptor to another ---------------------------------------------------------


def _send(
    task: Task, file: TextFile | MemoryFile, source: int, target: int, size: int, place: int
) -> int:
    """Write up to *size* bytes of *file* to *target*; *place* is where its offset is, or 0."""
    memory, number = task.memory, signed(source)
    if not isinstance(file, TextFile) or not file.can_be_spliced:
        return -errno.EINVAL
    start = at = signed_long(memory.read_word(place)) if place else position(number)
    size = min(size, _MOST)
    while at - start < size:
        data = file.read(min(size - (at - start), _CHUNK), at)
        buffer = ctypes.create_string_buffer(data, len(data) or 1)
        done = host.call(NUMBERS["write"], target, ctypes.addressof(buffer), len(data))
        if done < 0 and at == start:
            return done
        at += max(done, 0)
        if not data or done < len(data):
            break
    if place:
        memory.write_word(place, at)
    else:
        advance(number, at)
    return at - start


@calls.row("sendfile", "fd file ptr size", native=True)
def _sendfile(task: Task, target: int, source: int, place: int, size: int) -> int:
    file = _file(task, source)
    if file is None:
        offset = pointer(task.memory, place, 8)
        return host.call(NUMBERS["sendfile"], target, source, offset, size)
    return _send(task, file, source, target, size, place)


@calls.row("splice", "file ptr fd ptr size hex", native=True)
def _splice(
    task: Task, source: int, place: int, target: int, target_place: int, size: int, flags: int
) -> int:
    file, memory = _file(task, source), task.memory
    if file is None or target_place:
        first, second = pointer(memory, place, 8), pointer(memory, target_place, 8)
        return host.call(NUMBERS["splice"], source, first, target, second, size, flags)
    return _send(task, file, source, target, min(size, _CHUNK), place)


# A kernel copies nothing from files without a length, as those of /proc are.
calls.direct("copy_file_range", "fd ptr fd ptr size hex")


# Copies of descriptors ------------------------------------------------------------------


@calls.row("dup", "file", native=True)
def _dup(task: Task, descriptor: int) -> int:
    return task.kernel.watch.copied(descriptor, host.call(NUMBERS["dup"], descriptor))


@calls.row("pidfd_getfd", "fd fd hex")
def _pidfd_getfd(task: Task, process: int, descriptor: int, flags: int) -> int:
    found = host.call(NUMBERS["pidfd_getfd"], process, descriptor, flags)
    task.kernel.watch.mark(found)
    return found
