"""Where kernel, initrd and what Linux is told stand in the RAM of ``x86-microvm``.

Low memory holds the descriptor table, the zero page or PVH's start info, page tables, the
command line and a random seed; ACPI's tables stand where firmware would put them; the
kernel at 1 MiB (bzImage) or where it is linked; the initrd as high as the kernel allows.
"""

from __future__ import annotations

import os

from tandemu.bits import align_down, replace
from tandemu.board.acpi import RESET_VALUE
from tandemu.board.acpi_power import RESET
from tandemu.board.boot_plan import BootPlan, HartStart, Images
from tandemu.board.errors import LoadError
from tandemu.board.program import Segment
from tandemu.board.x86_kernel import Protocol, X86Kernel, parse_x86_kernel
from tandemu.board.x86_microvm import ACPI_TABLES, LOW_RAM, POWER, X86Microvm
from tandemu.board.zero_page import PAGE, random_seed, start_info, zero_page

GDT, START, STACK, PAGE_TABLES = 0x500, 0x7000, 0x8FF0, 0x9000
COMMAND_LINE, SEED = 0x2_0000, 0x3_0000
RESET_VECTOR = 0xF_FFF0
_GIBS = 4
_PRESENT_WRITABLE, _LARGE = 3, 0x80

CODE_64, CODE_32, DATA, TASK = 0x10, 0x20, 0x18, 0x28
_DESCRIPTORS = (
    0,
    0,
    0x00AF_9B00_0000_FFFF,  # 64-bit code
    0x00CF_9300_0000_FFFF,  # data
    0x00CF_9B00_0000_FFFF,  # 32-bit code
    0x0000_8B00_0000_0067,  # a task state segment
)


_WRITE_BACK = 0x806
"""MTRRs on, memory is write-back by default: what firmware would have set."""


def plan_x86_microvm(board: X86Microvm, images: Images) -> BootPlan:
    """What an ``x86-microvm`` begins with, from what the user gave."""
    if images.firmware is not None:
        raise LoadError(
            "the board x86-microvm starts its kernel itself and has no firmware: leave --firmware"
            " out"
        )
    if images.kernel is None:
        raise LoadError("nothing to boot: give a bzImage or vmlinux with --kernel")
    if images.devices:
        board = replace(board, pci=True)
    return plan_x86_boot(
        board,
        parse_x86_kernel(images.kernel.data, images.kernel.name, board.memory_bytes),
        initrd=images.initrd,
        bootargs=images.bootargs,
        random=images.random_seed,
    )


def plan_x86_boot(
    board: X86Microvm,
    kernel: X86Kernel,
    *,
    initrd: memoryview | None = None,
    bootargs: str = "",
    random: bytes = b"",
) -> BootPlan:
    """Decide what stands where."""
    text = os.fsencode(bootargs) + b"\0"
    if len(text) - 1 > kernel.command_line_bytes:
        raise LoadError(
            f"a command line of {len(text) - 1} bytes: {kernel.name} takes at most"
            f" {kernel.command_line_bytes}; shorten it"
        )
    low = board.memory[0]
    if kernel.end > low.stop:
        raise _too_small(kernel.name, kernel.end)
    where = _initrd_place(low, kernel, initrd)
    rsdp = ACPI_TABLES.start
    blobs = {COMMAND_LINE: text, ACPI_TABLES.start: board.acpi_tables(), GDT: _gdt()}
    blobs[RESET_VECTOR] = _reset_stub()
    if random:
        blobs[SEED] = random_seed(random)
    if kernel.protocol is Protocol.PVH:
        blobs[START] = start_info(
            START, board.areas, command_line=COMMAND_LINE, initrd=where, rsdp=rsdp
        )
        registers = _pvh_registers(kernel.entry)
    else:
        blobs[START] = zero_page(
            kernel.setup_header,
            board.areas,
            command_line=COMMAND_LINE,
            initrd=where,
            rsdp=rsdp,
            setup_data=SEED if random else 0,
        )
        blobs[PAGE_TABLES] = _page_tables()
        registers = _long_registers(kernel.entry)
    segments = [Segment(at, memoryview(blob), len(blob)) for at, blob in blobs.items()]
    segments += kernel.segments
    named = {kernel.name: range(min(one.address for one in kernel.segments), kernel.end)}
    if initrd is not None:
        segments.append(Segment(where.start, initrd, len(initrd)))
        named["the initrd"] = where
    named["what the kernel is told"] = range(GDT, LOW_RAM.stop)
    named["ACPI tables"] = ACPI_TABLES
    everywhere = {"mtrr_def_type": _WRITE_BACK}
    first = HartStart(kernel.entry, 0, {**everywhere, **registers})
    # The engine starts the others when the first one asks.
    others = (HartStart(kernel.entry, 0, everywhere),) * (board.harts - 1)
    return BootPlan(kernel.entry, tuple(segments), (first, *others), named, board=board)


