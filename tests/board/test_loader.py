"""Kernel formats, placement, the reset vector."""

from __future__ import annotations

import contextlib
import gzip
import struct
from itertools import pairwise
from pathlib import Path

import capstone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.board import (
    BootPlan,
    LoadError,
    Program,
    RiscvVirt,
    parse_kernel,
    plan_boot,
    raw,
    read_file,
)
from tandemu.board.device_tree import parse as parse_tree
from tandemu.board.part import MIB
from tandemu.board.reset_vector import reset_vector
from tandemu.board.riscv_parts import RAM_BASE, ROM
from tandemu.memory import GuestMemory, Ram, RamRegion

PAYLOAD = bytes(range(256)) * 16


def tree_at(plan: BootPlan) -> int:
    return plan.named["the device tree"].start


def rom_of(plan: BootPlan) -> bytes:
    return bytes(next(one.data for one in plan.segments if one.address == ROM.base))


def image(text_offset: int = 0x200000, image_size: int = 0x10000, flags: int = 0) -> bytes:
    """A Linux Image with nothing useful in it."""
    header = struct.pack(
        "<2I3Q2IQ8s4sI", 0x5A4D, 0x6F, text_offset, image_size, flags, 2, 0, 0,
        b"RISCV\0\0\0", b"RSC\x05", 0,
    )  # fmt: skip
    return header + PAYLOAD


def zboot(payload: bytes, compression: bytes) -> bytes:
    """An EFI zboot image around a packed payload."""
    header = b"MZ\0\0zimg" + struct.pack("<4I", 64, len(payload), 0, 0) + compression
    return header.ljust(64, b"\0") + payload


