"""What is mapped where in a program's memory: a table of stretches, lowest first, and its limits.

The table is native memory (`native.layout.MAPPING`), which native calls change as well: who changes
it here holds the kernel's `memory_lock`.

The limits are RLIMIT_AS and RLIMIT_DATA as Linux counts them (mm/mmap.c, may_expand_vm): the
host's own would bind the translator as well.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import TYPE_CHECKING, Any, ClassVar

from tandemu.linux.host import PAGE
from tandemu.linux.native.layout import HEAP_NAME, MAPPING, MAPPING_LIMIT, NO_NAME, OF_FILE

if TYPE_CHECKING:
    from tandemu.linux.native.image import NativeCalls

_ENTRY = struct.Struct("<QQIIIIQ")

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE = 1, 2, 3
MAP_TYPE, MAP_FIXED, MAP_ANONYMOUS, MAP_GROWSDOWN = 15, 0x10, 0x20, 0x100
MAP_LOCKED, MAP_NORESERVE, MAP_POPULATE, MAP_NONBLOCK = 0x2000, 0x4000, 0x8000, 0x10000
MAP_STACK, MAP_HUGETLB, MAP_FIXED_NOREPLACE, MAP_DROPPABLE = 0x20000, 0x40000, 0x100000, 8

LOWEST = 0x10000
"""Nothing is mapped below: vm.mmap_min_addr."""
TOP_GUARD = 1 << 16
"""Never mapped at the top, so that a structure at the end of the window cannot leave it."""
STACK_GAP = 1 << 20
"""Kept free below what grows downward: running over its end is a fault, not another's memory."""
_INITIAL_STACK = 33 * PAGE
"""So much of the main stack counts as used before the program runs (fs/exec.c)."""
SHARED_ANONYMOUS = "/dev/zero (deleted)"
"""The file that shared memory without a file is of."""
UNLIMITED = (1 << 64) - 1


def round_up(value: int) -> int:
    """Up to whole pages."""
    return (value + PAGE - 1) & -PAGE


LOCK_ON_FAULT = 1
"""In the place of MAP_LOCKED: mlockall(MCL_FUTURE | MCL_ONFAULT), for which mmap has no flag."""
GROWS_DOWN, NOT_IN_CHILD, SEALED = 1, 2, 4
"""A mapping that an access below it makes longer; one that fork leaves out; one that stays as it
is until the program ends (mseal(2))."""


class Mapping:
    """One stretch of mapped pages, all alike."""

    __slots__ = ("end", "flags", "name", "offset", "protection", "start", "traits")

    def __init__(
        self,
        start: int,
        end: int,
        protection: int,
        flags: int,
        name: str = "",
        offset: int = 0,
        traits: int = 0,
    ) -> None:
        self.start, self.end = start, end
        self.protection, self.flags = protection, flags
        self.name, self.offset = name, offset
        self.traits = traits
        """A set of `GROWS_DOWN`, `NOT_IN_CHILD` and `SEALED`."""

    def continues_in(self, other: Mapping) -> bool:
        """Whether *other* begins where this ends and is anonymous memory of the same kind."""
        return (
            self.end == other.start
            and self.protection == other.protection
            and self.flags == other.flags
            and self.name == other.name
            and self.traits == other.traits
            and self.name[:1] != "/"
        )

    def part(self, start: int, end: int) -> Mapping:
        """The same, of *start* to *end* only."""
        offset = self.offset + start - self.start if self.name[:1] == "/" else self.offset
        return Mapping(start, end, self.protection, self.flags, self.name, offset, self.traits)

    @property
    def is_data(self) -> bool:
        """Whether RLIMIT_DATA counts it: private, writable, no stack."""
        return (
            self.flags == MAP_PRIVATE
            and bool(self.protection & PROT_WRITE)
            and not self.traits & GROWS_DOWN
        )


class _Restricting:
    """An attribute that makes Python look at every mapping while it is not what it was at first."""

    def __init__(self, default: int) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = "_" + name
        owner.restricting[name] = self._default  # type: ignore[attr-defined]

    def __get__(self, instance: Any, owner: type) -> int:
        return int(instance.__dict__.get(self._name, self._default))

    def __set__(self, instance: Any, value: int) -> None:
        instance.__dict__[self._name] = value
        changed = any(getattr(instance, key) != was for key, was in instance.restricting.items())
        instance.native.process.restricted = int(changed)


