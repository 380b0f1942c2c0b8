"""PLIC and CLINT through their registers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.device import DeviceError
from tandemu.device.clint import Clint
from tandemu.device.plic import Plic

ENABLE, THRESHOLD, CLAIM = 0x2000, 0x200000, 0x200004
SIZES = st.sampled_from([1, 2, 4, 8])


class Controller:
    """A PLIC with two contexts whose lines are remembered."""

    def __init__(self, sources: int = 95, contexts: int = 2) -> None:
        self.lines = [False] * contexts
        self.plic = Plic([self._output(context) for context in range(contexts)], sources)

    def _output(self, context: int):  # type: ignore[no-untyped-def]
        def drive(level: bool) -> None:
            self.lines[context] = level

        return drive

    def prioritize(self, source: int, priority: int) -> None:
        self.plic.write(source * 4, 4, priority)

    def enable(self, context: int, *sources: int) -> None:
        bits = sum(1 << source for source in sources)
        for word in range(3):
            self.plic.write(ENABLE + context * 0x80 + word * 4, 4, bits >> 32 * word & 0xFFFFFFFF)

    def claim(self, context: int) -> int:
        return self.plic.read(CLAIM + context * 0x1000, 4)

    def complete(self, context: int, source: int) -> None:
        self.plic.write(CLAIM + context * 0x1000, 4, source)


def test_claim_and_complete() -> None:
    controller = Controller()
    line = controller.plic.line(10)
    controller.prioritize(10, 1)
    line(True)
    assert controller.lines == [False, False]
    assert controller.plic.read(0x1000, 4) == 1 << 10
    controller.enable(1, 10)
    assert controller.lines == [False, True]
    assert controller.claim(0) == 0
    assert controller.claim(1) == 10
    assert controller.lines == [False, False] and controller.plic.read(0x1000, 4) == 0
    controller.complete(1, 10)
    assert controller.lines == [False, True], "the level is still high"
    assert controller.claim(1) == 10
    line(False)
    controller.complete(1, 10)
    assert controller.lines == [False, False]


def test_priorities_ties_and_threshold() -> None:
    controller = Controller()
    for source, priority in ((3, 2), (40, 5), (41, 5), (64, 1), (65, 0)):
        controller.prioritize(source, priority)
        controller.plic.line(source)(True)
    controller.enable(0, 3, 40, 41, 64, 65)
    controller.plic.write(THRESHOLD, 4, 5)
    assert controller.lines[0] is False
    controller.plic.write(THRESHOLD, 4, 4)
    assert controller.lines[0] is True
    assert [controller.claim(0) for _ in range(5)] == [40, 41, 3, 64, 0]
    assert controller.lines[0] is False


def test_only_the_context_that_enabled_a_source_completes_it() -> None:
    controller = Controller()
    controller.prioritize(1, 1)
    controller.enable(0, 1)
    controller.plic.line(1)(True)
    assert controller.claim(0) == 1
    controller.complete(1, 1)
    assert controller.lines[0] is False
    controller.complete(0, 95)
    controller.complete(0, 0xFFFF_FFFF)
    assert controller.lines[0] is False
    controller.complete(0, 1)
    assert controller.lines[0] is True


def test_registers_keep_what_exists() -> None:
    controller = Controller(sources=40)
    controller.prioritize(5, 0xFFFF_FFFF)
    assert controller.plic.read(5 * 4, 4) == 7
    controller.prioritize(0, 3)
    controller.prioritize(41, 3)
    assert controller.plic.read(0, 4) == controller.plic.read(41 * 4, 4) == 0
    controller.plic.write(ENABLE, 8, 2**64 - 1)
    assert controller.plic.read(ENABLE, 8) == (1 << 41) - 2
    controller.plic.write(ENABLE + 2 * 0x80, 4, 2)
    controller.plic.write(THRESHOLD + 2 * 0x1000, 4, 2)
    assert controller.plic.read(ENABLE + 2 * 0x80, 4) == 0
    assert controller.plic.read(THRESHOLD + 2 * 0x1000, 4) == 0


def test_state_drives_the_lines_again() -> None:
    controller = Controller()
    controller.prioritize(7, 1)
    controller.enable(1, 7)
    controller.plic.line(7)(True)
    other = Controller()
    other.plic.load(controller.plic.save())
    assert other.lines == [False, True]
    other.plic.reset()
    assert other.lines == [False, False]


def test_impossible_controllers() -> None:
    with pytest.raises(DeviceError, match="1 to 1023"):
        Plic([], 1024)
    with pytest.raises(DeviceError, match="must be 1 to 95"):
        Controller().plic.line(0)


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.integers(0, 0x5FFFFF),
                st.integers(0, 0x400),
                st.integers(0x1000, 0x2200),
                st.integers(0x200000, 0x202010),
            ),
            SIZES,
            st.integers(0, 2**64 - 1),
            st.integers(1, 95),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_hostile_guest(steps: list[tuple[int, int, int, int, bool]]) -> None:
    controller = Controller()
    for offset, size, value, source, level in steps:
        controller.plic.line(source)(level)
        controller.plic.write(offset, size, value & (1 << size * 8) - 1)
        assert 0 <= controller.plic.read(offset, size) < 1 << size * 8
    Controller().plic.load(controller.plic.save())


def test_clint() -> None:
    timers: dict[int, int] = {}
    software: dict[int, bool] = {}
    times = [0x1_0000_0005]
    clint = Clint(2, lambda: times[-1], times.append, timers.__setitem__, software.__setitem__)
    clint.write(4, 4, 0xFFFF_FFFF)
    assert software == {1: True} and clint.read(4, 4) == 1
    clint.write(0x4008, 8, 123)
    assert timers == {1: 123}
    clint.write(0x400C, 4, 1)
    assert timers == {1: 123 | 1 << 32} and clint.read(0x4008, 8) == 123 | 1 << 32
    assert clint.read(0xBFF8, 8) == 0x1_0000_0005
    assert (clint.read(0xBFF8, 4), clint.read(0xBFFC, 4)) == (5, 1)
    clint.write(0xBFFC, 4, 7)
    assert times[-1] == 7 << 32 | 5
    clint.write(0xBFF8, 8, 0)
    assert clint.read(0xBFF8, 8) == times[-1] == 0
    clint.write(8, 4, 1)
    clint.write(0x4010, 8, 1)
    assert software == {1: True} and 2 not in timers
    saved = clint.save()
    clint.reset()
    assert software == {0: False, 1: False} and timers[1] == 2**64 - 1
    clint.load(saved)
    assert software[1] and timers[1] == 123 | 1 << 32


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), SIZES, st.integers(0, 2**64 - 1)), max_size=20))
def test_hostile_guest_of_the_clint(steps: list[tuple[int, int, int]]) -> None:
    times = [2**70]
    timers: dict[int, int] = {}
    software: dict[int, bool] = {}
    clint = Clint(1, lambda: times[-1], times.append, timers.__setitem__, software.__setitem__)
    for offset, size, value in steps:
        clint.write(offset, size, value & (1 << size * 8) - 1)
        assert 0 <= clint.read(offset, size) < 1 << size * 8
