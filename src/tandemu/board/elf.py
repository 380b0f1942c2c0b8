"""ELF programs for bare machines: System V ABI, chapters 4 and 5; RISC-V psABI, chapter 8.

Reads the file header and the program headers of 32-bit and 64-bit little-endian
executables. Left out: sections, symbols, relocations, dynamic linking.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tandemu.bits import U8, U16, U32, U64, Layout
from tandemu.board.errors import LoadError
from tandemu.board.program import Program, Segment

MAGIC = b"\x7fELF"
MACHINE_RISCV = 243
MACHINES = {3: "x86", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch"}
_CLASS_32, _CLASS_64, _LITTLE_ENDIAN = 1, 2, 1
_EXECUTABLE, _SHARED = 2, 3
_LOAD, _NOTE = 1, 4
_MOST_HEADERS = 256
_PAGE = 4096


def _file_header(word: Any) -> Layout:
    return Layout(
        "ElfHeader",
        ident=U8[16],
        type=U16,
        machine=U16,
        version=U32,
        entry=word,
        phoff=word,
        shoff=word,
        flags=U32,
        ehsize=U16,
        phentsize=U16,
        phnum=U16,
        shentsize=U16,
        shnum=U16,
        shstrndx=U16,
    )


_HEADERS = {_CLASS_32: _file_header(U32), _CLASS_64: _file_header(U64)}
_PROGRAM_HEADERS = {
    _CLASS_32: Layout(
        "ProgramHeader32",
        type=U32,
        offset=U32,
        vaddr=U32,
        paddr=U32,
        filesz=U32,
        memsz=U32,
        flags=U32,
        align=U32,
    ),
    _CLASS_64: Layout(
        "ProgramHeader64",
        type=U32,
        flags=U32,
        offset=U64,
        vaddr=U64,
        paddr=U64,
        filesz=U64,
        memsz=U64,
        align=U64,
    ),
}


def _structure(layout: Layout, data: memoryview, offset: int, name: str) -> Any:
    part = data[offset : offset + layout.size]
    if len(part) < layout.size:
        raise LoadError(f"{name} is truncated: its ELF headers end at byte {len(data)}")
    return layout.over(bytearray(part))


def parse(
    data: memoryview, name: str, *, xlen: int, machine: int = MACHINE_RISCV, lowest: int = 0
) -> Program:
    """Read an ELF executable for *machine*; LoadError says what does not fit.

    Of a segment that has the file's own headers and notes below *lowest*, where RAM begins, only
    what follows is loaded: linkers make such ones for a program that is linked to RAM's start.
    """
    if len(data) < 16 or bytes(data[:4]) != MAGIC:
        raise LoadError(f"{name} is not an ELF file")
    width = data[4]
    if width not in _HEADERS or data[5] != _LITTLE_ENDIAN:
        raise LoadError(f"{name}: ELF class {width}, data encoding {data[5]} is not supported")
    header = _structure(_HEADERS[width], data, 0, name)
    if header.machine != machine:
        raise LoadError(
            f"{name} is an ELF file for {_machine(header.machine)}, but this board runs"
            f" {_machine(machine)}; choose another --arch or another file"
        )
    if width != {32: _CLASS_32, 64: _CLASS_64}[xlen]:
        raise LoadError(
            f"{name} is a {32 * width}-bit ELF file, but the harts of this board are {xlen}-bit"
        )
    if header.type not in (_EXECUTABLE, _SHARED):
        raise LoadError(f"{name} is ELF type {header.type}: must be an executable; link it first")
    layout = _PROGRAM_HEADERS[width]
    if header.phnum > _MOST_HEADERS or (header.phnum and header.phentsize < layout.size):
        raise LoadError(f"{name} has {header.phnum} program headers of {header.phentsize} bytes")
    entries = [
        _structure(layout, data, header.phoff + number * header.phentsize, name)
        for number in range(header.phnum)
    ]
    loads = [one for one in entries if one.type == _LOAD and one.memsz]
    # What describes the file to others, and is no part of the program.
    described = [range(header.phoff + header.phnum * header.phentsize)]
    described += [range(n.offset, n.offset + n.filesz) for n in entries if n.type == _NOTE]
    found = []
    for one in loads:
        segment = _segment(one, data, name)
        kept = _without_description(segment, one.offset, described, lowest)
        if kept is not None:
            found.append((kept, one.vaddr + kept.address - segment.address))
    if not found:
        raise LoadError(f"{name} has nothing to load: no PT_LOAD program header")
    segments = tuple(segment for segment, _ in found)
    ordered = sorted(segments, key=lambda segment: segment.address)
    for lower, upper in pairwise(ordered):
        if upper.address < lower.end:
            raise LoadError(
                f"{name}: segments at {lower.address:#x} and {upper.address:#x} overlap"
            )
    # Linked at zero, a program does not mean the boot ROM there: it relocates itself.
    movable = ordered[0].address < _PAGE
    return Program(name, "ELF", segments, _entry(header.entry, found, name), movable=movable)


def _segment(header: Any, data: memoryview, name: str) -> Segment:
    if header.filesz > header.memsz:
        raise LoadError(f"{name}: a segment at {header.paddr:#x} is larger in file than in memory")
    if header.offset + header.filesz > len(data):
        raise LoadError(
            f"{name} is truncated: a segment ends at byte {header.offset + header.filesz},"
            f" the file at {len(data)}"
        )
    content = data[header.offset : header.offset + header.filesz]
    return Segment(header.paddr, content, header.memsz)


def _without_description(
    segment: Segment, offset: int, described: list[range], lowest: int
) -> Segment | None:
    """*segment* from *lowest* on, if all below is headers, notes and padding; None: all of it is.

    *offset* is where its bytes stand in the file.
    """
    below = min(max(lowest - segment.address, 0), segment.size)
    if not below or segment.address < _PAGE:
        return segment
    rest = bytearray(segment.data[:below])
    for part in described:
        start = min(max(part.start - offset, 0), len(rest))
        end = min(max(part.stop - offset, start), len(rest))
        rest[start:end] = bytes(end - start)
    if any(rest):
        return segment
    if below == segment.size:
        return None
    return Segment(lowest, segment.data[below:], segment.size - below)


def _entry(entry: int, found: list[tuple[Segment, int]], name: str) -> int:
    """The guest-physical entry point, wherever the file gives a virtual one."""
    if entry & 1:
        raise LoadError(f"{name}: its entry point {entry:#x} is odd; no instruction begins there")
    for segment, virtual in found:
        if virtual <= entry < virtual + segment.size:
            return segment.address + entry - virtual
    for segment, _ in found:
        if segment.address <= entry < segment.end:
            return entry
    raise LoadError(f"{name}: its entry point {entry:#x} is outside of what it loads")


def _machine(number: int) -> str:
    return MACHINES.get(number, f"machine {number}")
