"""The map of a program's memory, over a real window."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tandemu.accel.user import CodePage, UserCpu
from tandemu.linux import host
from tandemu.linux.calls import all_rows
from tandemu.linux.host import HostFault
from tandemu.linux.mappings import LOWEST
from tandemu.linux.memory import PAGE, Memory
from tandemu.linux.native.image import NativeCalls
from tandemu.linux.remapping import remap

PRIVATE, FIXED = 0x22, 0x32
RW = 3


class Window:
    """A reserved window without an engine."""

    def __init__(self) -> None:
        self.size = 1 << 32
        self.base = host.quick(host.NUMBERS["mmap"], 0, self.size, 0, 0x4022, -1, 0)
        assert self.base > 0
        self.changes: list[tuple[int, int]] = []

    def create_cpu(self) -> UserCpu:
        raise AssertionError("no program runs here")

    def code_changed(self, start: int, size: int) -> None:
        self.changes.append((start, size))

    def code_written(self, start: int, size: int) -> None:
        self.changes.append((start, size))

    def close(self) -> None:
        host.quick(host.NUMBERS["munmap"], self.base, self.size)


@pytest.fixture
def window() -> Iterator[Window]:
    window = Window()
    yield window
    window.close()


def shape(memory: Memory) -> list[tuple[int, int, int]]:
    return [(one.start, one.end, one.protection) for one in memory.mappings]


def test_chosen_addresses_go_down(window: Window) -> None:
    memory = Memory(window, NativeCalls(all_rows(), "riscv64", 0))
    first = memory.map(0, PAGE, RW, PRIVATE)
    second = memory.map(0, 100, RW, PRIVATE)
    assert first == memory.top - PAGE and second == first - PAGE
    memory.unmap(first, PAGE)
    assert memory.map(0, PAGE, RW, PRIVATE) == first


def test_neighbours_that_are_alike_are_one(window: Window) -> None:
    memory = Memory(window, NativeCalls(all_rows(), "riscv64", 0))
    places = [memory.map(0, PAGE, RW, PRIVATE) for _ in range(5)]
    assert shape(memory) == [(places[-1], places[0] + PAGE, RW)]
    memory.protect(places[2], PAGE, 1)
    assert len(memory.mappings) == 3
    memory.unmap(places[1], PAGE)
    assert memory.map(places[1], PAGE, 1, FIXED) == places[1]
    memory.protect(places[2], PAGE, RW)
    memory.protect(places[1], PAGE, RW)
    assert shape(memory) == [(places[-1], places[0] + PAGE, RW)]


def test_access_and_faults(window: Window) -> None:
    memory = Memory(window, NativeCalls(all_rows(), "riscv64", 0))
    place = memory.map(0x100000, 2 * PAGE, RW, FIXED)
    memory.write(place + PAGE - 2, b"abcd")
    assert memory.read(place + PAGE - 2, 4) == b"abcd"
    memory.write(place + 2 * PAGE - 3, b"end")
    for bad in (place - 1, place + 2 * PAGE - 1, 0, (1 << 64) - 1, window.size - 1):
        with pytest.raises(HostFault):
            memory.read(bad, 2)
        with pytest.raises(HostFault):
            memory.write(bad, b"xy")
    with pytest.raises(HostFault):
        memory.read_string(place + 2 * PAGE - 3)
    assert memory.read_string(place + PAGE - 2) == b"abcd"
    memory.protect(place, PAGE, 1)
    with pytest.raises(HostFault):
        memory.write(place, b"x")


def test_protect_and_unmap_cut_mappings(window: Window) -> None:
    memory = Memory(window, NativeCalls(all_rows(), "riscv64", 0))
    start = memory.map(0x100000, 5 * PAGE, RW, FIXED)
    assert memory.protect(start + PAGE, PAGE, 5) == 0
    assert memory.unmap(start + 3 * PAGE, PAGE) == 0
    assert shape(memory) == [
        (start, start + PAGE, RW),
        (start + PAGE, start + 2 * PAGE, 5),
        (start + 2 * PAGE, start + 3 * PAGE, RW),
        (start + 4 * PAGE, start + 5 * PAGE, RW),
    ]
    assert memory.code_page(start + PAGE) is CodePage.FIXED
    assert memory.code_page(start) is CodePage.NONE
    assert window.changes == []
    memory.unmap(start, 5 * PAGE)
    assert window.changes == [(start + PAGE, PAGE)] and shape(memory) == []
    assert memory.protect(start, PAGE, RW) == -errno.ENOMEM


def test_errors_of_map(window: Window) -> None:
    memory = Memory(window, NativeCalls(all_rows(), "riscv64", 0))
    start = memory.map(0x100000, PAGE, RW, FIXED)
    assert memory.map(start, PAGE, RW, 0x100022) == -errno.EEXIST
    assert memory.map(start + 1, PAGE, RW, FIXED) == -errno.EINVAL
    assert memory.map(0, PAGE, RW, FIXED) == -errno.EPERM
    assert memory.map(0, 0, RW, PRIVATE) == -errno.EINVAL
    assert memory.map(0, 1 << 40, RW, PRIVATE) == -errno.ENOMEM
    assert memory.map(window.size - PAGE, PAGE, RW, FIXED) == -errno.ENOMEM
    assert memory.map(0, PAGE, RW, 0x20) == -errno.EINVAL
    assert memory.map(0, PAGE, RW, 2, 9999) == -errno.EBADF


def test_remap_moves_contents(window: Window) -> None:
    memory = Memory(window, NativeCalls(all_rows(), "riscv64", 0))
    start = memory.map(0x100000, 2 * PAGE, RW, FIXED)
    memory.map(start + 2 * PAGE, PAGE, 1, FIXED)
    memory.write(start, b"kept")
    assert remap(memory, start, 2 * PAGE, 4 * PAGE, 0, 0) == -errno.ENOMEM
    moved = remap(memory, start, 2 * PAGE, 4 * PAGE, 1, 0)
    assert memory.read(moved, 4) == b"kept"
    assert memory.read(moved + 3 * PAGE, 1) == b"\0"
    with pytest.raises(HostFault):
        memory.read(start, 1)
    assert remap(memory, moved, 4 * PAGE, PAGE, 0, 0) == moved
    assert remap(memory, moved, PAGE, 3 * PAGE, 0, 0) == moved
    assert remap(memory, start, PAGE, PAGE, 1, 0) == -errno.EFAULT


def test_break(window: Window) -> None:
    memory = Memory(window, NativeCalls(all_rows(), "riscv64", 0))
    memory.break_start = memory.break_end = LOWEST + 0x1000
    assert memory.set_break(0) == LOWEST + 0x1000
    assert memory.set_break(LOWEST + 0x2345) == LOWEST + 0x2345
    memory.write(LOWEST + 0x2344, b"z")
    memory.map(LOWEST + 0x8000, PAGE, RW, FIXED)
    assert memory.set_break(LOWEST + 0x9000) == LOWEST + 0x2345
    assert memory.set_break(LOWEST + 0x1000) == LOWEST + 0x1000
