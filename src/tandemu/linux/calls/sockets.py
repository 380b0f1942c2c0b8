"""System calls on sockets. Option numbers and address layouts are the host's own."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import (
    MOST_VECTORS,
    Buffer,
    for_host,
    host_vectors,
    pointer,
    signed,
)
from tandemu.linux.host import NUMBERS, HostFault
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory
    from tandemu.linux.task import Task

calls = Calls()

_MESSAGE = struct.Struct("<QIIQQQQiI")  # name size pad vectors count control size flags pad
_PROGRAM = struct.Struct("<H6xQ")
"""struct sock_fprog: instructions, pointer to them."""
_WITH_PROGRAM = frozenset((26, 51))
"""SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF."""

for _name, _arguments in (
    ("socket", "int hex int"),
    ("socketpair", "int hex int ptr"),
    ("bind", "fd in int"),
    ("listen", "fd int"),
    ("connect", "fd in int"),
    ("shutdown", "fd int"),
    ("sendto", "fd in size hex in int"),
    ("recvfrom", "fd out size hex ptr ptr"),
    ("getsockopt", "fd int int ptr ptr"),
    ("accept", "fd ptr ptr"),
    ("accept4", "fd ptr ptr hex"),
    ("getsockname", "fd ptr ptr"),
    ("getpeername", "fd ptr ptr"),
):
    calls.direct(_name, _arguments)


@calls.row("setsockopt", "fd int int in int", native=True)
def _setsockopt(task: Task, descriptor: int, level: int, option: int, value: int, size: int) -> int:
    """With a filter, which is a structure with a pointer in it."""
    memory = task.memory
    place = for_host(memory, value)
    if signed(option) in _WITH_PROGRAM and signed(size) == _PROGRAM.size:
        try:
            count, code = _PROGRAM.unpack(memory.read(value, _PROGRAM.size))
        except HostFault:
            place = for_host(memory, memory.limit)
        else:
            program = _PROGRAM.pack(count, for_host(memory, code))
            buffer = ctypes.create_string_buffer(program, _PROGRAM.size)
            place = ctypes.addressof(buffer)
    return host.call(NUMBERS["setsockopt"], descriptor, level, option, place, size)


class _Message:
    """A struct msghdr with host addresses, and what it stands on."""

    def __init__(self, memory: Memory, address: int) -> None:
        self.address = address
        fields = _MESSAGE.unpack(memory.read(address, _MESSAGE.size))
        name, name_size, _, vectors, count, control, control_size, flags, _ = fields
        if count > MOST_VECTORS:
            raise OSError(errno.EMSGSIZE, "too many vectors")
        self.vectors: Buffer = host_vectors(memory, vectors, count)
        # Descriptors in control messages are the host's own: nothing to translate.
        packed = _MESSAGE.pack(
            pointer(memory, name, name_size), name_size, 0, ctypes.addressof(self.vectors), count,
            pointer(memory, control, control_size), control_size, flags, 0,
        )  # fmt: skip
        self.buffer = ctypes.create_string_buffer(packed, _MESSAGE.size)
        self.packed = packed

    def write_back(self, memory: Memory) -> None:
        """What recvmsg changes: the sizes of name and control data, the flags."""
        fields = _MESSAGE.unpack(self.buffer.raw)
        memory.write_word(self.address + 8, fields[1], 4)
        memory.write_word(self.address + 40, fields[6])
        memory.write_word(self.address + 48, fields[7], 4)


@calls.row("sendmsg", "fd ptr hex", native=True)
def _sendmsg(task: Task, descriptor: int, message: int, flags: int) -> int:
    header = _Message(task.memory, message)
    return host.call(NUMBERS["sendmsg"], descriptor, ctypes.addressof(header.buffer), flags)


@calls.row("recvmsg", "fd ptr hex", native=True)
def _recvmsg(task: Task, descriptor: int, message: int, flags: int) -> int:
    header = _Message(task.memory, message)
    result = host.call(NUMBERS["recvmsg"], descriptor, ctypes.addressof(header.buffer), flags)
    if result >= 0:
        header.write_back(task.memory)
    return result


_MULTIPLE = 64  # sizeof(struct mmsghdr)


def _several(task: Task, name: str, messages: int, count: int, rest: list[int]) -> int:
    memory = task.memory
    count = min(count & 0xFFFFFFFF, MOST_VECTORS)
    headers = [_Message(memory, messages + _MULTIPLE * index) for index in range(count)]
    table = b"".join(header.packed + bytes(8) for header in headers)
    buffer = ctypes.create_string_buffer(table, len(table) or 1)
    result = host.call(NUMBERS[name], rest[0], ctypes.addressof(buffer), count, *rest[1:])
    for index in range(max(result, 0)):
        start = index * _MULTIPLE
        memory.write_word(
            messages + start + 56, int.from_bytes(buffer.raw[start + 56 : start + 60], "little"), 4
        )
        if name == "recvmmsg":
            headers[index].buffer.raw = buffer.raw[start : start + 56]
            headers[index].write_back(memory)
    return result


@calls.row("sendmmsg", "fd ptr int hex", native=True)
def _sendmmsg(task: Task, descriptor: int, messages: int, count: int, flags: int) -> int:
    return _several(task, "sendmmsg", messages, count, [descriptor, flags])


@calls.row("recvmmsg", "fd ptr int hex ptr", native=True)
def _recvmmsg(
    task: Task, descriptor: int, messages: int, count: int, flags: int, timeout: int
) -> int:
    limit = pointer(task.memory, timeout, 16)
    return _several(task, "recvmmsg", messages, count, [descriptor, flags, limit])
