"""The memory of a program: what is mapped where in the engine's window, and access to it.

Guest address *a* is host address ``base + a``. Every page of the window that the guest
has not mapped is reserved without access, so the host's kernel answers EFAULT for a bad
pointer by itself; the map here says what the guest asked for. Pages that may be
executed are not so on the host: the translator reads them.
"""

from __future__ import annotations

import ctypes
import errno

from tandemu.accel.user import CodePage, UserEngine
from tandemu.linux import host
from tandemu.linux.host import NUMBERS, PAGE, HostFault
from tandemu.linux.mappings import (
    GROWS_DOWN,
    LOCK_ON_FAULT,
    LOWEST,
    MAP_ANONYMOUS,
    MAP_DROPPABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_TYPE,
    NOT_IN_CHILD,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    SEALED,
    TOP_GUARD,
    Mapping,
    Mappings,
    round_up,
)
from tandemu.linux.native.image import NativeCalls

_HUGE_SHIFT, _HUGE_MASK, _HUGE_DEFAULT = 26, 63, 21
_PASSED_ON = (
    MAP_TYPE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK
    | MAP_LOCKED | MAP_HUGETLB | _HUGE_MASK << _HUGE_SHIFT
)  # fmt: skip
_MMAP, _MPROTECT, _MLOCK2 = NUMBERS["mmap"], NUMBERS["mprotect"], NUMBERS["mlock2"]
_RESERVED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED

_MADVISE, _DONT_DUMP, _DO_DUMP = NUMBERS["madvise"], 16, 17
_PROT_SEM, _PROT_GROWSDOWN, _PROT_GROWSUP = 8, 0x01000000, 0x02000000
_READ_CHUNK = 4096
_SHORT_STRING = 128


