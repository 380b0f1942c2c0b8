"""The memory of a program: what is mapped where in the engine's window, and access to it.

Guest address *a* is host address ``base + a``. Every page of the window that the guest
has not mapped is reserved without access, so the host's kernel answers EFAULT for a bad
pointer by itself; the map here says what the guest asked for. Pages that may be
executed are not so on the host: the translator reads them.
"""

from __future__ import annotations

import ctypes
import errno
from bisect import bisect_left, bisect_right

from tandemu.accel.user import CodePage, UserEngine
from tandemu.linux import host
from tandemu.linux.host import NUMBERS, PAGE, HostFault

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE = 1, 2, 3
MAP_TYPE, MAP_FIXED, MAP_ANONYMOUS, MAP_GROWSDOWN = 15, 0x10, 0x20, 0x100
MAP_NORESERVE, MAP_POPULATE, MAP_NONBLOCK, MAP_STACK = 0x4000, 0x8000, 0x10000, 0x20000
MAP_HUGETLB, MAP_FIXED_NOREPLACE = 0x40000, 0x100000
_PASSED_ON = MAP_TYPE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK
_MMAP, _MUNMAP, _MPROTECT, _MREMAP = (
    NUMBERS["mmap"], NUMBERS["munmap"], NUMBERS["mprotect"], NUMBERS["mremap"]
)  # fmt: skip
_RESERVED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED

LOWEST = 0x10000
"""Nothing is mapped below: vm.mmap_min_addr."""
TOP_GUARD = 1 << 16
"""Never mapped at the top, so that a structure at the end of the window cannot leave it."""

_READ_CHUNK = 4096
_SHORT_STRING = 128


def round_up(value: int) -> int:
    """Up to whole pages."""
    return (value + PAGE - 1) & -PAGE


class Mapping:
    """One stretch of mapped pages, all alike."""

    __slots__ = ("end", "flags", "name", "offset", "protection", "start")

    def __init__(
        self, start: int, end: int, protection: int, flags: int, name: str = "", offset: int = 0
    ) -> None:
        self.start, self.end = start, end
        self.protection, self.flags = protection, flags
        self.name, self.offset = name, offset

    def continues_in(self, other: Mapping) -> bool:
        """Whether *other* begins where this ends and is anonymous memory of the same kind."""
        return (
            self.end == other.start
            and self.protection == other.protection
            and self.flags == other.flags
            and self.name == other.name
            and self.name[:1] != "/"
        )

    def part(self, start: int, end: int) -> Mapping:
        """The same, of *start* to *end* only."""
        offset = self.offset + start - self.start if self.name[:1] == "/" else self.offset
        return Mapping(start, end, self.protection, self.flags, self.name, offset)


