"""ELF files of programs: System V ABI, chapters 4 and 5.

Reads the file header and the program headers of 64-bit little-endian executables and
shared objects; nothing else of the file is looked at. The file is not trusted.
"""

from __future__ import annotations

import errno
import os
import struct

from tandemu.linux.errors import LinuxError

MAGIC = b"\x7fELF"
MACHINES = {
    3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "s390", 40: "ARM", 62: "x86-64",
    183: "AArch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
EXECUTABLE, SHARED = 2, 3
LOAD, INTERPRETER, PROGRAM_HEADERS, STACK = 1, 3, 6, 0x6474E551
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_MOST_HEADERS = 128
_ADDRESS_LIMIT = 1 << 47


class Segment:
    """A program header of type PT_LOAD."""

    __slots__ = ("address", "file_size", "memory_size", "offset", "protection")

    def __init__(
        self, address: int, offset: int, file_size: int, memory_size: int, flags: int
    ) -> None:
        self.address, self.offset = address, offset
        self.file_size, self.memory_size = file_size, memory_size
        # PF_X, PF_W, PF_R are 1, 2, 4: PROT_* the other way round.
        self.protection = (flags >> 2 & 1) | (flags & 2) | (flags & 1) << 2


class ElfFile:
    """What the headers of one program say."""

    __slots__ = (
        "align", "entry", "executable_stack", "headers", "headers_offset", "high", "interpreter",
        "low", "machine", "segments", "type",
    )  # fmt: skip

    def __init__(self, descriptor: int, name: str) -> None:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, HEADER.size, 0)
        if head[:4] != MAGIC:
            raise LinuxError(f"{name} is not an ELF file", errno.ENOEXEC)
        if len(head) < HEADER.size:
            raise _broken(name, f"it has {len(head)} bytes only")
        if head[4] != 2 or head[5] != 1:
            bits = {1: 32, 2: 64}.get(head[4], 0)
            order = "little" if head[5] == 1 else "big"
            raise LinuxError(
                f"{name} is a {bits}-bit {order}-endian ELF file: only 64-bit little-endian"
                " programs can be run",
                errno.ENOEXEC,
            )
        fields = HEADER.unpack(head)
        (self.type, self.machine, _, self.entry, self.headers_offset) = fields[1:6]
        entry_size, self.headers = fields[9], fields[10]
        if self.type not in (EXECUTABLE, SHARED):
            kind = {1: "an object file: link it first", 4: "a core dump"}.get(
                self.type, f"of ELF type {self.type}"
            )
            raise LinuxError(f"{name} is {kind}; an executable is needed", errno.ENOEXEC)
        if entry_size != PROGRAM_HEADER.size or not 0 < self.headers <= _MOST_HEADERS:
            raise _broken(name, f"{self.headers} program headers of {entry_size} bytes")
        table = b""
        if self.headers_offset < size:
            table = os.pread(descriptor, entry_size * self.headers, self.headers_offset)
        if len(table) < entry_size * self.headers:
            raise _broken(name, f"its program headers end behind its {size} bytes")
        self.segments: list[Segment] = []
        self.interpreter = ""
        self.align = 4096
        self.executable_stack = False
        for index in range(self.headers):
            kind, flags, offset, address, _, file_size, memory_size, align = (
                PROGRAM_HEADER.unpack_from(table, index * entry_size)
            )
            if kind == LOAD and memory_size:
                self._add(name, size, Segment(address, offset, file_size, memory_size, flags))
                if align & (align - 1) == 0 and align <= 1 << 21:
                    self.align = max(self.align, align)
            elif kind == STACK:
                self.executable_stack = bool(flags & 1)
            elif kind == INTERPRETER:
                if not 2 <= file_size <= 4096 or offset + file_size > size:
                    raise _broken(name, "the name of its interpreter is not in the file")
                path = os.pread(descriptor, file_size, offset).partition(b"\0")[0]
                self.interpreter = os.fsdecode(path)
        if not self.segments:
            raise _broken(name, "it has nothing to load")
        self.low = self.segments[0].address & -4096
        last = self.segments[-1]
        self.high = (last.address + last.memory_size + 4095) & -4096

    def _add(self, name: str, size: int, segment: Segment) -> None:
        if segment.file_size > segment.memory_size:
            raise _broken(name, "a segment is larger in the file than in memory")
        if segment.offset + segment.file_size > size:
            end = segment.offset + segment.file_size
            raise _broken(name, f"a segment ends at byte {end}, the file at {size}")
        if segment.offset % 4096 != segment.address % 4096:
            raise _broken(name, "a segment's place in the file does not match its address")
        if segment.address + segment.memory_size > _ADDRESS_LIMIT:
            raise _broken(name, f"a segment at {segment.address:#x} is out of reach")
        if self.segments:
            before = self.segments[-1]
            if segment.address < before.address + before.memory_size:
                raise _broken(name, "its segments are not in ascending order")
        self.segments.append(segment)


def _broken(name: str, why: str) -> LinuxError:
    return LinuxError(f"{name} is truncated or broken: {why}", errno.ENOEXEC)