def _too_small(name: str, end: int) -> LoadError:
    return LoadError(
        f"{name} needs memory up to {end:#x}: give the machine at least"
        f" {-(-end // (1 << 20))} MiB with --memory"
    )


def _initrd_place(low: range, kernel: X86Kernel, initrd: memoryview | None) -> range:
    if initrd is None:
        return range(0)
    top = min(low.stop, kernel.initrd_limit + 1)
    start = align_down(top - len(initrd), PAGE)
    if start < kernel.end:
        raise _too_small("the initrd", kernel.end + len(initrd) + PAGE)
    return range(start, start + len(initrd))


def _gdt() -> bytes:
    return b"".join(one.to_bytes(8, "little") for one in _DESCRIPTORS)


def _reset_stub() -> bytes:
    """Real-mode code where a BIOS would begin: it resets the machine.

    Linux believes a hardware-reduced machine to have EFI, finds none, and jumps here.
    """
    reset = (POWER.base + RESET).to_bytes(2, "little")
    # mov dx, port; mov al, value; out dx, al; hlt; jmp to the hlt
    return b"\xba" + reset + b"\xb0" + bytes((RESET_VALUE,)) + b"\xee\xf4\xeb\xfd"


def _page_tables() -> bytes:
    """The first GiBs mapped onto themselves, in pages of 2 MiB."""
    directories = PAGE_TABLES + PAGE
    pages = directories + PAGE
    top = (directories | _PRESENT_WRITABLE).to_bytes(8, "little").ljust(PAGE, b"\0")
    middle = b"".join(
        (pages + PAGE * number | _PRESENT_WRITABLE).to_bytes(8, "little") for number in range(_GIBS)
    ).ljust(PAGE, b"\0")
    low = b"".join(
        (number << 21 | _LARGE | _PRESENT_WRITABLE).to_bytes(8, "little")
        for number in range(512 * _GIBS)
    )
    return top + middle + low


def _segments(code: int, *, long: bool) -> dict[str, int]:
    """Flat segments, as the descriptors in memory have them."""
    registers = {"gdt.base": GDT, "gdt.limit": 8 * len(_DESCRIPTORS) - 1, "idt.limit": 0}
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        is_code = name == "cs"
        wide = is_code and long
        fields = {
            "base": 0,
            "limit": 0xFFFF_FFFF,
            "selector": code if is_code else DATA,
            "type": 0xB if is_code else 0x3,
            "present": 1,
            "dpl": 0,
            "s": 1,
            "db": int(not wide),
            "l": int(wide),
            "g": 1,
            "unusable": 0,
        }
        registers |= {f"{name}.{field}": value for field, value in fields.items()}
    task = {"base": 0, "limit": 0x67, "selector": TASK, "type": 0xB, "present": 1, "s": 0, "g": 0}
    return registers | {f"tr.{field}": value for field, value in task.items()}


def _long_registers(entry: int) -> dict[str, int]:
    """boot.rst, "64-bit boot protocol": paging on, RSI points to the zero page."""
    return {
        **_segments(CODE_64, long=True),
        "cr0": 0x8005_0033,
        "cr3": PAGE_TABLES,
        "cr4": 0x20,
        "efer": 0x500,
        "rip": entry,
        "rsi": START,
        "rsp": STACK,
        "rbp": STACK,
        "rflags": 2,
    }


def _pvh_registers(entry: int) -> dict[str, int]:
    """pvh.pandoc: 32-bit protected mode without paging, EBX points to the start info."""
    return {
        **_segments(CODE_32, long=False),
        "cr0": 0x11,
        "cr4": 0,
        "efer": 0,
        "rip": entry,
        "rbx": START,
        "rsp": STACK,
        "rflags": 2,
    }
