"""What the system calls share: signed arguments, vectors, paths."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from tandemu.linux import host
from tandemu.linux.host import HostFault
from tandemu.linux.table import POINTERS, Calls, Handler, Row

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel
    from tandemu.linux.memory import Memory
    from tandemu.linux.task import Task

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
MOST_VECTORS = 1024
_NO_ADDRESS = 1 << 63
"""The host's kernel takes no pointer there."""

Buffer = ctypes.Array[ctypes.c_char]


def signed(value: int) -> int:
    """An int argument."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def signed_long(value: int) -> int:
    """A long argument."""
    return value - (1 << 64) if value >> 63 else value


def pointer(memory: Memory, address: int, size: int = 1) -> int:
    """The host address of a structure that may be missing: 0 stays 0."""
    return memory.host_address(address, size) if address else 0


def for_host(memory: Memory, address: int) -> int:
    """The host address for a kernel that looks itself, and when it would: EFAULT is its answer.

    It begins at *address* and goes upward, so it meets the guard at the window's end.
    """
    return memory.base + address if address < memory.limit else _NO_ADDRESS


def host_vectors(memory: Memory, address: int, count: int) -> Buffer:
    """The guest's struct iovec array with host addresses."""
    if count > MOST_VECTORS:
        raise OSError(errno.EINVAL, "too many vectors")
    words = struct.unpack(f"<{2 * count}Q", memory.read(address, 16 * count))
    base, limit = memory.base, memory.limit
    translated = []
    for start, size in zip(words[::2], words[1::2], strict=True):
        if size >> 63:
            raise OSError(errno.EINVAL, "a vector of negative size")
        if start + size > limit:
            if size:
                raise HostFault
            translated += [base, 0]
        else:
            translated += [base + start, size]
    return ctypes.create_string_buffer(struct.pack(f"<{2 * count}Q", *translated), 16 * count or 1)


def host_path(
    task: Task, directory: int, address: int, follow: bool = True, *, new: bool = False
) -> Buffer | None:
    """The host's name of the path at *address* if it differs; None: pass the guest's pointer.

    It begins at *directory*, if it is not absolute. *new*: the call may make what it names.
    """
    kernel = task.kernel
    text = kernel.memory.read_string(address)
    if follow and text.endswith(b"exe"):
        program = kernel.files.exe_of(signed(directory), text)
        if program:
            return ctypes.create_string_buffer(os.fsencode(program))
    if text[:1] != b"/":
        return None
    if not kernel.files.sysroot:
        return None
    look_up = kernel.files.resolve_new if new else kernel.files.resolve
    found = look_up(os.fsdecode(text), follow)
    encoded = os.fsencode(found)
    return None if encoded == text else ctypes.create_string_buffer(encoded)


def on_path(
    calls: Calls,
    name: str,
    arguments: str,
    *,
    flags: int = -1,
    nofollow: bool = False,
    new: bool = False,
) -> None:
    """Declare a call that looks paths up, in the sysroot first.

    *flags* is the index of the AT_* flags, which may say that links are not followed.
    *new*: it makes, removes or renames; the link itself then, not what it leads to.
    """
    number = host.NUMBERS[name]
    kinds = arguments.split()
    paths = [index for index, kind in enumerate(kinds) if kind == "path"]
    others = [index for index, kind in enumerate(kinds) if kind in POINTERS and kind != "path"]

    def bind(kernel: Kernel) -> Handler:
        memory = kernel.memory
        base, limit = memory.base, memory.limit

        def call(task: Task, *given: int) -> Any:
            values = list(given)
            kept = []
            for index in others:
                if values[index]:
                    if values[index] >= limit:
                        return -errno.EFAULT
                    values[index] += base
            for index in paths:
                if not values[index]:
                    continue
                follow = not nofollow and not (flags >= 0 and given[flags] & AT_SYMLINK_NOFOLLOW)
                at = given[index - 1] if index and kinds[index - 1] == "dirfd" else AT_FDCWD
                buffer = host_path(task, at, values[index], follow and not new, new=new)
                if buffer is None:
                    values[index] = memory.host_address(values[index])
                else:
                    kept.append(buffer)
                    values[index] = ctypes.addressof(buffer)
            return host.call(number, *values)

        return call

    calls.rows.append(Row(name, arguments, bind, is_native=True))