class _Shared:
    """A field of the structure that native calls share (`native.layout.PROCESS`)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> int:
        return int(getattr(instance.native.process, self._name))

    def __set__(self, instance: Any, value: int) -> None:
        setattr(instance.native.process, self._name, value)


class Mappings:
    """The mapped stretches of a window of *limit* bytes."""

    restricting: ClassVar[dict[str, int]] = {}
    address_space_limit, data_limit = _Restricting(UNLIMITED), _Restricting(UNLIMITED)
    """Soft RLIMIT_AS and RLIMIT_DATA in bytes."""
    locks_new = _Restricting(0)
    """MAP_LOCKED or LOCK_ON_FAULT if mlockall(MCL_FUTURE) holds."""
    denies_write_execute = _Restricting(0)
    """PR_SET_MDWE."""
    has_seals = _Restricting(0)
    """Whether a mapping is `SEALED`."""
    grows = _Restricting(0)
    """Whether a mapping but the main stack grows downward."""
    top = _Shared("top")
    """Where mappings without a wish begin, downward."""
    break_start, break_end = _Shared("break_start"), _Shared("break_end")

    def __init__(self, limit: int, native: NativeCalls) -> None:
        self.limit = limit
        """Addresses of the guest are below it."""
        self.native = native
        self.names = NameTable()
        size = MAPPING.size * MAPPING_LIMIT
        # Pages of an anonymous mapping cost memory only once touched.
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._table = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        native.process.mappings = self._table
        self._process = native.process_address
        self._found = ctypes.create_string_buffer(MAPPING.size)
        self.top = self.limit - TOP_GUARD
        self.stack_limit = UNLIMITED
        """Soft RLIMIT_STACK in bytes."""
        helper = native.quick_helper
        self._count_until, self._find = helper("count_until", 2), helper("find", 3)
        self._is_free, self._find_free = helper("is_free", 3), helper("find_free", 3)
        self._cut, self._add = helper("cut", 3), helper("add", 2)
        self.lock = Lock(native)

    # Looking --------------------------------------------------------------------------

    def _made(self, data: bytes) -> Mapping:
        start, end, protection, flags, traits, name, offset = _ENTRY.unpack(data)
        return Mapping(start, end, protection, flags, self.names.text(name), offset, traits)

    def _entry(self, index: int) -> Mapping:
        return self._made(ctypes.string_at(self._table + index * MAPPING.size, MAPPING.size))

    @property
    def count(self) -> int:
        """How many mappings there are."""
        number: int = self.native.process.mapping_count
        return number

    @property
    def mappings(self) -> list[Mapping]:
        """What is mapped, lowest first, as it is now."""
        process = self.native.process
        while True:
            before = process.mapping_changes
            data = ctypes.string_at(self._table, process.mapping_count * MAPPING.size)
            if not before & 1 and process.mapping_changes == before:
                break
        size = MAPPING.size
        return [self._made(data[place : place + size]) for place in range(0, len(data), size)]

    def find(self, address: int) -> Mapping | None:
        """The mapping that holds *address*."""
        found = ctypes.create_string_buffer(MAPPING.size)
        if self._find(self._process, address, ctypes.addressof(found)):
            return self._made(found.raw)
        return None

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing is mapped from *start* to *end*."""
        return bool(self._is_free(self._process, start, end))

    def neighbours(self, address: int) -> tuple[Mapping | None, Mapping | None]:
        """The first mapping that begins at *address* or above it, and the one before that."""
        index = self._count_until(self._process, address - 1)
        above = self._entry(index) if index < self.count else None
        return above, self._entry(index - 1) if index else None

    def covers(self, start: int, end: int) -> bool:
        """Whether all of *start* to *end* is mapped."""
        for piece in self.pieces(start, end):
            if piece.start != start:
                return False
            start = piece.end
        return start >= end

    def find_free(self, size: int, align: int = PAGE) -> int:
        """The highest free stretch of *size* bytes below `top`; 0 if there is none."""
        return int(self._find_free(self._process, size, align))

    def pieces(self, start: int, end: int) -> list[Mapping]:
        """What is mapped from *start* to *end*, cut off there."""
        index = max(self._count_until(self._process, start) - 1, 0)
        count = self.count
        found = []
        while index < count:
            mapping = self._entry(index)
            if mapping.start >= end:
                break
            if mapping.end > start:
                found.append(mapping.part(max(mapping.start, start), min(mapping.end, end)))
            index += 1
        return found

    def is_sealed(self, start: int, end: int) -> bool:
        """Whether something from *start* to *end* must stay as it is."""
        return bool(self.has_seals) and any(one.traits & SEALED for one in self.pieces(start, end))

    # Limits ---------------------------------------------------------------------------

    def total_size(self) -> int:
        """The bytes that are mapped; the main stack's as far as it is used from the start."""
        return sum(
            min(one.end - one.start, _INITIAL_STACK)
            if one.name == "[stack]" and one.traits & GROWS_DOWN
            else one.end - one.start
            for one in self.mappings
        )

    def may_add(self, size: int, is_data: bool, start: int = 0, end: int = 0) -> bool:
        """Whether *size* more bytes are within the limits, if *start* to *end* goes for them.

        mm/mmap.c, may_expand_vm.
        """
        if self.address_space_limit == UNLIMITED and self.data_limit == UNLIMITED:
            return True
        if self.total_size() + size > self.address_space_limit:
            gone = sum(one.end - one.start for one in self.pieces(start, end))
            if self.total_size() + size - gone > self.address_space_limit:
                return False
        if is_data:
            gone = sum(one.end - one.start for one in self.pieces(start, end) if one.is_data)
            return self.data_fits(size - gone)
        return True

    def data_fits(self, size: int) -> bool:
        """Whether RLIMIT_DATA leaves room for *size* more bytes."""
        if self.data_limit == UNLIMITED:
            return True
        data = sum(one.end - one.start for one in self.mappings if one.is_data)
        return data + size <= self.data_limit

    # Changing -------------------------------------------------------------------------

    def cut(self, start: int, end: int) -> list[tuple[int, int]]:
        """Forget what is mapped from *start* to *end*; which ranges of it were code."""
        code = [
            (piece.start, piece.end)
            for piece in self.pieces(start, end)
            if piece.protection & PROT_EXEC
        ]
        if start < end:
            self._make_room()
            self._cut(self._process, start, end)
        return code

    def add(self, mapping: Mapping) -> None:
        """Enter *mapping*, made one with its neighbours that are alike.

        A program that maps again and again would have a table that takes long to search.
        """
        self._make_room()
        packed = _ENTRY.pack(
            mapping.start, mapping.end, mapping.protection, mapping.flags, mapping.traits,
            self.names.number(mapping.name), mapping.offset,
        )  # fmt: skip
        entry = ctypes.create_string_buffer(packed, MAPPING.size)
        self._add(self._process, ctypes.addressof(entry))

    def _make_room(self) -> None:
        if self.count >= MAPPING_LIMIT - 2:
            raise MemoryError

    def clear_table(self) -> None:
        """Forget all mappings."""
        self.native.process.mapping_count = 0


class NameTable:
    """Names of mappings by number (`native.layout.MAPPING`)."""

    def __init__(self) -> None:
        self._texts = ["", "[heap]"]
        self._numbers = {"": NO_NAME, "[heap]": HEAP_NAME}

    def text(self, number: int) -> str:
        """The name with that number."""
        return self._texts[number & ~OF_FILE]

    def number(self, text: str) -> int:
        """The number of a name, with `OF_FILE` if it is a file's."""
        known = self._numbers.get(text)
        if known is None:
            known = len(self._texts) | (OF_FILE if text[:1] == "/" else 0)
            self._texts.append(text)
            self._numbers[text] = known
        return known


class Lock:
    """The lock of the table, which native calls take, too."""

    def __init__(self, native: NativeCalls) -> None:
        self._lock, self._unlock = native.helper("lock", 1), native.helper("unlock", 1)
        self._process = native.process_address

    def __enter__(self) -> None:
        self._lock(self._process)

    def __exit__(self, *_: object) -> None:
        self._unlock(self._process)
