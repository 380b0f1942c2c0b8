"""x86-64 for debuggers: registers in GDB's features, page tables.

GDB: appendix "Standard Target Features", section "x86 Features". Intel SDM, volume 3, "Paging":
four and five levels. The walk here only looks: it sets no bits and asks for no rights.
"""

from __future__ import annotations

from collections.abc import Iterator

from tandemu.debug.architecture import (
    DebugArchitecture,
    Feature,
    Page,
    ReadPhysical,
    ReadRegister,
    Register,
)

_GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{number}" for number in range(8, 16)),
)
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_SYSTEM = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
_TABLES = ("gdt", "idt")
_PAGING, _LONG_MODE, _FIVE_LEVELS = 1 << 31, 1 << 10, 1 << 12
_PRESENT, _WRITE, _USER, _LARGE, _NO_EXECUTE = 1, 2, 4, 0x80, 1 << 63
_FRAME = 0x000F_FFFF_FFFF_F000
_MOST_PAGES = 1 << 20


def _levels(read: ReadRegister) -> int:
    """Levels of the tables in force; 0: addresses are physical, or this is not long mode."""
    if not read("cr0") & _PAGING or not read("efer") & _LONG_MODE:
        return 0
    return 5 if read("cr4") & _FIVE_LEVELS else 4


def translate(read: ReadRegister, memory: ReadPhysical, address: int) -> int | None:
    """Where *address* is; see `DebugArchitecture.translate`."""
    levels = _levels(read)
    if not levels:
        return _translate_before_long_mode(read, memory, address)
    table = read("cr3") & _FRAME
    for level in reversed(range(levels)):
        shift = 12 + 9 * level
        data = memory(table + (address >> shift & 511) * 8, 8)
        entry = 0 if data is None else int.from_bytes(data, "little")
        if not entry & _PRESENT:
            return None
        if level == 0 or (entry & _LARGE and level < 3):
            inside = (1 << shift) - 1
            return (entry & _FRAME & ~inside) | (address & inside)
        table = entry & _FRAME
    return None


def _translate_before_long_mode(
    read: ReadRegister, memory: ReadPhysical, address: int
) -> int | None:
    """Two levels of 32 bits without PAE; physical without paging."""
    if not read("cr0") & _PAGING:
        return address
    table = read("cr3") & 0xFFFF_F000
    data = memory(table + (address >> 22 & 1023) * 4, 4)
    entry = 0 if data is None else int.from_bytes(data, "little")
    if not entry & _PRESENT:
        return None
    if entry & _LARGE:
        return (entry & 0xFFC0_0000) | (address & 0x3F_FFFF)
    data = memory((entry & 0xFFFF_F000) + (address >> 12 & 1023) * 4, 4)
    entry = 0 if data is None else int.from_bytes(data, "little")
    return (entry & 0xFFFF_F000) | (address & 0xFFF) if entry & _PRESENT else None


def pages(read: ReadRegister, memory: ReadPhysical) -> Iterator[Page]:
    """What is mapped in long mode; see `DebugArchitecture.pages`."""
    levels = _levels(read)
    if not levels:
        return
    width = 12 + 9 * levels
    sign = ((1 << 64) - 1) >> width << width
    budget = _MOST_PAGES

    def walk(table: int, level: int, base: int) -> Iterator[Page]:
        nonlocal budget
        data = memory(table, 4096)
        if data is None:
            return
        shift = 12 + 9 * level
        for index in range(512):
            entry = int.from_bytes(data[index * 8 : index * 8 + 8], "little")
            budget -= 1
            if not entry & _PRESENT or budget < 0:
                continue
            virtual = base | index << shift
            if level == 0 or (entry & _LARGE and level < 3):
                if virtual >> (width - 1):
                    virtual |= sign
                physical = entry & _FRAME & ~((1 << shift) - 1)
                yield Page(virtual, physical, 1 << shift, _rights(entry))
            else:
                yield from walk(entry & _FRAME, level - 1, virtual)

    yield from walk(read("cr3") & _FRAME, levels - 1, 0)


def _rights(entry: int) -> str:
    return (
        "r"
        + ("w" if entry & _WRITE else "-")
        + ("-" if entry & _NO_EXECUTE else "x")
        + ("u" if entry & _USER else "-")
    )


def debug_architecture(name: str) -> DebugArchitecture:
    """x86-64."""
    pointers = {"rbp": "data_ptr", "rsp": "data_ptr"}
    core = (
        *(Register(one, 64, one, pointers.get(one, "int64"), "general") for one in _GENERAL),
        Register("rip", 64, "rip", "code_ptr", "general"),
        Register("eflags", 32, "rflags", "int32", "general"),
        *(Register(one, 32, one, "int32", "general") for one in _SEGMENTS),
        *(Register(f"st{number}", 80, f"st{number}", "i387_ext", "float") for number in range(8)),
        *(
            Register(one, 32, source, "int", "float")
            for one, source in (
                # The tag word there is is the short one; the last instruction is not told.
                *(("fctrl", "fcw"), ("fstat", "fsw"), ("ftag", ""), ("fiseg", "")),
                *(("fioff", ""), ("foseg", ""), ("fooff", ""), ("fop", "fop")),
            )
        ),
    )
    vector = (
        '<vector id="v4f" type="ieee_single" count="4"/>'
        '<vector id="v2d" type="ieee_double" count="2"/>'
        '<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>'
        '<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>'
        '<union id="vec128"><field name="v4_float" type="v4f"/>'
        '<field name="v2_double" type="v2d"/><field name="v16_int8" type="v16i8"/>'
        '<field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>'
        '<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>'
    )
    return DebugArchitecture(
        name="i386:x86-64",
        features=(
            Feature("org.gnu.gdb.i386.core", core),
            Feature(
                "org.gnu.gdb.i386.sse",
                (
                    *(
                        Register(f"xmm{number}", 128, f"xmm{number}", "vec128", "vector")
                        for number in range(16)
                    ),
                    Register("mxcsr", 32, "mxcsr", "int", "vector"),
                ),
                vector,
            ),
            Feature(
                "org.gnu.gdb.i386.segments",
                (
                    Register("fs_base", 64, "fs.base", "int", "system"),
                    Register("gs_base", 64, "gs.base", "int", "system"),
                ),
            ),
            Feature(
                "org.tandemu.x86.system",
                (
                    *(Register(one, 64, one, "int", "system") for one in _SYSTEM),
                    *(
                        Register(f"{one}_base", 64, f"{one}.base", "data_ptr", "system")
                        for one in _TABLES
                    ),
                ),
            ),
        ),
        general=len(_GENERAL) + 2 + len(_SEGMENTS),
        pc="rip",
        address_bits=64,
        translate=translate,
        pages=pages,
        system=(*_SYSTEM, *(f"{one}.base" for one in _TABLES), "fs.base", "gs.base"),
    )
