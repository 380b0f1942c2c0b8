"""What is mapped where in a program's memory: a list of stretches, lowest first, and its limits.

The limits are RLIMIT_AS and RLIMIT_DATA as Linux counts them (mm/mmap.c, may_expand_vm): the
host's own would bind the translator as well.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from tandemu.linux.host import PAGE

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
GROWS_DOWN, NOT_IN_CHILD = 1, 2
"""A mapping that an access below it makes longer; one that fork leaves out."""


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
        """A set of `GROWS_DOWN` and `NOT_IN_CHILD`."""

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


class Mappings:
    """The mapped stretches of a window of *limit* bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Addresses of the guest are below it."""
        self._starts: list[int] = []
        self._mappings: list[Mapping] = []
        self.top = self.limit - TOP_GUARD
        """Where mappings without a wish begin, downward."""
        self.address_space_limit = self.data_limit = self.stack_limit = UNLIMITED
        """Soft RLIMIT_AS, RLIMIT_DATA and RLIMIT_STACK in bytes."""
        self.grows = False
        """Whether a mapping but the main stack grows downward."""

    # Looking --------------------------------------------------------------------------

    @property
    def mappings(self) -> list[Mapping]:
        """What is mapped, lowest first."""
        return self._mappings

    def find(self, address: int) -> Mapping | None:
        """The mapping that holds *address*."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._mappings[index].end:
            return self._mappings[index]
        return None

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing is mapped from *start* to *end*."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and self._mappings[index].end > start:
            return False
        following = index + 1
        return following >= len(self._starts) or self._starts[following] >= end

    def neighbours(self, address: int) -> tuple[Mapping | None, Mapping | None]:
        """The first mapping that begins at *address* or above it, and the one before that."""
        index = bisect_left(self._starts, address)
        above = self._mappings[index] if index < len(self._mappings) else None
        return above, self._mappings[index - 1] if index else None

    def covers(self, start: int, end: int) -> bool:
        """Whether all of *start* to *end* is mapped."""
        index = bisect_right(self._starts, start) - 1
        if index < 0:
            return start >= end
        while start < end:
            if index >= len(self._mappings):
                return False
            mapping = self._mappings[index]
            if not mapping.start <= start < mapping.end:
                return False
            start = mapping.end
            index += 1
        return True

    def find_free(self, size: int, align: int = PAGE) -> int:
        """The highest free stretch of *size* bytes below `top`; 0 if there is none."""
        end = self.top
        index = bisect_left(self._starts, end)
        if self.grows and index < len(self._starts):
            end = min(end, self._mappings[index].start - self._gap(index))
        while True:
            floor = self._mappings[index - 1].end if index else LOWEST
            start = (end - size) & -align
            if start >= max(floor, LOWEST):
                return start
            if not index:
                return 0
            index -= 1
            end = min(self._mappings[index].start - self._gap(index), self.top)

    def _gap(self, index: int) -> int:
        """How much must be free below a mapping."""
        return STACK_GAP if self.grows and self._mappings[index].traits & GROWS_DOWN else 0

    def pieces(self, start: int, end: int) -> list[Mapping]:
        """What is mapped from *start* to *end*, cut off there."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        found = []
        while index < len(self._mappings) and self._mappings[index].start < end:
            mapping = self._mappings[index]
            if mapping.end > start:
                found.append(mapping.part(max(mapping.start, start), min(mapping.end, end)))
            index += 1
        return found

    # Limits ---------------------------------------------------------------------------

    def total_size(self) -> int:
        """The bytes that are mapped; the main stack's as far as it is used from the start."""
        return sum(
            min(one.end - one.start, _INITIAL_STACK)
            if one.name == "[stack]" and one.traits & GROWS_DOWN
            else one.end - one.start
            for one in self._mappings
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
        data = sum(one.end - one.start for one in self._mappings if one.is_data)
        return data + size <= self.data_limit

    # Changing -------------------------------------------------------------------------

    def cut(self, start: int, end: int) -> list[tuple[int, int]]:
        """Forget what is mapped from *start* to *end*; which ranges of it were code."""
        starts, mappings = self._starts, self._mappings
        first = bisect_right(starts, start) - 1
        if first < 0 or mappings[first].end <= start:
            first += 1
        last = bisect_left(starts, end)
        if first >= last:
            return []
        code = []
        kept = []
        for mapping in mappings[first:last]:
            if mapping.protection & PROT_EXEC:
                code.append((max(mapping.start, start), min(mapping.end, end)))
            if mapping.start < start:
                kept.append(mapping.part(mapping.start, start))
            if mapping.end > end:
                kept.append(mapping.part(end, mapping.end))
        mappings[first:last] = kept
        starts[first:last] = [mapping.start for mapping in kept]
        return code

    def add(self, mapping: Mapping) -> None:
        """Enter *mapping*, made one with its neighbours that are alike.

        A program that maps again and again would have a list that takes long to search.
        """
        starts, mappings = self._starts, self._mappings
        index = bisect_left(starts, mapping.start)
        if index and mappings[index - 1].continues_in(mapping):
            index -= 1
            mapping.start = mappings[index].start
            del starts[index], mappings[index]
        if index < len(mappings) and mapping.continues_in(mappings[index]):
            mapping.end = mappings[index].end
            del starts[index], mappings[index]
        starts.insert(index, mapping.start)
        mappings.insert(index, mapping)
