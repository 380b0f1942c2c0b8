"""The door to guest memory: bounds, loans, regions that come and go, notes of what is written."""

from __future__ import annotations

import ctypes
import threading

import pytest

from tandemu.memory import DeviceMap, GuestMemory, MapError, Ram, RamRegion
from tandemu.memory.layout import PAGE_SIZE, SLOT_LIMIT
from tandemu.slots.emitters import HOST_RANGE
from tandemu.slots.routines import NativeNotes, memory_routines

LOW, HIGH, ROM = 0x1000_0000, 0x1000_4000, 0x2000_0000
TOP = 1 << 64


def made(native: bool = False) -> GuestMemory:
    """Two regions of four pages side by side, one ROM of a page."""
    memory = GuestMemory()
    if native:
        memory.notes = NativeNotes(memory.address, memory_routines())
    memory.add(RamRegion(LOW, 4 * PAGE_SIZE, Ram(4 * PAGE_SIZE)))
    memory.add(RamRegion(HIGH, 4 * PAGE_SIZE, Ram(8 * PAGE_SIZE), offset=2 * PAGE_SIZE))
    memory.add(RamRegion(ROM, PAGE_SIZE, Ram(PAGE_SIZE), readonly=True))
    return memory


def dirty(bits: bytes) -> list[int]:
    return [number for number in range(8 * len(bits)) if bits[number // 8] >> number % 8 & 1]


def test_reading_and_writing_across_regions() -> None:
    memory = made()
    assert memory.write(HIGH - 3, b"abcdefg")
    assert memory.read(HIGH - 4, 9) == b"\0abcdefg\0"
    views = memory.lend(HIGH - 3, 7)
    assert views is not None and [bytes(view) for view in views] == [b"abc", b"defg"]
    assert all(view.readonly for view in views)
    assert memory.region(HIGH).ram.view[2 * PAGE_SIZE] == ord("d")
    loan = memory.lend_for_writing(HIGH - 1, 2)
    assert loan is not None
    with loan as parts:
        parts[0][:], parts[1][:] = b"X", b"Y"
    assert memory.read(HIGH - 2, 4) == b"bXYe"


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (LOW - 1, 1),
        (LOW - 1, 2),
        (HIGH + 4 * PAGE_SIZE - 1, 2),
        (0, 1),
        (TOP - 1, 1),
        (TOP - 1, 2),
        (LOW, TOP - LOW + 1),
        (LOW, TOP - 1),
        (ROM + PAGE_SIZE, 1),
    ],
)
def test_what_is_not_all_memory_is_refused(address: int, size: int) -> None:
    memory = made()
    assert memory.read(address, size) is None
    assert memory.lend(address, size) is None
    assert memory.lend_for_writing(address, size) is None
    if size < 100:
        assert not memory.write(address, bytes(size)) and not memory.load(address, bytes(size))
    ranges = ctypes.create_string_buffer(8 * HOST_RANGE.size)
    gather = memory_routines()("gather", 6)
    arguments = (address % TOP, size % TOP, 0, ctypes.addressof(ranges), 8)
    assert gather(memory.address, *arguments) == TOP - 1


def test_nothing_is_written_where_not_all_is_memory() -> None:
    memory = made()
    assert not memory.write(HIGH + 4 * PAGE_SIZE - 2, b"xyz")
    assert memory.read(HIGH + 4 * PAGE_SIZE - 2, 2) == b"\0\0"
    assert memory.read(LOW, 0) == b"" and memory.write(0, b"") and memory.lend(0, 0) == []


def test_rom_is_loaded_and_not_written() -> None:
    memory = made()
    assert not memory.write(ROM, b"x") and memory.lend_for_writing(ROM, 1) is None
    assert memory.load(ROM, b"boot") and memory.read(ROM, 4) == b"boot"


def test_native_code_gathers_the_same_pieces() -> None:
    memory = made()
    ranges = ctypes.create_string_buffer(2 * HOST_RANGE.size)
    place = ctypes.addressof(ranges)
    gather = memory_routines()("gather", 6)
    assert gather(memory.address, HIGH - 3, 10, 1, place, 2) == 2
    first, second = (HOST_RANGE.over(ranges, number * HOST_RANGE.size) for number in (0, 1))
    low, high = memory.region(LOW), memory.region(HIGH)
    assert (first.address, first.size) == (low.host_address + low.size - 3, 3)
    assert (second.address, second.size) == (high.host_address, 7)
    assert gather(memory.address, HIGH - 3, 10, 1, place, 1) == TOP - 1, "no room"
    assert gather(memory.address, ROM, 1, 1, place, 2) == TOP - 1, "read-only"
    assert gather(memory.address, ROM, 1, 0, place, 2) == 1
    assert gather(memory.address, 0, 0, 0, place, 2) == 0


