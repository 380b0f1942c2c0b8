"""PCI functions and their bridge against what the specification says, and hostile configuration."""

from __future__ import annotations

import random

import pytest

from tandemu.bits import mask
from tandemu.device import DeviceError
from tandemu.device.pci import (
    Bar,
    ConfigurationWindow,
    HostBridge,
    Identity,
    MemoryWindow,
    Msix,
    PciFunction,
)

IDENTITY = Identity(0x1AF4, 0x1042, 0x01_0000, 1, 0x1AF4, 2)
COMMAND, MEMORY_AND_MASTER = 0x04, 6
WINDOW, WINDOW_BYTES = 0x4000_0000, 1 << 30


class Recorder:
    """A device that remembers writes and answers reads with its offset."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return offset & mask(size * 8)

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


class Bed:
    """A bridge with a function in slot 1: BAR 0 wide, BAR 2 narrow."""

    def __init__(self) -> None:
        self.levels = [False] * 4
        self.rung: dict[int, int] = {}
        self.bridge = HostBridge([self._wire(number) for number in range(4)], self)
        self.wide, self.narrow = Recorder(), Recorder()
        bars = {
            0: Bar(0x4000, self.wide, prefetchable=True, doorbells={0x3000: 7, 0x3004: 8}),
            2: Bar(0x1000, self.narrow, False),
        }
        self.function = PciFunction(IDENTITY, bars, 1)
        self.slot = self.bridge.plug(self.function)
        self.configuration = ConfigurationWindow(self.bridge)
        self.window = MemoryWindow(self.bridge, WINDOW, WINDOW_BYTES)

    def _wire(self, number: int):  # type: ignore[no-untyped-def]
        def drive(level: bool) -> None:
            self.levels[number] = level

        return drive

    def connect_doorbell(self, address: int, descriptor: int) -> bool:
        assert address not in self.rung
        self.rung[address] = descriptor
        return True

    def disconnect_doorbell(self, address: int, descriptor: int) -> None:
        assert self.rung.pop(address) == descriptor

    def read(self, register: int, size: int = 4) -> int:
        return self.configuration.read(self.slot << 15 | register, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        self.configuration.write(self.slot << 15 | register, size, value)


def test_doorbells_stand_where_they_are_seen() -> None:
    bed = Bed()
    bed.write(0x10, WINDOW)
    assert not bed.rung, "the function does not answer yet"
    bed.write(COMMAND, MEMORY_AND_MASTER, 2)
    assert bed.rung == {WINDOW + 0x3000: 7, WINDOW + 0x3004: 8}
    bed.write(0x10, WINDOW + 0x8000)
    assert bed.rung == {WINDOW + 0xB000: 7, WINDOW + 0xB004: 8}
    bed.write(0x18, WINDOW + 0xB000)
    assert not bed.rung, "another BAR hides them"
    bed.write(0x18, 0)
    bed.write(0x14, 1)
    assert not bed.rung, "they stand in no window"
    bed.write(0x14, 0)
    bed.write(COMMAND, 0, 2)
    assert not bed.rung


def test_identity_and_absence() -> None:
    bed = Bed()
    assert bed.read(0) == 0x1042_1AF4
    assert bed.read(2, 2) == 0x1042
    assert bed.read(8) == 0x0100_0001
    assert bed.read(0x2C) == 0x0002_1AF4
    assert bed.read(0x3D, 1) == 1
    assert bed.configuration.read(0, 4) == 0x0008_1B36
    assert bed.configuration.read(2 << 15, 4) == 0xFFFF_FFFF
    assert bed.configuration.read(bed.slot << 15 | 1 << 12, 4) == 0xFFFF_FFFF
    assert bed.configuration.read(1 << 20, 4) == 0xFFFF_FFFF
    assert bed.read(0x100) == 0  # no extended capability


def test_bars_are_sized_and_move() -> None:
    bed = Bed()
    bed.write(0x10, 0xFFFF_FFFF)
    bed.write(0x14, 0xFFFF_FFFF)
    bed.write(0x18, 0xFFFF_FFFF)
    assert (bed.read(0x10), bed.read(0x14)) == (0xFFFF_C00C, 0xFFFF_FFFF)
    assert bed.read(0x18) == 0xFFFF_F000
    assert bed.read(0x1C) == 0
    bed.write(0x10, WINDOW + 0x4000)
    bed.write(0x14, 0)
    bed.write(0x18, WINDOW)
    assert bed.window.read(0x4010, 4) == 0xFFFF_FFFF, "memory space is off"
    bed.write(COMMAND, MEMORY_AND_MASTER)
    assert bed.window.read(0x4010, 4) == 0x10
    bed.window.write(0x20, 4, 7)
    assert bed.narrow.written == [(0x20, 4, 7)]
    bed.write(0x10, WINDOW + 0x10_0000)
    assert bed.window.read(0x4010, 4) == 0xFFFF_FFFF
    assert bed.window.read(0x10_0010, 4) == 0x10
    assert bed.window.read(0x10_3FFE, 4) == 0xFFFF_FFFF, "across the end"
    bed.write(0x14, 5)  # outside every window
    assert bed.window.read(0x10_0010, 4) == 0xFFFF_FFFF


def test_interrupt_pin_is_swizzled_and_can_be_disabled() -> None:
    bed = Bed()
    bed.function.interrupt(True)
    assert bed.levels == [False, True, False, False]
    assert bed.read(6, 2) & 8
    bed.write(COMMAND, 1 << 10)
    assert not any(bed.levels)
    bed.write(COMMAND, 0)
    assert bed.levels[1]
    other = PciFunction(IDENTITY, {}, 1)
    bed.bridge.plug(other, 5)
    other.interrupt(True)
    bed.function.interrupt(False)
    assert bed.levels[1], "slot 5 shares the wire"
    other.interrupt(False)
    assert not any(bed.levels)


def test_capabilities_are_a_list() -> None:
    function = PciFunction(IDENTITY, {})
    assert not function.read_configuration(6, 2) & 16
    first = function.add_capability(9, b"\x05abc", b"\0\xff")
    second = function.add_capability(0x11, bytes(10))
    assert function.read_configuration(6, 2) & 16
    assert function.read_configuration(0x34, 1) == first
    assert function.read_configuration(first, 2) == second << 8 | 9
    assert function.read_configuration(second, 2) == 0x11
    function.write_configuration(first, 8, mask(64))
    assert function.read_configuration(first + 2, 4) == int.from_bytes(b"\x05\xffbc", "little")
    with pytest.raises(DeviceError, match="does not fit"):
        function.add_capability(9, bytes(200))


def test_messages_wait_while_masked() -> None:
    sent: list[tuple[int, int]] = []
    msix = Msix(3, lambda address, data: sent.append((address, data)))
    function = PciFunction(IDENTITY, {1: msix.bar})
    msix.plug(function, 1)
    control = function.read_configuration(0x34, 1) + 2
    assert function.read_configuration(control, 2) == 2
    function.write_configuration(COMMAND, 2, MEMORY_AND_MASTER)
    for vector in range(3):
        msix.write(vector * 16, 8, 0x1_2800_0000 + vector)
        msix.write(vector * 16 + 8, 4, 40 + vector)
    msix.signal(1)
    assert msix.read(0x800, 8) == 2 and not sent
    function.write_configuration(control, 2, 0x8000)
    assert not sent, "masked after reset"
    msix.write(16 + 12, 4, 0)
    assert sent == [(0x1_2800_0001, 41)] and msix.read(0x800, 8) == 0
    function.write_configuration(control, 2, 0xC000)
    msix.signal(1)
    assert len(sent) == 1
    function.write_configuration(control, 2, 0x8000)
    assert len(sent) == 2
    msix.signal(3)
    msix.signal(0xFFFF)
    assert len(sent) == 2


def test_state_moves_and_cannot_change_what_is_fixed() -> None:
    bed = Bed()
    bed.write(COMMAND, MEMORY_AND_MASTER)
    bed.write(0x18, WINDOW)
    saved = bed.function.save()
    fresh = Bed()
    saved["written"][0] = 0xFFFF_FFFF
    saved["written"][COMMAND // 4] |= 0xFFFF_0000
    fresh.function.load(saved)
    assert fresh.read(0) == 0x1042_1AF4
    assert fresh.read(COMMAND) == MEMORY_AND_MASTER
    assert fresh.window.read(0x24, 4) == 0x24
    fresh.function.reset()
    assert fresh.window.read(0x24, 4) == 0xFFFF_FFFF


def test_any_access_to_configuration_and_windows_is_answered() -> None:
    chance = random.Random(5)
    bed = Bed()
    msix = Msix(4, lambda address, data: None)
    function = PciFunction(IDENTITY, {1: msix.bar}, 2)
    msix.plug(function, 1)
    bed.bridge.plug(function)
    for _ in range(20_000):
        size = chance.choice((1, 2, 4, 8))
        offset = chance.choice((1, 2)) << 15 | chance.randrange(0x120)
        if chance.random() < 0.1:
            offset = chance.randrange(1 << 28)
        bed.configuration.write(offset, size, chance.getrandbits(64) & mask(size * 8))
        assert 0 <= bed.configuration.read(offset, size) <= mask(size * 8)
        place = chance.randrange(1 << 30)
        bed.window.write(place, size, chance.getrandbits(8 * size))
        assert 0 <= bed.window.read(place, size) <= mask(size * 8)
        start = chance.randrange(0x1000)
        msix.write(start, size, chance.getrandbits(8 * size))
        assert 0 <= msix.read(start, size) <= mask(size * 8)


@pytest.mark.parametrize("slot", [0, 32, -1])
def test_slots_that_cannot_be(slot: int) -> None:
    with pytest.raises(DeviceError, match="must be a free one"):
        Bed().bridge.plug(PciFunction(IDENTITY, {}), slot)


@pytest.mark.parametrize("size", [0, 8, 3000])
def test_bars_that_cannot_be(size: int) -> None:
    with pytest.raises(DeviceError, match="power of two"):
        PciFunction(IDENTITY, {0: Bar(size, Recorder())})