def elf(
    *,
    segments: tuple[tuple[int, int, bytes, int], ...] = ((0, RAM_BASE, PAYLOAD, 0x2000),),
    entry: int = 0,
    machine: int = 243,
    kind: int = 2,
    width: int = 64,
) -> bytes:
    """An ELF executable; a segment is virtual, physical, content, size."""
    word, size, each = ("Q", 64, 56) if width == 64 else ("I", 52, 32)
    ident = b"\x7fELF" + bytes((width // 32, 1, 1)) + bytes(9)
    header = ident + struct.pack(
        f"<HHI3{word}I6H", kind, machine, 1, entry, size, 0, 0, size, each, len(segments), 0, 0, 0
    )
    table, body = b"", b""
    start = size + each * len(segments)
    for virtual, physical, content, memory in segments:
        where = start + len(body)
        fields = (where, virtual, physical, len(content), memory)
        if width == 64:
            table += struct.pack("<2I6Q", 1, 7, *fields, 4096)
        else:
            table += struct.pack("<8I", 1, *fields, 7, 4096)
        body += content
    return header + table + body


def kernel(data: bytes, xlen: int = 64, **options: bool) -> Program:
    return parse_kernel(memoryview(data), "test", xlen=xlen, limit_bytes=MIB, **options)


@pytest.mark.parametrize(
    "data",
    [
        image(),
        gzip.compress(image()),
        zboot(gzip.compress(image()), b"gzip"),
        gzip.compress(zboot(gzip.compress(image()), b"gzip")),
    ],
    ids=["plain", "gzip", "zboot", "nested"],
)
def test_linux_image(data: bytes) -> None:
    program = kernel(data)
    assert program.kind == "Linux Image" and program.offset == 0x200000
    assert bytes(program.segments[0].data) == image()
    assert program.end == 0x10000


def test_zstd() -> None:
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress(image())
    assert kernel(zboot(packed, b"zstd")).kind == "Linux Image"
    with pytest.raises(LoadError, match="more than the 1 MiB"):
        kernel(zstandard.ZstdCompressor().compress(bytes(2 * MIB)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello, I am no kernel", "begins with 68 65 6c"),
        (image()[:61], "truncated"),
        (image(flags=1), "big-endian"),
        (gzip.compress(image(), mtime=0)[:-20], "truncated"),
        (gzip.compress(image(), mtime=0)[:8] + b"\xff" * 50, "damaged"),
        (gzip.compress(bytes(MIB + 1), mtime=0), "more than the 1 MiB of guest memory"),
        (zboot(b"x", b"lz4"), "packed with 'lz4'"),
        (zboot(b"x" * 90, b"gzip")[:100], "truncated"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
        (bytes(0x202) + b"HdrS", "Linux kernel for x86"),
        (bytes(56) + b"ARM\x64", "AArch64"),
        (b"070701" + bytes(200), "initramfs"),
        (elf(machine=62), "for x86-64, but this board runs RISC-V"),
        (elf(machine=9), "for machine 9"),
        (elf(width=32), "32-bit ELF file, but"),
        (elf(kind=1), "link it first"),
        (elf()[:40], "truncated"),
        (elf()[:100], "truncated"),
        (elf()[:1000], "truncated"),
        (elf(segments=()), "nothing to load"),
        (elf(segments=((0, RAM_BASE, PAYLOAD, 16),)), "larger in file"),
        (
            elf(segments=((0, RAM_BASE, b"abcd", 32), (0x1000, RAM_BASE + 16, b"abcd", 4))),
            "overlap",
        ),
        (elf(entry=0x1234566), "outside of what it loads"),
        (elf(entry=0x1001), "is odd"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        kernel(data)


def test_elf() -> None:
    program = kernel(elf(entry=RAM_BASE + 0x20))
    assert (program.start, program.end, program.entry) == (
        RAM_BASE,
        RAM_BASE + 0x2000,
        RAM_BASE + 0x20,
    )
    virtual = 0xFFFF_FFFF_8000_0000
    program = kernel(elf(segments=((virtual, RAM_BASE, PAYLOAD, 0x2000),), entry=virtual + 8))
    assert program.entry == RAM_BASE + 8
    assert kernel(elf(width=32), xlen=32).entry == RAM_BASE
    movable = kernel(elf(segments=((0, 0, PAYLOAD, 0x2000),), kind=3))
    assert movable.movable and movable.moved(RAM_BASE).entry == RAM_BASE


@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    sample = bytearray(
        data.draw(st.sampled_from([image(), elf(), zboot(gzip.compress(image()), b"gzip")]))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        sample[data.draw(st.integers(0, min(len(sample) - 1, 130)))] = data.draw(
            st.integers(0, 255)
        )
    with contextlib.suppress(LoadError):
        plan_boot(RiscvVirt(memory_bytes=8 * MIB), kernel=kernel(bytes(sample), allow_raw=True))


def test_files(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        read_file(tmp_path / "missing")
    with pytest.raises(LoadError, match="cannot read"):
        read_file(tmp_path)
    empty = tmp_path / "empty"
    empty.touch()
    assert len(read_file(empty)) == 0
    empty.write_bytes(b"content")
    assert bytes(read_file(empty)) == b"content"


def test_linux_placement() -> None:
    board = RiscvVirt(memory_bytes=512 * MIB)
    initrd = memoryview(b"cpio" * 1000)
    plan = plan_boot(board, kernel=kernel(image()), initrd=initrd, bootargs="quiet")
    assert (plan.entry, tree_at(plan), plan.firmware_calls) == (0x8020_0000, 0x9FE0_0000, True)
    assert plan.named["the initrd"] == range(0x9000_0000, 0x9000_0000 + 4000)
    tree = parse_tree(next(s.data for s in plan.segments if s.address == tree_at(plan)))
    chosen = tree.find("/chosen")
    assert chosen is not None
    assert chosen.properties["linux,initrd-end"] == (0x9000_0000 + 4000).to_bytes(8, "big")


def test_large_memory_keeps_the_tree_below_3_gib() -> None:
    board = RiscvVirt(memory_bytes=8192 * MIB)
    plan = plan_boot(board, kernel=kernel(image()), initrd=memoryview(b"cpio"))
    assert tree_at(plan) == 0xBFE0_0000
    assert plan.named["the initrd"].start == 0xA000_0000


def test_little_memory_moves_things_together() -> None:
    board = RiscvVirt(memory_bytes=3 * MIB)
    plan = plan_boot(board, kernel=kernel(image()), initrd=memoryview(bytes(MIB // 2)))
    places = sorted(plan.named.values(), key=lambda place: place.start)
    for lower, upper in pairwise(places):
        assert lower.stop <= upper.start
    assert places[-1].stop <= board.ram_end


@pytest.mark.parametrize(
    ("memory", "initrd", "message"),
    [
        (2, 16, "test needs at least 3 MiB, the machine has 2 MiB"),
        (3, MIB, "the initrd needs at least"),
        (64, 63 * MIB, "the initrd needs at least"),
    ],
)
def test_memory_too_small(memory: int, initrd: int, message: str) -> None:
    board = RiscvVirt(memory_bytes=memory * MIB)
    with pytest.raises(LoadError, match=message):
        plan_boot(board, kernel=kernel(image()), initrd=memoryview(bytes(initrd)))


def test_memory_that_was_asked_for_suffices() -> None:
    initrd = memoryview(bytes(5 * MIB))
    with pytest.raises(LoadError) as caught:
        plan_boot(RiscvVirt(memory_bytes=4 * MIB), kernel=kernel(image()), initrd=initrd)
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    plan_boot(RiscvVirt(memory_bytes=needed * MIB), kernel=kernel(image()), initrd=initrd)


def test_firmware_and_kernel() -> None:
    board = RiscvVirt()
    firmware = raw(memoryview(PAYLOAD), "fw")
    plan = plan_boot(board, kernel=kernel(image()), firmware=firmware, builtin_firmware=False)
    assert plan.entry == RAM_BASE and not plan.firmware_calls
    assert struct.unpack_from("<6Q", rom_of(plan), 40) == (0x4942534F, 2, 0x8020_0000, 1, 0, 0)
    large = raw(memoryview(bytes(3 * MIB)), "large")
    plan = plan_boot(board, kernel=kernel(image()), firmware=large, builtin_firmware=False)
    assert plan.named["test"].start == 0x8040_0000
    with pytest.raises(LoadError, match="overlaps fw"):
        plan_boot(board, kernel=kernel(elf()), firmware=firmware, builtin_firmware=False)
    with pytest.raises(LoadError, match="nothing to boot"):
        plan_boot(board)


def test_bare_metal() -> None:
    plan = plan_boot(RiscvVirt(), kernel=kernel(elf()), builtin_firmware=False)
    assert plan.entry == RAM_BASE and not plan.firmware_calls
    low = kernel(elf(segments=((0x10000, 0x10000, PAYLOAD, 0x1000),), entry=0x10000))
    with pytest.raises(LoadError, match="below the RAM"):
        plan_boot(RiscvVirt(), kernel=low, builtin_firmware=False)


def test_writing() -> None:
    memory = GuestMemory()
    ram, rom = Ram(4 * MIB), Ram(0xF000)
    memory.add(RamRegion(RAM_BASE, ram.size, ram))
    memory.add(RamRegion(0x1000, rom.size, rom, readonly=True))
    board = RiscvVirt(memory_bytes=4 * MIB)
    plan = plan_boot(board, kernel=kernel(elf()), builtin_firmware=False)
    plan.write(memory)
    assert bytes(ram.view[:0x1000]) == PAYLOAD and bytes(ram.view[0x1000:0x2000]) == bytes(0x1000)
    assert bytes(rom.view[: len(rom_of(plan))]) == rom_of(plan)
    assert bytes(ram.view[tree_at(plan) - RAM_BASE :][:4]) == bytes.fromhex("d00dfeed")


@pytest.mark.parametrize("xlen", [32, 64])
def test_reset_vector_as_capstone_reads_it(xlen: int) -> None:
    rom = reset_vector(xlen=xlen, entry=0x8000_0000, device_tree=0x9000_0000)
    mode = capstone.CS_MODE_RISCV64 if xlen == 64 else capstone.CS_MODE_RISCV32
    code = capstone.Cs(capstone.CS_ARCH_RISCV, mode).disasm(rom[:24], 0x1000)
    load = "ld" if xlen == 64 else "lw"
    assert [f"{i.mnemonic} {i.op_str}".strip() for i in code] == [
        "auipc t0, 0",
        "addi a2, t0, 0x28",
        "csrr a0, mhartid",
        f"{load} a1, 0x20(t0)",
        f"{load} t0, 0x18(t0)",
        "jr t0",
    ]
    assert struct.unpack_from("<2Q", rom, 24) == (0x8000_0000, 0x9000_0000)


@pytest.mark.guest
@pytest.mark.parametrize("name", ["fw_dynamic.elf", "fw_jump.elf", "fw_dynamic.bin"])
def test_opensbi(name: str) -> None:
    path = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic") / name
    if not path.exists():
        pytest.skip("the Debian package opensbi is not installed")
    firmware = kernel_of(path)
    plan = plan_boot(RiscvVirt(), kernel=kernel(image()), firmware=firmware, builtin_firmware=False)
    assert plan.entry == RAM_BASE and plan.named["test"].start == 0x8020_0000


def kernel_of(path: Path) -> Program:
    return parse_kernel(read_file(path), path.name, xlen=64, limit_bytes=64 * MIB, allow_raw=True)
