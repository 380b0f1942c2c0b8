"""The board ``x86-microvm`` without an engine: ACPI, zero page, places, kernels that are none."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from tandemu.board import (
    BoardError,
    Lent,
    LoadError,
    X86Kernel,
    X86Microvm,
    aml,
    assemble_x86_microvm,
    parse_x86_kernel,
    plan_x86_boot,
    zero_page,
)
from tandemu.board.acpi_power import AcpiPower, PanicPort
from tandemu.board.x86_kernel import Protocol
from tandemu.board.x86_microvm import ACPI_TABLES
from tandemu.device import SystemEvent
from tandemu.memory import GuestMemory, Ram, RamRegion
from tests.board.plain_vcpu import PlainVcpu, PlainVm
from tests.kvm.kernels import bzimage, elf

MIB = 1 << 20


def kernel(data: bytes, name: str = "vmlinuz") -> X86Kernel:
    return parse_x86_kernel(memoryview(data), name)


# ---- AML and ACPI --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (aml.integer(0), "00"),
        (aml.integer(1), "01"),
        (aml.integer(0x12), "0a12"),
        (aml.integer(0x1234), "0b3412"),
        (aml.integer(0x12345678), "0c78563412"),
        (aml.integer(1 << 40), "0e0000000000010000"),
        (aml.string("ab"), "0d616200"),
        (aml.eisa_id("PNP0501"), "0c41d00501"),
        (aml.eisa_id("PNP0C0C"), "0c41d00c0c"),
        (aml.path("\\_SB.PWRB"), "5c2e5f53425f50575242"),
        (aml.path("A"), "415f5f5f"),
        (aml.name("_UID", aml.integer(3)), "085f5549440a03"),
        (aml.package(aml.integer(5), aml.integer(0)), "12050 20a0500".replace(" ", "")),
        (aml.ports(0x3F8, 8), "4701f803f8030108"),
        (aml.interrupt(4), "890600030104000000"),
        (aml.memory(0xD0000000, 0x1000), "86090001000000d000100000"),
        (aml.notify("\\_SB.PWRB", 0x80), "865c2e5f53425f505752420a80"),
    ],
)
def test_a_term_is_encoded(term: bytes, expected: str) -> None:
    assert term.hex() == expected


@pytest.mark.parametrize("size", [0, 1, 50, 60, 61, 62, 63, 64, 4090, 4094, 4096, 1 << 16])
def test_a_package_says_its_own_length(size: int) -> None:
    scope = aml.scope("ABCD", bytes(size))
    lead = scope[1]
    extra = lead >> 6
    length = lead if not extra else lead & 0xF
    for number in range(extra):
        length |= scope[2 + number] << (4 + 8 * number)
    assert length == len(scope) - 1


def test_a_name_that_is_none_is_refused() -> None:
    for text in ("", "ABCDE", "1A", "a b"):
        with pytest.raises(BoardError, match="AML name"):
            aml.name(text, aml.integer(1))


def tables_of(board: X86Microvm) -> dict[bytes, bytes]:
    """The ACPI tables found as a kernel finds them, from the root pointer on."""
    area = board.acpi_tables()
    base = ACPI_TABLES.start
    assert len(area) <= len(ACPI_TABLES)
    assert area[:8] == b"RSD PTR " and sum(area[:20]) & 0xFF == 0 and sum(area[:36]) & 0xFF == 0
    found = {}

    def read(address: int) -> bytes:
        at = address - base
        (length,) = struct.unpack_from("<I", area, at + 4)
        table = area[at : at + length]
        assert sum(table) & 0xFF == 0, table[:4]
        found[table[:4]] = table
        return table

    xsdt = read(struct.unpack_from("<Q", area, 24)[0])
    for (pointer,) in struct.iter_unpack("<Q", xsdt[36:]):
        read(pointer)
    read(struct.unpack_from("<Q", found[b"FACP"], 140)[0])
    return found


def test_the_tables_hang_together_and_add_up() -> None:
    found = tables_of(X86Microvm(64 * MIB, 3))
    assert found.keys() == {b"XSDT", b"FACP", b"APIC", b"DSDT"}
    flags = struct.unpack_from("<I", found[b"FACP"], 112)[0]
    assert flags >> 20 & 1 and flags >> 10 & 1, "hardware-reduced, with a reset register"
    assert found[b"FACP"][116:128] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0x602)
    assert found[b"APIC"][44:].count(bytes((0, 8))) >= 3
    assert b"COM1" in found[b"DSDT"] and b"\\_S5_" in found[b"DSDT"]


def test_a_bus_has_its_tables() -> None:
    board = X86Microvm(64 * MIB, pci=True)
    found = tables_of(board)
    base, segment, first, last = struct.unpack_from("<QHBB", found[b"MCFG"], 44)
    assert (segment, first, last) == (0, 0, 0)
    (area,) = (area for area in board.areas if area.base == base)
    assert (area.size, area.kind) == (MIB, zero_page.RESERVED), "no RAM, Linux is told"
    bridge = aml.path("PCI0")
    assert bridge in found[b"DSDT"] and bridge not in tables_of(X86Microvm(64 * MIB))[b"DSDT"]
    # Slot 1's pin A drives the second of the inputs 20 to 23.
    route = aml.package(*map(aml.integer, (0x1_FFFF, 0, 0, 21)))
    assert found[b"DSDT"].count(route) == 1
    assert "PCIe configuration" in board.drawing()


def test_virtio_slots_in_use_are_devices() -> None:
    assert b"LNRO0005" not in tables_of(X86Microvm(64 * MIB))[b"DSDT"]
    assert tables_of(X86Microvm(64 * MIB, virtio=4))[b"DSDT"].count(b"LNRO0005") == 4


def test_the_most_processors_fit() -> None:
    tables_of(X86Microvm(64 * MIB, 64, virtio=4))


# ---- the value -----------------------------------------------------------------------------


def test_memory_goes_round_the_hole() -> None:
    assert X86Microvm(64 * MIB).memory == (range(64 * MIB),)
    low, high = X86Microvm(5 << 30).memory
    assert low == range(0xD000_0000)
    assert high.start == 4 << 30
    assert len(low) + len(high) == 5 << 30
    areas = X86Microvm(5 << 30).areas
    assert all(one.base + one.size <= two.base for one, two in pairwise(areas))


@pytest.mark.parametrize(("memory", "cpus"), [(MIB, 1), (64 * MIB + 1, 1), (64 * MIB, 65)])
def test_a_board_that_cannot_be_is_refused(memory: int, cpus: int) -> None:
    with pytest.raises(BoardError, match=r"must be|at least"):
        X86Microvm(memory, cpus)


def test_the_drawing_shows_every_part() -> None:
    text = X86Microvm(64 * MIB, virtio=1).drawing()
    assert all(word in text for word in ("RAM", "16550A", "interrupt 4", "I/O APIC", "virtio"))


def test_an_engine_without_interrupt_controllers_is_refused() -> None:
    with pytest.raises(BoardError, match="--accel kvm"):
        lent = Lent(lambda data: None, lambda event, code: None)
        assemble_x86_microvm(X86Microvm(64 * MIB), PlainVm(), [PlainVcpu(0)], lent)


# ---- power ---------------------------------------------------------------------------------


def test_power_registers_say_what_the_guest_asks_for() -> None:
    events: list[tuple[SystemEvent, int]] = []
    power = AcpiPower(lambda event, code: events.append((event, code)))
    power.write(0, 1, 5 << 2)  # without the enable bit
    power.write(0, 1, 3 << 2 | 0x20)  # another sleep state
    power.write(2, 1, 1)
    assert events == []
    power.write(0, 1, 5 << 2 | 0x20)
    power.write(2, 1, 0x42)
    panic = PanicPort(lambda event, code: events.append((event, code)))
    assert panic.read(0, 1) & 1
    panic.write(0, 1, 1)
    assert events == [
        (SystemEvent.POWER_OFF, 0),
        (SystemEvent.RESET, 0),
        (SystemEvent.PANIC, 0),
    ]


# ---- kernels and places --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello, this is no kernel", "no kernel this board can boot"),
        (b"\x1f\x8b" + bytes(1000), "gzip"),
        (b"070701" + bytes(1000), "--initrd"),
        (bytes(56) + b"ARM\x64" + bytes(1000), "AArch64"),
        (bytes(56) + b"RSC\x05" + bytes(1000), "RISC-V"),
        (bytes(510) + b"\x55\xaa" + bytes(1000), "boot sector"),
        (bzimage("f4", flags=0), "64-bit entry"),
        (bzimage("f4", version=0x204), "64-bit entry"),
        (bzimage("f4")[:0x500], "truncated"),
        (elf("f4", machine=243), "RISC-V"),
        (elf("f4")[:100], "truncated"),
        (b"\x7fELF\x01\x01" + bytes(100), "not|32-bit|ELF"),
    ],
)
def test_what_is_no_kernel_is_told_with_the_mend(data: bytes, says: str) -> None:
    with pytest.raises(LoadError, match=says):
        kernel(data)


def test_no_damaged_kernel_raises_anything_else() -> None:
    for good in (bzimage("f4"), elf("f4"), elf("f4", note=False)):
        for place in range(0, min(len(good), 700)):
            for value in (0x00, 0xFF):
                damaged = good[:place] + bytes((value,)) + good[place + 1 :]
                try:
                    parsed = kernel(damaged)
                    plan_x86_boot(X86Microvm(64 * MIB), parsed)
                except BoardError:
                    continue


def test_the_kernels_are_told_apart() -> None:
    assert kernel(bzimage("f4")).protocol is Protocol.LINUX_64
    assert kernel(elf("f4")).protocol is Protocol.PVH
    assert kernel(elf("f4", note=False)).protocol is Protocol.LINUX_64


def test_the_zero_page_holds_what_the_protocol_asks_for() -> None:
    board = X86Microvm(64 * MIB)
    initrd = memoryview(b"i" * 5000)
    plan = plan_x86_boot(
        board, kernel(bzimage("f4")), initrd=initrd, bootargs="console=ttyS0", random=b"r" * 32
    )
    memory = GuestMemory()
    ram = Ram(64 * MIB)
    memory.add(RamRegion(0, ram.size, ram))
    plan.write(memory)
    page = bytes(ram.view[plan.starts[0].registers["rsi"] :][:4096])
    assert zero_page.field(page, "header") == zero_page.MAGIC
    assert zero_page.field(page, "type_of_loader") == 0xFF
    line = zero_page.field(page, "cmd_line_ptr")
    assert bytes(ram.view[line : line + 14]) == b"console=ttyS0\0"
    where = zero_page.field(page, "ramdisk_image")
    assert zero_page.field(page, "ramdisk_size") == 5000
    assert bytes(ram.view[where : where + 5000]) == initrd
    assert where % 4096 == 0 and where + 5000 <= 64 * MIB
    seed = zero_page.field(page, "setup_data")
    assert bytes(ram.view[seed : seed + 16]) == struct.pack("<QII", 0, 9, 32)
    count = page[0x1E8]
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(count)]
    assert sum(size for _, size, kind in entries if kind == zero_page.RAM) > 62 * MIB
    assert int.from_bytes(page[0x70:0x78], "little") == ACPI_TABLES.start
    ram.close()


def test_too_little_memory_and_too_long_a_line_are_told() -> None:
    board = X86Microvm(16 * MIB)
    with pytest.raises(LoadError, match="at least 33 MiB"):
        plan_x86_boot(board, kernel(bzimage("f4", init_size=32 * MIB)))
    with pytest.raises(LoadError, match="initrd"):
        plan_x86_boot(board, kernel(bzimage("f4")), initrd=memoryview(bytes(16 * MIB)))
    with pytest.raises(LoadError, match="at most 255"):
        plan_x86_boot(board, kernel(bzimage("f4")), bootargs="x" * 256)
