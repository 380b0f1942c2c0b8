"""Stacks: the main one and its limit, and mappings that grow downward (MAP_GROWSDOWN).

The main stack is mapped in its full length from the start, for an access to it is the host's
and finds no way back into the program once it is refused. What the host has not been asked for
costs nothing. Follows Linux's mm/vma.c (acct_stack_growth, expand_downwards).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.mappings import (
    GROWS_DOWN,
    LOWEST,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_STACK,
    PROT_READ,
    PROT_WRITE,
    STACK_GAP,
    round_up,
)
from tandemu.linux.memory import host_protection

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory

_MMAP, _MINCORE = NUMBERS["mmap"], NUMBERS["mincore"]
_LOOK_BYTES = 64 << 20


def grow_down(memory: Memory, address: int) -> bool:
    """Lengthen the mapping above *address* down to it, if it grows and may (mm/mmap.c)."""
    if not memory.grows or address < LOWEST:
        return False
    mapping, floor = memory.neighbours(address)
    if mapping is None:
        return False
    start = address & -PAGE
    if not mapping.traits & GROWS_DOWN or mapping.end - start > memory.stack_limit:
        return False
    if floor is not None and not floor.traits & GROWS_DOWN and floor.protection:
        if start - floor.end < STACK_GAP:
            return False
    elif floor is not None and floor.end > start:
        return False
    more = mapping.start - start
    if not memory.may_add(more, False):
        return False
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN
    return memory.map(start, more, mapping.protection, flags, name=mapping.name) >= 0


def make_stack(memory: Memory, top: int, size: int, room: int) -> int:
    """Map the main stack, *size* bytes below *top*; an error number if that fails.

    It is there in its full length, for the host's kernel does not find its way from a
    refused access back into the program; *room* bytes are kept for it.
    """
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_FIXED
    result = memory.map(top - size, size, PROT_READ | PROT_WRITE, flags, name="[stack]")
    if result < 0:
        return result
    for mapping in memory.pieces(top - size, top):
        memory.cut(mapping.start, mapping.end)
        mapping.traits |= GROWS_DOWN
        memory.add(mapping)
    memory.top = top - room - STACK_GAP
    memory.stack_floor = top - room
    return 0


def limit_stack(memory: Memory, size: int) -> None:
    """RLIMIT_STACK is *size* bytes now: what the main stack has not used follows."""
    memory.stack_limit = size
    stack = next((one for one in memory.mappings if one.name == "[stack]"), None)
    if stack is None or not stack.traits & GROWS_DOWN:
        return
    bottom = max(stack.end - min(round_up(size), memory.limit), memory.stack_floor)
    if bottom < stack.start:
        more = stack.start - bottom
        if memory.is_free(bottom, stack.start):
            flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_FIXED
            place = memory.base + bottom
            protection = host_protection(stack.protection)
            if host.quick(_MMAP, place, more, protection, flags, -1, 0) > 0:
                memory.cut(stack.start, stack.end)
                stack.start = bottom
                memory.add(stack)
    elif bottom > stack.start:
        used = first_present(memory, stack.start, bottom)
        if used > stack.start:
            memory.unmap(stack.start, used - stack.start)


def first_present(memory: Memory, start: int, end: int) -> int:
    """The lowest page from *start* to *end* that the host has in memory; *end* if none."""
    while start < end:
        size = min(end - start, _LOOK_BYTES)
        vector = ctypes.create_string_buffer(size // PAGE)
        if host.quick(_MINCORE, memory.base + start, size, ctypes.addressof(vector)) < 0:
            return start
        absent = size // PAGE - len(vector.raw.lstrip(b"\0"))
        start += absent * PAGE
        if absent < size // PAGE:
            return start
    return end