class Memory:
    """The mapped pages of one program and safe access to them."""

    def __init__(self, engine: UserEngine) -> None:
        self._engine = engine
        self.base = engine.base
        self.limit = engine.size
        """Addresses of the guest are below it."""
        self._starts: list[int] = []
        self._mappings: list[Mapping] = []
        self.top = self.limit - TOP_GUARD
        """Where mappings without a wish begin, downward."""
        self.break_start = self.break_end = 0
        self.has_one_thread = True
        """Nobody unmaps a page between a look at the map and an access."""
        if hasattr(engine, "code_page"):
            # An engine that asks whether code may be fetched at an address.
            engine.code_page = self.code_page

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

    def code_page(self, address: int) -> CodePage:
        """Whether the page of *address* may be executed, and written: somewhere else, if shared."""
        mapping = self.find(address)
        if mapping is None or not mapping.protection & PROT_EXEC:
            return CodePage.NONE
        if mapping.protection & PROT_WRITE or mapping.flags & MAP_SHARED:
            return CodePage.CHANGEABLE
        return CodePage.FIXED

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing is mapped from *start* to *end*."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and self._mappings[index].end > start:
            return False
        following = index + 1
        return following >= len(self._starts) or self._starts[following] >= end

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
        while True:
            floor = self._mappings[index - 1].end if index else LOWEST
            start = (end - size) & -align
            if start >= max(floor, LOWEST):
                return start
            if not index:
                return 0
            index -= 1
            end = min(self._mappings[index].start, self.top)

    # Changing -------------------------------------------------------------------------

    def _cut(self, start: int, end: int) -> list[tuple[int, int]]:
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

    def _add(self, mapping: Mapping) -> None:
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

    def _forget(self, code: list[tuple[int, int]]) -> None:
        """Have the engine forget its translations of some ranges."""
        for start, end in code:
            self._engine.code_changed(start, end - start)

    def flush_code(self, start: int, end: int) -> None:
        """The program wrote code from *start* to *end* and wants it seen."""
        if start >= end:
            # Linux flushes everything, whatever the range is.
            start, end = 0, self.limit
        start, end = min(start, self.limit), min(end, self.limit)
        self._engine.code_written(start, end - start)

    def map(
        self,
        address: int,
        size: int,
        protection: int,
        flags: int,
        descriptor: int = -1,
        offset: int = 0,
        name: str = "",
    ) -> int:
        """mmap(2); the guest address, or a negative error number."""
        if size <= 0 or offset % PAGE or address + size > 1 << 64:
            return -errno.EINVAL
        kind = flags & MAP_TYPE
        if kind not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE):
            return -errno.EINVAL
        size = round_up(size)
        if size > self.limit:
            return -errno.ENOMEM
        if flags & MAP_FIXED_NOREPLACE:
            if address % PAGE:
                return -errno.EINVAL
            if address < LOWEST or address + size > self.limit - TOP_GUARD:
                return -errno.ENOMEM
            if not self.is_free(address, address + size):
                return -errno.EEXIST
        elif flags & MAP_FIXED:
            if address % PAGE:
                return -errno.EINVAL
            if address < LOWEST:
                return -errno.EPERM
            if address + size > self.limit - TOP_GUARD:
                return -errno.ENOMEM
        else:
            address &= -PAGE
            if not (
                address >= LOWEST
                and address + size <= self.limit - TOP_GUARD
                and self.is_free(address, address + size)
            ):
                address = self.find_free(size)
                if not address:
                    return -errno.ENOMEM
        result = host.quick(
            _MMAP,
            self.base + address,
            size,
            _host_protection(protection),
            (flags & _PASSED_ON) | MAP_FIXED,
            descriptor,
            offset,
        )
        if result < 0:
            return result
        was_code = self._cut(address, address + size)
        self._add(Mapping(address, address + size, protection & 7, flags & MAP_TYPE, name, offset))
        self._forget(was_code)
        return address

    def unmap(self, address: int, size: int) -> int:
        """munmap(2)."""
        if address % PAGE or size <= 0 or address + size > self.limit:
            return -errno.EINVAL
        size = round_up(size)
        result = self._reserve(address, size)
        if result < 0:
            return result
        self._forget(self._cut(address, address + size))
        return 0

    def _reserve(self, address: int, size: int) -> int:
        return min(0, host.quick(_MMAP, self.base + address, size, 0, _RESERVED, -1, 0))

    def protect(self, address: int, size: int, protection: int) -> int:
        """mprotect(2)."""
        if address % PAGE or protection & ~7:
            return -errno.EINVAL
        size = round_up(size)
        end = address + size
        if not size:
            return 0
        if end > self.limit or not self.covers(address, end):
            return -errno.ENOMEM
        result = host.quick(_MPROTECT, self.base + address, size, _host_protection(protection))
        if result < 0:
            return result
        index = bisect_right(self._starts, address) - 1
        pieces = []
        while index < len(self._mappings) and self._mappings[index].start < end:
            mapping = self._mappings[index]
            pieces.append(mapping.part(max(mapping.start, address), min(mapping.end, end)))
            index += 1
        code = self._cut(address, end)
        for piece in pieces:
            piece.protection = protection
            self._add(piece)
        self._forget(code)
        return 0

    def remap(self, address: int, old_size: int, size: int, flags: int, wish: int) -> int:
        """mremap(2); moving what does not grow where it is."""
        may_move, fixed, keep = flags & 1, flags & 2, flags & 4
        if address % PAGE or not size or flags & ~7 or ((fixed or keep) and not may_move):
            return -errno.EINVAL
        old_size, size = round_up(old_size), round_up(size)
        if size > self.limit or old_size > self.limit:
            return -errno.EINVAL
        mapping = self.find(address)
        if mapping is None or address + old_size > mapping.end:
            return -errno.EFAULT
        if not old_size and mapping.flags == MAP_PRIVATE:
            return -errno.EINVAL
        if keep:
            return -errno.EINVAL
        end = address + old_size
        if not fixed:
            if size <= old_size:
                if size < old_size:
                    self.unmap(address + size, old_size - size)
                return address
            can_grow = self.is_free(end, address + size) and address + size <= (
                self.limit - TOP_GUARD
            )
            if can_grow and mapping.flags == MAP_PRIVATE and mapping.name[:1] != "/":
                result = self.map(
                    end, size - old_size, mapping.protection,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, name=mapping.name,
                )  # fmt: skip
                return address if result >= 0 else result
            if not may_move:
                return -errno.ENOMEM
            wish = self.find_free(size)
            if not wish:
                return -errno.ENOMEM
        elif wish % PAGE or (wish < end and address < wish + size):
            return -errno.EINVAL
        elif wish < LOWEST or wish + size > self.limit - TOP_GUARD:
            return -errno.ENOMEM
        if old_size > size:
            self.unmap(address + size, old_size - size)
            old_size = size
        moved = mapping.part(address, address + old_size)
        result = host.quick(
            _MREMAP, self.base + address, old_size, size, 3, self.base + wish
        )  # fmt: skip
        if result < 0:
            return result
        # The host left a hole in the window: nobody else may get it.
        code = []
        if old_size:
            self._reserve(address, old_size)
            code = self._cut(address, address + old_size)
        code += self._cut(wish, wish + size)
        moved.start, moved.end = wish, wish + size
        self._add(moved)
        self._forget(code)
        return wish

    def set_break(self, wanted: int) -> int:
        """brk(2): the new end of the heap, or the old one where it cannot be had."""
        if wanted < self.break_start:
            return self.break_end
        old, new = round_up(self.break_end), round_up(wanted)
        if new > old:
            if new > self.top or not self.is_free(old, new):
                return self.break_end
            flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
            if self.map(old, new - old, PROT_READ | PROT_WRITE, flags, name="[heap]") < 0:
                return self.break_end
        elif new < old:
            self.unmap(new, old - new)
        self.break_end = wanted
        return wanted

    def clear(self) -> None:
        """Unmap everything: another program comes."""
        self._reserve(0, self.limit)
        code = [(one.start, one.end) for one in self._mappings if one.protection & PROT_EXEC]
        self._starts.clear()
        self._mappings.clear()
        self.top = self.limit - TOP_GUARD
        self.break_start = self.break_end = 0
        self._forget(code)

    # Access ---------------------------------------------------------------------------

    def host_address(self, address: int, size: int = 1) -> int:
        """The host address for the host's kernel to use; HostFault outside of the window."""
        if address + size > self.limit:
            raise HostFault
        return self.base + address

    def _is_surely_there(self, address: int, size: int, protection: int) -> bool:
        """Whether an access cannot fault: it needs no help of the host's kernel then.

        A page of a file can be missing all the same, behind the file's end.
        """
        if not self.has_one_thread:
            return False
        mapping = self.find(address)
        return (
            mapping is not None
            and address + size <= mapping.end
            and bool(mapping.protection & protection)
            and mapping.name[:1] != "/"
        )

    def read(self, address: int, size: int) -> bytes:
        """Read *size* bytes; HostFault if they are not all there."""
        if self._is_surely_there(address, size, PROT_READ):
            return ctypes.string_at(self.base + address, size)
        if address + size > self.limit:
            raise HostFault
        buffer = ctypes.create_string_buffer(size)
        host.copy(ctypes.addressof(buffer), self.base + address, size, write=False)
        return buffer.raw

    def write(self, address: int, data: bytes | bytearray) -> None:
        """Write *data*; HostFault if it cannot be."""
        size = len(data)
        if self._is_surely_there(address, size, PROT_WRITE):
            ctypes.memmove(self.base + address, bytes(data), size)
            return
        if address + size > self.limit:
            raise HostFault
        if size:
            source = (ctypes.c_char * size).from_buffer_copy(data)
            host.copy(self.base + address, ctypes.addressof(source), size, write=True)

    def read_word(self, address: int, size: int = 8) -> int:
        """Read an unsigned little-endian number of *size* bytes."""
        return int.from_bytes(self.read(address, size), "little")

    def write_word(self, address: int, value: int, size: int = 8) -> None:
        """Write the low *size* bytes of *value*."""
        self.write(address, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))

    def read_string(self, address: int, most: int = PAGE) -> bytes:
        """Read up to a zero byte; HostFault if memory ends first, ENAMETOOLONG after *most*."""
        if self._is_surely_there(address, _SHORT_STRING, PROT_READ):
            data = ctypes.string_at(self.base + address, _SHORT_STRING)
            end = data.find(0)
            if end >= 0:
                return data[:end]
        parts = []
        total = 0
        buffer = ctypes.create_string_buffer(_READ_CHUNK)
        place = ctypes.addressof(buffer)
        size = 256
        while True:
            # Never across a page border: the next page may not be there.
            size = min(size, PAGE - address % PAGE)
            if address >= self.limit:
                raise HostFault
            got = host.copied_prefix(place, self.base + address, size)
            if got <= 0:
                raise HostFault
            data = ctypes.string_at(place, got)
            end = data.find(0)
            if end >= 0:
                parts.append(data[:end])
                return b"".join(parts)
            parts.append(data)
            total += got
            if total >= most:
                raise OSError(errno.ENAMETOOLONG, "string too long")
            address += got
            size = PAGE


def _host_protection(protection: int) -> int:
    # The translator reads what the guest may only execute.
    return (protection & 3) | (PROT_READ if protection & (PROT_EXEC | PROT_WRITE) else 0)