@pytest.mark.parametrize("native", [False, True])
def test_logs_note_each_page_that_is_written(native: bool) -> None:
    memory = made(native)
    assert memory.write(LOW, b"before")
    log = memory.open_dirty_log()
    assert not any(log.take(LOW))
    memory.write(LOW + PAGE_SIZE - 1, b"ab")
    memory.load(ROM, b"new")
    loan = memory.lend_for_writing(HIGH - 1, 2 + 2 * PAGE_SIZE)
    assert loan is not None
    loan.end(1 + PAGE_SIZE)
    other = memory.open_dirty_log()
    assert dirty(log.take(LOW)) == [0, 1, 3] and dirty(log.take(HIGH)) == [0]
    assert dirty(log.take(ROM)) == [0] and not any(log.take(LOW))
    memory.note_written(HIGH - PAGE_SIZE, 2 * PAGE_SIZE)
    memory.note_written(ROM + PAGE_SIZE - 1, TOP)
    assert dirty(other.take(LOW)) == [3] and dirty(other.take(HIGH)) == [0]
    assert dirty(log.take(LOW)) == [3] and dirty(log.take(ROM)) == [0]


@pytest.mark.parametrize("native", [False, True])
def test_what_an_engine_knows_of_goes_to_all_logs(native: bool) -> None:
    memory = made(native)
    region = memory.region(LOW)
    with memory.open_dirty_log() as first, memory.open_dirty_log() as second:
        for bits, numbers in ((0b1011, [0, 1, 3]), (0, []), (0b1111, [0, 1, 2, 3])):
            memory.notes.mark_dirty(region, bytes((bits,)))
            assert dirty(first.take(LOW)) == dirty(second.take(LOW)) == numbers


def test_threads_that_write_while_the_log_is_taken() -> None:
    memory = made(native=True)
    rounds, pages = 300, 4
    log = memory.open_dirty_log()
    seen: dict[int, int] = dict.fromkeys(range(pages), 0)
    over = threading.Event()

    def write() -> None:
        for value in range(1, rounds + 1):
            for page in range(pages):
                memory.write(LOW + page * PAGE_SIZE, value.to_bytes(2, "little"))
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while True:
        is_last = over.is_set()
        for page in dirty(log.take(LOW)):
            seen[page] = int.from_bytes(memory.read(LOW + page * PAGE_SIZE, 2) or b"", "little")
        if is_last:
            break
    writer.join()
    assert set(seen.values()) == {rounds}, "the last write to each page was told"


def test_regions_that_do_not_fit() -> None:
    memory = made()
    with pytest.raises(MapError, match="whole pages"):
        memory.add(RamRegion(0x100, PAGE_SIZE, Ram(PAGE_SIZE)))
    with pytest.raises(MapError, match="overlaps"):
        memory.add(RamRegion(LOW + PAGE_SIZE, PAGE_SIZE, Ram(PAGE_SIZE)))
    ram = Ram(PAGE_SIZE)
    for number in range(SLOT_LIMIT - 3):
        memory.add(RamRegion(number * PAGE_SIZE, PAGE_SIZE, ram))
    with pytest.raises(MapError, match="merge some"):
        memory.add(RamRegion(0x3000_0000, PAGE_SIZE, ram))
    memory.remove(0)
    memory.remove(0)
    assert memory.read(0, 1) is None


def test_too_many_logs() -> None:
    memory = made()
    logs = [memory.open_dirty_log() for _ in range(5)]
    with pytest.raises(MapError, match="close one first"):
        memory.open_dirty_log()
    logs[2].close()
    logs[2].close()
    assert memory.open_dirty_log().bit


def test_a_region_that_comes_and_goes_for_ever_costs_nothing() -> None:
    memory = made()
    region = RamRegion(0, PAGE_SIZE, Ram(PAGE_SIZE))
    for _ in range(1000):
        memory.add(region)
        memory.remove(0)
    assert len(memory._tables) < 10


def test_flash_that_was_programmed_while_it_was_away_is_dirty() -> None:
    memory = made()
    log, region = memory.open_dirty_log(), memory.region(LOW)
    memory.remove(LOW)
    region.ram.replaced(PAGE_SIZE + 5, PAGE_SIZE)
    memory.add(region)
    assert dirty(log.take(LOW)) == [1, 2]


class Answer:
    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        pass


def test_devices_come_and_go() -> None:
    devices, device = DeviceMap(), Answer()
    devices.add_device(0x1000, 0x100, device)
    devices.add_device(0x800, 0x100, device)
    assert devices.read(0x1004, 4) == 4 and devices.read(0x10FE, 4) is None
    with pytest.raises(MapError, match="overlaps"):
        devices.add_device(0x10FF, 2, device)
    devices.remove_device(0x1000)
    assert devices.read(0x1004, 4) is None and not devices.write(0x1000, 1, 0)
    assert devices.read(0x804, 4) == 4
    with pytest.raises(MapError, match="no device"):
        devices.remove_device(0x1000)
