"""Test finisher, real-time clock, empty slots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandemu.device import SystemEvent
from tandemu.device.empty_slot import EmptyBus, EmptyVirtioSlot
from tandemu.device.goldfish_rtc import GoldfishRtc
from tandemu.device.syscon import Syscon

ACCESSES = st.lists(
    st.tuples(st.integers(0, 0x1000), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1)),
    max_size=30,
)


def test_finisher() -> None:
    events: list[tuple[SystemEvent, int]] = []
    syscon = Syscon(lambda kind, code: events.append((kind, code)))
    syscon.write(0, 4, 0x5555)
    syscon.write(0, 4, 0x7777)
    syscon.write(0, 4, 0x002A_3333)
    syscon.write(0, 4, 0x1234)
    syscon.write(0, 2, 0x5555)
    syscon.write(4, 4, 0x5555)
    assert events == [
        (SystemEvent.POWER_OFF, 0),
        (SystemEvent.RESET, 0),
        (SystemEvent.FAIL, 42),
        (SystemEvent.POWER_OFF, 0),
    ]
    assert syscon.read(0, 4) == 0


class Clock:
    """A clock of the host's that stands still, and the RTC on it."""

    def __init__(self) -> None:
        self.now = 5 << 32 | 7
        self.alarms: list[int | None] = []
        self.level = False
        self.rtc = GoldfishRtc(lambda: self.now, self.alarms.append, self.drive)

    def drive(self, level: bool) -> None:
        self.level = level

    def time(self) -> int:
        low = self.rtc.read(0, 4)
        return self.rtc.read(4, 4) << 32 | low


def test_clock_is_read_in_halves_and_set() -> None:
    clock = Clock()
    assert clock.time() == 5 << 32 | 7
    low = clock.rtc.read(0, 4)
    clock.now += 1 << 33
    assert (clock.rtc.read(4, 4), low) == (5, 7), "the high half was latched"
    clock.rtc.write(4, 4, 100)
    clock.rtc.write(0, 4, 200)
    clock.now += 3
    assert clock.time() == 100 << 32 | 203


def test_alarm() -> None:
    clock = Clock()
    clock.rtc.write(0x10, 4, 1)
    clock.rtc.write(0x0C, 4, 5)
    clock.rtc.write(0x08, 4, 107)
    assert clock.alarms[-1] == 100 and clock.rtc.read(0x18, 4) == 1
    clock.now += 40
    clock.rtc.alarm()
    assert clock.alarms[-1] == 60 and not clock.level, "it rang too early"
    clock.now += 60
    clock.rtc.alarm()
    assert clock.level and clock.rtc.read(0x18, 4) == 0
    saved = clock.rtc.save()
    clock.rtc.write(0x1C, 4, 0)
    assert not clock.level
    clock.rtc.load(saved)
    assert clock.level
    clock.rtc.reset()
    assert not clock.level and clock.alarms[-1] is None


def test_alarm_in_the_past_and_cleared() -> None:
    clock = Clock()
    clock.rtc.write(0x08, 4, 1)
    assert not clock.level
    clock.rtc.write(0x10, 4, 1)
    assert clock.level
    clock.rtc.write(0x0C, 4, 9)
    clock.rtc.write(0x08, 4, 1)
    clock.rtc.write(0x14, 4, 1)
    assert clock.rtc.read(0x18, 4) == 0 and clock.alarms[-1] is None


@given(ACCESSES)
def test_hostile_guest(accesses: list[tuple[int, int, int]]) -> None:
    devices = [
        Clock().rtc,
        Syscon(lambda kind, code: None),
        EmptyVirtioSlot(),
        EmptyBus(),
    ]
    for offset, size, value in accesses:
        for device in devices:
            device.write(offset, size, value & (1 << size * 8) - 1)
            assert 0 <= device.read(offset, size) < 1 << size * 8


def test_empty_slots() -> None:
    slot = EmptyVirtioSlot()
    assert [slot.read(offset, 4) for offset in (0, 4, 8, 0x70)] == [0x74726976, 2, 0, 0]
    assert slot.save() == {"version": 1}
    assert EmptyBus().read(0x1234, 4) == 0xFFFF_FFFF