class Memory(Mappings):
    """The mapped pages of one program and safe access to them."""

    def __init__(self, engine: UserEngine, native: NativeCalls) -> None:
        super().__init__(engine.size, native)
        self.engine = engine
        self.base = engine.base
        native.process.base, native.process.limit = self.base, self.limit
        self.data_size = 0
        """Of the loaded program, which brk's limit counts."""
        self.stack_floor = 0
        """How far down the main stack may ever come."""
        self.has_one_thread = True
        """Nobody unmaps a page between a look at the map and an access."""
        self.has_guards = False
        """Whether pages can be refused that are mapped (MADV_GUARD_INSTALL)."""
        self.leaves_out = False
        """Whether a mapping is, or was, not for children (`NOT_IN_CHILD`)."""
        if hasattr(engine, "code_page"):
            # An engine that asks whether code may be fetched at an address.
            engine.code_page = self.code_page

    def code_page(self, address: int) -> CodePage:
        """Whether the page of *address* may be executed, and written: somewhere else, if shared."""
        # While it changes a mapping is not there for a moment.
        with self.lock:
            mapping = self.find(address)
        if mapping is None or not mapping.protection & PROT_EXEC:
            return CodePage.NONE
        if mapping.protection & PROT_WRITE or mapping.flags & MAP_SHARED:
            return CodePage.CHANGEABLE
        return CodePage.FIXED

    # Changing -------------------------------------------------------------------------

    def forget(self, code: list[tuple[int, int]]) -> None:
        """Have the engine forget its translations of some ranges."""
        for start, end in code:
            self.engine.code_changed(start, end - start)

    def flush_code(self, start: int, end: int) -> None:
        """The program wrote code from *start* to *end* and wants it seen."""
        if start >= end:
            # Linux flushes everything, whatever the range is.
            start, end = 0, self.limit
        start, end = min(start, self.limit), min(end, self.limit)
        self.engine.code_written(start, end - start)

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
        if offset % PAGE or not size:
            return -errno.EINVAL
        kind = flags & MAP_TYPE
        anonymous = flags & MAP_ANONYMOUS
        align = PAGE
        if flags & MAP_HUGETLB and anonymous:
            align = 1 << (flags >> _HUGE_SHIFT & _HUGE_MASK or _HUGE_DEFAULT)
        size = (size + align - 1) & -align
        if size > self.limit:
            return -errno.ENOMEM
        if offset + size > 1 << 64:
            return -errno.EOVERFLOW
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            if address + size > self.limit - TOP_GUARD:
                return -errno.ENOMEM
            if address % align:
                return -errno.EINVAL
            if address < LOWEST:
                return -errno.EPERM
            if flags & MAP_FIXED_NOREPLACE and not self.is_free(address, address + size):
                return -errno.EEXIST
        else:
            address &= -align
            if not (
                address >= LOWEST
                and address + size <= self.limit - TOP_GUARD
                and self.is_free(address, address + size)
            ):
                address = self.find_free(size, align)
                if not address:
                    return -errno.ENOMEM
        if kind not in (MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE) and (
            anonymous or kind != MAP_SHARED_VALIDATE
        ):
            return -errno.EINVAL
        if flags & MAP_GROWSDOWN and not (anonymous and kind == MAP_PRIVATE):
            return -errno.EINVAL
        traits = GROWS_DOWN if flags & MAP_GROWSDOWN else 0
        end = address + size
        mapping = Mapping(
            address, end, protection & 7, MAP_SHARED if kind == MAP_SHARED_VALIDATE else kind,
            name, offset, traits,
        )  # fmt: skip
        if self.denies_write_execute and _is_gain(protection, protection):
            return -errno.EACCES
        if self.is_sealed(address, end):
            return -errno.EPERM
        if not self.may_add(size, mapping.is_data, address, end):
            return -errno.ENOMEM
        # What is validated must be seen whole.
        passed_on = flags if kind == MAP_SHARED_VALIDATE else flags & _PASSED_ON
        result = host.quick(
            _MMAP,
            self.base + address,
            size,
            host_protection(protection),
            passed_on | self.locks_new & MAP_LOCKED | MAP_FIXED,
            descriptor,
            offset,
        )
        if result < 0:
            return result
        if self.locks_new == LOCK_ON_FAULT:
            host.quick(_MLOCK2, self.base + address, size, 1)
        if protection & PROT_EXEC:
            self._mark_code(address, size, is_code=True)
        if traits and not self.grows:
            # An access below it is refused and done again: the registers must be right then.
            self.grows = 1
            self.native.process.grows = 1
            self.engine.be_precise()
        was_code = self.cut(address, end)
        self.add(mapping)
        self.forget(was_code)
        return address

    def enter(
        self, start: int, size: int, protection: int, flags: int, name: str, offset: int = 0
    ) -> None:
        """Enter what the host's kernel has mapped in the window already."""
        was_code = self.cut(start, start + size)
        self.add(Mapping(start, start + size, protection, flags, name, offset))
        self.forget(was_code)

    def unmap(self, address: int, size: int) -> int:
        """munmap(2)."""
        if address % PAGE or not size or address + size > self.limit:
            return -errno.EINVAL
        size = round_up(size)
        if self.is_sealed(address, address + size):
            return -errno.EPERM
        result = self.reserve(address, size)
        if result < 0:
            return result
        self.forget(self.cut(address, address + size))
        return 0

    def reserve(self, address: int, size: int) -> int:
        """Take access to some pages away and what was in them; nobody else may get them."""
        return min(0, host.quick(_MMAP, self.base + address, size, 0, _RESERVED, -1, 0))

    def protect(self, address: int, size: int, protection: int) -> int:
        """mprotect(2): up to the first hole, if there is one."""
        grows = protection & (_PROT_GROWSDOWN | _PROT_GROWSUP)
        if address % PAGE or grows == _PROT_GROWSDOWN | _PROT_GROWSUP:
            return -errno.EINVAL
        if not size:
            return 0
        size = round_up(size)
        end = address + size
        if end <= address or end > 1 << 64:
            return -errno.ENOMEM
        protection &= ~grows
        if protection & ~(7 | _PROT_SEM):
            return -errno.EINVAL
        protection &= 7
        if grows:
            mapping = self.find(address)
            if mapping is None:
                return -errno.ENOMEM
            if grows == _PROT_GROWSUP or not mapping.traits & GROWS_DOWN:
                return -errno.EINVAL
            address = mapping.start
        pieces = self.pieces(address, end)
        done = address
        for piece in pieces:
            if piece.start != done:
                break
            done = piece.end
            result = self._protect_piece(piece, protection)
            if result < 0:
                return result
        return 0 if done == end else -errno.ENOMEM

    def _protect_piece(self, piece: Mapping, protection: int) -> int:
        """Change one stretch of pages that are alike."""
        before, size = piece.protection, piece.end - piece.start
        if piece.traits & SEALED:
            return -errno.EPERM
        if before == protection:
            return 0
        if self.denies_write_execute and _is_gain(before, protection):
            return -errno.EACCES
        was_data = piece.is_data
        piece.protection = protection
        if piece.is_data and not was_data and not self.data_fits(size):
            return -errno.ENOMEM
        start = self.base + piece.start
        result = host.quick(_MPROTECT, start, size, host_protection(protection))
        if result < 0:
            return result
        if (before ^ protection) & PROT_EXEC:
            self._mark_code(piece.start, size, is_code=bool(protection & PROT_EXEC))
        code = self.cut(piece.start, piece.end)
        self.add(piece)
        self.forget(code)
        return 0

    def _mark_code(self, address: int, size: int, *, is_code: bool) -> None:
        """Let other processes of ours see what may be executed (`proc.subject`)."""
        advice = _DONT_DUMP if is_code else _DO_DUMP
        host.quick(_MADVISE, self.base + address, size, advice)

    def set_break(self, wanted: int) -> int:
        """brk(2): the new end of the heap, or the old one where it cannot be had."""
        if wanted < self.break_start:
            return self.break_end
        old, new = round_up(self.break_end), round_up(wanted)
        if wanted - self.break_start + self.data_size > self.data_limit:
            return self.break_end
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
        self.reserve(0, self.limit)
        code = [(one.start, one.end) for one in self.mappings if one.protection & PROT_EXEC]
        self.clear_table()
        self.top = self.limit - TOP_GUARD
        self.break_start = self.break_end = self.data_size = self.locks_new = 0
        self.has_seals = 0
        self._inherit_denial()
        self.forget(code)

    def after_fork(self) -> None:
        """In the child: what it does not get, and what was locked."""
        self.has_one_thread = True
        self.locks_new = 0
        self._inherit_denial()
        for mapping in [one for one in self.mappings if one.traits & NOT_IN_CHILD]:
            self.unmap(mapping.start, mapping.end - mapping.start)

    def _inherit_denial(self) -> None:
        if self.denies_write_execute & 2:  # PR_MDWE_NO_INHERIT
            self.denies_write_execute = 0

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
        if not self.has_one_thread or self.has_guards:
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


def _is_gain(before: int, protection: int) -> bool:
    """Whether code that may change, or becomes code, comes of it (linux/mman.h)."""
    return bool(protection & PROT_EXEC) and bool(protection & PROT_WRITE or not before & PROT_EXEC)


def host_protection(protection: int) -> int:
    """The host's PROT_* of pages that the guest has mapped with *protection*."""
    # The translator reads what the guest may only execute.
    return (protection & 3) | (PROT_READ if protection & (PROT_EXEC | PROT_WRITE) else 0)
