"""PL031 and PL061, through their registers; the PL061 also beside QEMU's.

Interrupts are not compared: QEMU latches levels, which the hardware follows.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.device.pl031 import Pl031
from tandemu.device.pl061 import Pl061

SECOND = 1_000_000_000
NOW = 1_700_000_000
ACCESSES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 0x440), st.integers(0, 0x1000)),
        st.sampled_from([1, 2, 4, 8]),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**34 * SECOND),
    ),
    max_size=30,
)


class Clock:
    """A clock of the host's that moves when it is told to, with its alarm, and the RTC on it."""

    def __init__(self) -> None:
        self.now = NOW * SECOND + 250_000_000
        self.due: int | None = None
        self.level = False
        self.rtc = Pl031(lambda: self.now, self.set_alarm, self.drive)

    def set_alarm(self, wait: int | None) -> None:
        assert wait is None or wait > 0
        self.due = None if wait is None else self.now + wait

    def drive(self, level: bool) -> None:
        self.level = level

    def move(self, seconds: int) -> None:
        """Let so much time pass; alarms ring when they are due."""
        end = self.now + seconds * SECOND
        while self.due is not None and self.due <= end:
            self.now = self.due
            self.due = None
            self.rtc.alarm()
        self.now = end

    def __getitem__(self, offset: int) -> int:
        return self.rtc.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.rtc.write(offset, 4, value)


DR, MR, LR, CR, IMSC, RIS, MIS, ICR = range(0, 0x20, 4)


