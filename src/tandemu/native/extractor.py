"""Cutting stencils out of an object file.

A stencil is a function of a `CodeModel.STENCIL` object. Its operands are
external symbols, each use of which leaves a relocation: a hole. A function that
ends in a jump to the *next* symbol loses that jump and falls through. Code that
needs anything else of its object (constants, jump tables, other functions)
cannot be copied about and is refused. Relocations: AMD64 supplement, table 4.9.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from tandemu.native.elf_object import (
    UNDEFINED,
    ElfObject,
    Relocation,
    RelocationKind,
    SectionFlag,
    Symbol,
)
from tandemu.native.errors import NativeError
from tandemu.native.stencils import (
    HOLE_LIMIT,
    SIZE_LIMIT,
    SYMBOL_LIMIT,
    Hole,
    HoleKind,
    Stencil,
    StencilTable,
)

# A tail call to the next symbol: jmp rel32, relative to its own end.
_JUMP = 0xE9
_JUMP_SIZE = 5
_JUMP_ADDEND = -4
_REPORTED = 12

_KINDS: Mapping[int, HoleKind] = {
    RelocationKind.ABSOLUTE_32: HoleKind.ABSOLUTE_32,
    RelocationKind.ABSOLUTE_32_SIGNED: HoleKind.ABSOLUTE_32,
    RelocationKind.ABSOLUTE_64: HoleKind.ABSOLUTE_64,
    RelocationKind.PC_32: HoleKind.RELATIVE_32,
    RelocationKind.PLT_32: HoleKind.RELATIVE_32,
    RelocationKind.ABSOLUTE_8: HoleKind.ABSOLUTE_8,
}


def extract(
    object_bytes: bytes,
    names: Sequence[str],
    symbols: Sequence[str],
    next_symbol: str = "NEXT",
) -> StencilTable:
    """Cut functions *names*, in that order, out of an object and pack them.

    A hole refers to one of *symbols* by its place there. NativeError lists the
    stencils that refer to anything else or exceed a limit, and why.
    """
    if len(symbols) > SYMBOL_LIMIT or len(set(symbols)) != len(symbols):
        raise NativeError(f"symbols of stencils must be at most {SYMBOL_LIMIT} different ones")
    elf = ElfObject.parse(object_bytes)
    code_sections = _code_sections(elf)
    defined = {symbol.name: symbol for symbol in elf.symbols if symbol.section in code_sections}
    starts = {index: [r.offset for r in rs] for index, rs in elf.relocations.items()}
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    stencils: list[Stencil] = []
    faults: list[str] = []
    for name in names:
        symbol = defined.get(name)
        if symbol is None:
            faults.append(f"{name}: not defined in the object")
            continue
        try:
            stencils.append(_cut(elf, symbol, starts, numbers, next_symbol))
        except NativeError as error:
            faults.append(f"{name}: {error}")
    if faults:
        more = f"\n… and {len(faults) - _REPORTED} more" if len(faults) > _REPORTED else ""
        raise NativeError("unusable stencils:\n" + "\n".join(faults[:_REPORTED]) + more)
    return StencilTable.packed(stencils, symbols)


def _code_sections(elf: ElfObject) -> frozenset[int]:
    return frozenset(
        index
        for index, section in enumerate(elf.sections)
        if section.flags & SectionFlag.EXECUTE and section.data
    )


def _cut(
    elf: ElfObject,
    symbol: Symbol,
    starts: Mapping[int, Sequence[int]],
    numbers: Mapping[str, int],
    next_symbol: str,
) -> Stencil:
    """Return function *symbol* as a stencil; NativeError says what forbids it."""
    begin, end = symbol.value, symbol.value + symbol.size
    code = elf.sections[symbol.section].data[begin:end]
    offsets = starts.get(symbol.section, ())
    relocations = elf.relocations.get(symbol.section, ())[
        bisect_left(offsets, begin) : bisect_left(offsets, end)
    ]
    falls_through = False
    if relocations:
        last = relocations[-1]
        falls_through = (
            last.symbol.name == next_symbol
            and last.symbol.section == UNDEFINED
            and last.addend == _JUMP_ADDEND
            and last.offset == end - _JUMP_SIZE + 1
            and code[-_JUMP_SIZE] == _JUMP
        )
    if falls_through:
        code, relocations = code[:-_JUMP_SIZE], relocations[:-1]
    if len(code) > SIZE_LIMIT:
        raise NativeError(f"{len(code)} bytes of code: the limit is {SIZE_LIMIT}")
    if len(relocations) > HOLE_LIMIT:
        raise NativeError(f"{len(relocations)} holes: the limit is {HOLE_LIMIT}")
    holes = tuple(_hole(relocation, begin, len(code), numbers) for relocation in relocations)
    return Stencil(symbol.name, code, holes, falls_through)


def _hole(relocation: Relocation, begin: int, size: int, numbers: Mapping[str, int]) -> Hole:
    target = relocation.symbol
    offset = relocation.offset - begin
    if target.section != UNDEFINED:
        raise NativeError(
            f"refers to {target.name!r} of its own object at {offset}; a stencil has no data "
            "(constants, jump tables) and calls no function of the module"
        )
    if target.name not in numbers:
        raise NativeError(f"refers to {target.name!r} at {offset}, which is no operand")
    kind = _KINDS.get(relocation.kind)
    if kind is None:
        raise NativeError(
            f"uses {target.name!r} at {offset} through {relocation.kind_name}, for which there "
            "is no kind of hole; compile for CodeModel.STENCIL"
        )
    if offset + kind.size > size:
        raise NativeError(f"hole for {target.name!r} at {offset} crosses the end of the code")
    if not -(1 << 31) <= relocation.addend < 1 << 31:
        raise NativeError(f"addend {relocation.addend:#x} of {target.name!r} exceeds 32 bits")
    return Hole(offset, numbers[target.name], relocation.addend, kind)
