"""mremap(2): mappings that grow, shrink and move inside the window.

The checks and their order are those of Linux's mm/mremap.c. The host's own call does the moving;
the window never has a hole for longer than that takes.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.mappings import (
    LOWEST,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    SEALED,
    TOP_GUARD,
    UNLIMITED,
    Mapping,
    round_up,
)
from tandemu.linux.memory import host_protection

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory

_MMAP, _MUNMAP, _MREMAP = NUMBERS["mmap"], NUMBERS["munmap"], NUMBERS["mremap"]
_MAYMOVE, _FIXED, _DONTUNMAP = 1, 2, 4


def remap(memory: Memory, address: int, old_size: int, size: int, flags: int, wish: int) -> int:
    """mremap(2), with its checks in the order of mm/mremap.c."""
    may_move, fixed, keep = flags & 1, flags & 2, flags & 4
    if flags & ~7 or address % PAGE:
        return -errno.EINVAL
    old_size, size = round_up(old_size), round_up(size)
    if not size & UNLIMITED or size > memory.limit:
        return -errno.EINVAL
    if fixed or keep:
        if wish > memory.limit - size or wish % PAGE or not may_move:
            return -errno.EINVAL
        if keep and old_size != size:
            return -errno.EINVAL
        if address + old_size > wish and wish + size > address:
            return -errno.EINVAL
    mapping = memory.find(address)
    if mapping is None:
        return -errno.EFAULT
    end = address + old_size
    if mapping.traits & SEALED or (fixed and memory.is_sealed(wish, wish + size)):
        return -errno.EPERM
    if not (fixed or keep):
        if size <= old_size and old_size:
            return _shrink(memory, address, old_size, size)
    elif fixed and wish < LOWEST:
        return -errno.EPERM
    elif fixed and wish + size > memory.limit - TOP_GUARD:
        return -errno.ENOMEM
    if not old_size and mapping.flags == MAP_PRIVATE:
        return -errno.EINVAL
    if end > mapping.end:
        if fixed and size == old_size:
            return _move_several(memory, address, end, wish, flags)
        return -errno.EFAULT
    grown = size if keep else size - old_size
    if grown > 0 and not memory.may_add(grown, mapping.is_data):
        return -errno.ENOMEM
    if not (fixed or keep):
        if old_size and end == mapping.end and _grow_in_place(memory, mapping, size - old_size):
            return address
        if not may_move:
            return -errno.ENOMEM
    if not fixed:
        free = wish if keep and wish >= LOWEST and memory.is_free(wish, wish + size) else 0
        wish = free or memory.find_free(size)
        if not wish:
            return -errno.ENOMEM
    if old_size > size:
        memory.unmap(address + size, old_size - size)
        old_size = size
    return _move(memory, mapping, address, old_size, size, wish, bool(keep))


def _shrink(memory: Memory, address: int, old_size: int, size: int) -> int:
    """Give back the end of a stretch, whatever is mapped there."""
    if size < old_size:
        result = memory.unmap(address + size, old_size - size)
        if result < 0:
            return result
    return address


def _grow_in_place(memory: Memory, mapping: Mapping, more: int) -> bool:
    """Make *mapping* longer by *more* bytes behind its end, if they are free."""
    end, new_end = mapping.end, mapping.end + more
    if not memory.is_free(end, new_end) or new_end > memory.limit - TOP_GUARD:
        return False
    if mapping.flags == MAP_PRIVATE and mapping.name[:1] != "/":
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        return memory.map(end, more, mapping.protection, flags, name=mapping.name) >= 0
    # Of shared memory the kernel makes a second view of any size; its end is moved here.
    # The window never has a hole in which another part of this process could be mapped.
    last = end - PAGE
    if mapping.flags == MAP_PRIVATE:
        return _grow_private_file(memory, mapping, more)
    view = host.quick(_MREMAP, memory.base + last, 0, more + PAGE, 1)
    if view < 0:
        return False
    moved = host.quick(_MREMAP, view + PAGE, more, more, 3, memory.base + end)
    host.quick(_MUNMAP, view, PAGE if moved > 0 else PAGE + more)
    if moved < 0:
        return False
    _lengthen(memory, mapping, more)
    return True


def _grow_private_file(memory: Memory, mapping: Mapping, more: int) -> bool:
    """The same for a private view of a file, for whose next pages the file is asked."""
    try:
        descriptor = os.open(mapping.name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        there = os.fstat(descriptor)
        if not _is_of_file(memory, mapping.start, there.st_dev, there.st_ino):
            return False
        offset = mapping.offset + mapping.end - mapping.start
        result = host.quick(
            _MMAP, memory.base + mapping.end, more, host_protection(mapping.protection),
            MAP_PRIVATE | MAP_FIXED, descriptor, offset,
        )  # fmt: skip
    finally:
        os.close(descriptor)
    if result < 0:
        return False
    _lengthen(memory, mapping, more)
    return True


def _is_of_file(memory: Memory, address: int, device: int, inode: int) -> bool:
    """Whether the host maps that file at *address*."""
    beginning = f"{memory.base + address:x}-"
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if line.startswith(beginning):
                major, minor = (int(part, 16) for part in words[3].split(":"))
                return (os.makedev(major, minor), int(words[4])) == (device, inode)
    return False


def _lengthen(memory: Memory, mapping: Mapping, more: int) -> None:
    code = memory.cut(mapping.start, mapping.end)
    mapping.end += more
    memory.add(mapping)
    memory.forget(code)


def _move(
    memory: Memory, mapping: Mapping, address: int, old_size: int, size: int, wish: int, keep: bool
) -> int:
    """Move *old_size* bytes of *mapping* to *wish*, where they become *size* bytes."""
    moved = mapping.part(address, address + old_size)
    flags = 7 if keep else 3
    result = host.quick(_MREMAP, memory.base + address, old_size, size, flags, memory.base + wish)
    if result < 0:
        return result
    code = []
    if old_size and not keep:
        # The host left a hole in the window: nobody else may get it.
        memory.reserve(address, old_size)
        code = memory.cut(address, address + old_size)
    code += memory.cut(wish, wish + size)
    moved.start, moved.end = wish, wish + size
    memory.add(moved)
    memory.forget(code)
    return wish


def _move_several(memory: Memory, address: int, end: int, wish: int, flags: int) -> int:
    """Move all that is mapped from *address* to *end*, holes between included."""
    pieces = memory.pieces(address, end)
    if flags & 4 and len(pieces) > 1:
        return -errno.EFAULT
    memory.unmap(wish, end - address)
    for piece in pieces:
        size = piece.end - piece.start
        target = wish + piece.start - address
        result = _move(memory, piece, piece.start, size, size, target, bool(flags & 4))
        if result < 0:
            return result
    return wish
