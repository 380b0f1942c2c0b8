"""What a boot loader hands to Linux on x86-64: Documentation/arch/x86/{boot,zero-page}.rst.

The zero page (``struct boot_params``) for the 64-bit protocol, and ``struct
hvm_start_info`` for PVH (Xen docs/misc/pvh.pandoc). The setup header is packed and begins
at an odd offset, so its fields stand in `SETUP` with offset and size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tandemu.bits import U32, U64, Layout, Record

PAGE = 4096
SETUP_BEGIN = 0x1F1
SETUP: Mapping[str, tuple[int, int]] = {
    "setup_sects": (0x1F1, 1),
    "boot_flag": (0x1FE, 2),
    "jump": (0x200, 2),
    "header": (0x202, 4),
    "version": (0x206, 2),
    "type_of_loader": (0x210, 1),
    "loadflags": (0x211, 1),
    "code32_start": (0x214, 4),
    "ramdisk_image": (0x218, 4),
    "ramdisk_size": (0x21C, 4),
    "cmd_line_ptr": (0x228, 4),
    "initrd_addr_max": (0x22C, 4),
    "kernel_alignment": (0x230, 4),
    "relocatable_kernel": (0x234, 1),
    "xloadflags": (0x236, 2),
    "cmdline_size": (0x238, 4),
    "setup_data": (0x250, 8),
    "pref_address": (0x258, 8),
    "init_size": (0x260, 4),
}
MAGIC = 0x5372_6448
BOOT_FLAG = 0xAA55
LOADED_HIGH, KERNEL_64 = 1, 1
LOADER_UNKNOWN = 0xFF
_ACPI_RSDP, _E820_COUNT, _E820_TABLE = 0x070, 0x1E8, 0x2D0
_SEED = 9

RAM, RESERVED, ACPI = 1, 2, 3
"""Kinds of memory (E820)."""

START_INFO = Layout(
    "hvm_start_info",
    magic=U32,
    version=U32,
    flags=U32,
    nr_modules=U32,
    modlist_paddr=U64,
    cmdline_paddr=U64,
    rsdp_paddr=U64,
    memmap_paddr=U64,
    memmap_entries=U32,
    reserved=U32,
)
START_INFO_MAGIC = 0x336E_C578
MODULE = Layout("hvm_modlist_entry", paddr=U64, size=U64, cmdline_paddr=U64, reserved=U64)
MEMORY = Layout("hvm_memmap_table_entry", addr=U64, size=U64, type=U32, reserved=U32)


class Area(Record):
    """*size* bytes from guest-physical *base*, of a kind of the E820 map."""

    base: int
    size: int
    kind: int


def field(data: bytes | memoryview, name: str) -> int:
    """A field of the setup header in *data*, a kernel file's or zero page's begin."""
    offset, size = SETUP[name]
    return int.from_bytes(data[offset : offset + size], "little")


def zero_page(
    header: bytes,
    areas: Sequence[Area],
    *,
    command_line: int,
    initrd: range,
    rsdp: int,
    setup_data: int,
) -> bytes:
    """The zero page. *header* is the kernel file's setup header from `SETUP_BEGIN` on, or empty."""
    page = bytearray(PAGE)
    page[SETUP_BEGIN : SETUP_BEGIN + len(header)] = header

    def put(offset: int, size: int, value: int) -> None:
        page[offset : offset + size] = value.to_bytes(size, "little")

    values = {
        "boot_flag": BOOT_FLAG,
        "header": MAGIC,
        "type_of_loader": LOADER_UNKNOWN,
        "cmd_line_ptr": command_line,
        "ramdisk_image": initrd.start,
        "ramdisk_size": len(initrd),
        "setup_data": setup_data,
        "loadflags": page[SETUP["loadflags"][0]] | LOADED_HIGH,
    }
    for name, value in values.items():
        put(*SETUP[name], value)
    put(_ACPI_RSDP, 8, rsdp)
    put(_E820_COUNT, 1, len(areas))
    for number, area in enumerate(areas):
        place = _E820_TABLE + 20 * number
        put(place, 8, area.base)
        put(place + 8, 8, area.size)
        put(place + 16, 4, area.kind)
    return bytes(page)


def random_seed(seed: bytes) -> bytes:
    """A ``struct setup_data`` with randomness for the kernel, the last of its list."""
    return bytes(8) + _SEED.to_bytes(4, "little") + len(seed).to_bytes(4, "little") + seed


def start_info(
    at: int, areas: Sequence[Area], *, command_line: int, initrd: range, rsdp: int
) -> bytes:
    """``hvm_start_info`` for guest-physical address *at*, its lists behind it."""
    modules_at = at + START_INFO.size
    memory_at = modules_at + MODULE.size
    info = START_INFO.ctype(
        magic=START_INFO_MAGIC,
        version=1,
        nr_modules=1 if initrd else 0,
        modlist_paddr=modules_at if initrd else 0,
        cmdline_paddr=command_line,
        rsdp_paddr=rsdp,
        memmap_paddr=memory_at,
        memmap_entries=len(areas),
    )
    module = MODULE.ctype(paddr=initrd.start, size=len(initrd))
    entries = (MEMORY.ctype(addr=one.base, size=one.size, type=one.kind) for one in areas)
    return bytes(info) + bytes(module) + b"".join(bytes(entry) for entry in entries)