def test_clock_runs_and_is_set() -> None:
    clock = Clock()
    assert (clock[DR], clock[CR]) == (NOW, 1)
    assert [clock[0xFE0 + 4 * index] for index in range(8)] == [
        *(0x31, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
    ]
    clock[LR] = 1000
    assert (clock[DR], clock[LR]) == (1000, 1000)
    clock.move(5)
    assert clock[DR] == 1005
    clock[CR] = 0
    clock.move(1)
    assert (clock[DR], clock[CR]) == (1006, 1), "nothing stops it"
    clock[LR] = 0xFFFF_FFFF
    clock.move(2)
    assert clock[DR] == 1


def test_alarm_rings_in_its_second_and_once() -> None:
    clock = Clock()
    clock[IMSC] = 1
    clock[MR] = NOW + 10
    clock.move(9)
    assert not clock.level and clock[RIS] == 0
    clock.move(1)
    assert clock.level and (clock[RIS], clock[MIS]) == (1, 1)
    clock[ICR] = 1
    assert not clock.level and clock[RIS] == 0
    clock.move(100)
    assert not clock.level


def test_an_alarm_days_away_is_asked_for_in_parts() -> None:
    clock = Clock()
    clock[IMSC] = 1
    clock[MR] = NOW + 10 * 86_400
    clock.move(10 * 86_400 - 1)
    assert not clock.level
    clock.move(1)
    assert clock.level


def test_a_masked_match_is_there_when_the_mask_opens() -> None:
    clock = Clock()
    clock[MR] = NOW + 1
    clock.move(2)
    assert (clock[RIS], clock[MIS], clock.level) == (1, 0, False)
    clock[IMSC] = 1
    assert clock.level


def test_a_match_with_the_present_second_is_at_once_and_with_the_past_none() -> None:
    clock = Clock()
    clock[IMSC] = 1
    clock[MR] = NOW - 1
    clock.move(3600)
    assert not clock.level
    clock[LR] = NOW - 1
    assert clock.level, "the counter was set onto the match"
    clock[ICR] = 1
    clock[MR] = NOW - 1
    assert clock.level


def test_a_match_that_came_while_nobody_rang_is_not_missed() -> None:
    clock = Clock()
    clock[IMSC] = 1
    clock[MR] = NOW + 5
    saved = clock.rtc.save()
    later = Clock()
    later.now += 100 * SECOND
    later.rtc.load(saved)
    assert later.level


@given(ACCESSES)
def test_no_access_to_the_clock_raises(accesses: list[tuple[int, int, int, int]]) -> None:
    clock = Clock()
    for offset, size, value, now in accesses:
        clock.now = now
        clock.rtc.write(offset % 0x24 if value & 1 else offset, size, value)
        assert 0 <= clock.rtc.read(offset, size) < 1 << 8 * size
    other = Clock()
    other.now = clock.now
    clock.rtc.load(clock.rtc.save())
    other.rtc.load(clock.rtc.save())
    assert other.rtc.save() == clock.rtc.save() and other.level == clock.level


class Pins:
    """A PL061 and what it says to the outside."""

    def __init__(self) -> None:
        self.level = False
        self.told: list[tuple[int, int]] = []
        self.gpio = Pl061(self.drive, lambda pins, levels: self.told.append((pins, levels)))

    def drive(self, level: bool) -> None:
        self.level = level

    def __getitem__(self, offset: int) -> int:
        return self.gpio.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.gpio.write(offset, 4, value)


DATA, DIR, IS, IBE, IEV, IE, GRIS, GMIS, IC, AFSEL = 0x3FC, *range(0x400, 0x424, 4)


def test_pins_are_written_and_read_by_the_address() -> None:
    pins = Pins()
    pins[DIR] = 0x0F
    pins[DATA] = 0xFF
    assert pins[DATA] == 0x0F, "inputs that nothing drives are low"
    pins[0x3 << 2] = 0
    assert pins[DATA] == 0x0C and pins[0x4 << 2] == 0x04 and pins[0] == 0
    pins.gpio.drive(7, True)
    assert pins[DATA] == 0x8C
    assert pins.told == [(0x0F, 0), (0x0F, 0x0F), (0x0F, 0x0C)]
    pins[AFSEL] = 0x08
    assert pins.told[-1] == (0x07, 0x04)


@pytest.mark.parametrize(
    ("both", "event", "rises", "falls"),
    [(0, 0, False, True), (0, 8, True, False), (8, 0, True, True), (8, 8, True, True)],
)
def test_edges(both: int, event: int, rises: bool, falls: bool) -> None:
    pins = Pins()
    pins[IBE], pins[IEV], pins[IE] = both, event, 8
    for level, expected in ((True, rises), (False, falls)):
        pins.gpio.drive(3, level)
        assert pins.level == expected and pins[GMIS] == (8 if expected else 0)
        pins[IC] = 0xFF
        assert not pins.level
        pins.gpio.drive(3, level)
        assert not pins.level, "no edge"


def test_levels() -> None:
    pins = Pins()
    pins[IS] = pins[IEV] = pins[IE] = 8
    assert not pins.level
    pins.gpio.drive(3, True)
    pins[IC] = 8
    assert pins.level, "a level is not cleared"
    pins[IEV] = 0
    assert not pins.level
    pins.gpio.drive(3, False)
    assert pins.level
    pins[IE] = 0
    assert not pins.level and pins[GRIS] == 8


@given(ACCESSES)
def test_no_access_to_the_pins_raises(accesses: list[tuple[int, int, int, int]]) -> None:
    pins = Pins()
    for offset, size, value, more in accesses:
        pins.gpio.write(offset, size, value)
        pins.gpio.drive(more % 8, bool(more & 8))
        assert 0 <= pins.gpio.read(offset, size) < 1 << 8 * size
    other = Pins()
    other.gpio.load(pins.gpio.save())
    assert other.gpio.save() == pins.gpio.save() and other.level == pins.level


class QemuBoard:
    """QEMU's board virt without a processor that runs: its devices, over its test protocol."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, line: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        assert answer and answer[0] == "OK", answer
        return answer[-1]

    def read(self, address: int) -> int:
        return int(self.ask(f"readl {address:#x}"), 0)

    def write(self, address: int, value: int) -> None:
        self.ask(f"writel {address:#x} {value:#x}")


@pytest.fixture
def qemu() -> Iterator[QemuBoard]:
    program = shutil.which("qemu-system-aarch64")
    if program is None:
        pytest.skip("needs qemu-system-aarch64 (Debian package qemu-system-arm)")
    command = [program, "-M", "virt", "-display", "none", "-nodefaults", "-qtest", "stdio"]
    command += ["-S", "-qtest-log", "none"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-3, text=True) as process:
        try:
            yield QemuBoard(process)
        finally:
            process.kill()


@pytest.mark.guest
def test_pins_as_qemus(qemu: QemuBoard) -> None:
    # The direction is set once: QEMU's pin that becomes an input keeps what it put out before.
    base, source = 0x0903_0000, random.Random(61)
    pins = Pins()
    pins[DIR] = 0x5A
    qemu.write(base + DIR, 0x5A)
    for number in range(500):
        offset = source.choice((DATA, source.randrange(0x400) & ~3, IS, IBE, IEV, IE, IC))
        value = source.getrandbits(8)
        pins[offset] = value
        qemu.write(base + offset, value)
        for looked in (DATA, DIR, IS, IBE, IEV, IE, offset & ~3 if offset < 0x400 else DATA):
            assert pins[looked] == qemu.read(base + looked), (number, hex(offset), hex(looked))
    ours = [pins[0xFE0 + 4 * index] for index in range(8)]
    assert ours == [qemu.read(base + 0xFE0 + 4 * index) for index in range(8)]
