"""APLIC and IMSIC through their registers: wires become messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.device import DeviceError
from tandemu.device.aplic import REGISTER_BYTES, Aplic
from tandemu.device.imsic import PAGE_BYTES, Imsic

DOMAIN, SOURCE, TARGET, GENERATE = 0, 4, 0x3004, 0x3000
SET_PENDING, SET_PENDING_NUMBER, CLEAR_PENDING, CLEAR_NUMBER = 0x1C00, 0x1CDC, 0x1D00, 0x1DDC
ENABLE, ENABLE_NUMBER, DISABLE, DISABLE_NUMBER = 0x1E00, 0x1EDC, 0x1F00, 0x1FDC
DETACHED, RISING, FALLING, HIGH, LOW = 1, 4, 5, 6, 7


class Domain:
    """An APLIC whose messages are remembered."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.aplic = Aplic(lambda hart, identity: self.sent.append((hart, identity)))
        self.write(DOMAIN, 1 << 8)

    def write(self, offset: int, value: int) -> None:
        self.aplic.write(offset, 4, value)

    def read(self, offset: int) -> int:
        return self.aplic.read(offset, 4)

    def use(self, source: int, mode: int, hart: int = 0, identity: int = 0) -> None:
        self.write(SOURCE + 4 * (source - 1), mode)
        self.write(TARGET + 4 * (source - 1), hart << 18 | (identity or source))
        self.write(ENABLE_NUMBER, source)

    def take(self) -> list[tuple[int, int]]:
        sent, self.sent = self.sent, []
        return sent


def test_a_level_sends_once_and_again_when_asked() -> None:
    domain = Domain()
    line = domain.aplic.line(10)
    domain.use(10, HIGH, hart=3, identity=77)
    line(True)
    assert domain.take() == [(3, 77)]
    assert domain.read(SET_PENDING) == 0 and domain.read(CLEAR_PENDING) == 1 << 10
    line(True)
    assert domain.take() == []
    domain.write(SET_PENDING_NUMBER, 10)
    assert domain.take() == [(3, 77)], "still high: as Linux asks at the end of its handler"
    line(False)
    domain.write(SET_PENDING_NUMBER, 10)
    assert domain.take() == [] and domain.read(SET_PENDING) == 0


@pytest.mark.parametrize(("mode", "first", "then"), [(LOW, True, False), (FALLING, True, False)])
def test_inverted(mode: int, first: bool, then: bool) -> None:
    domain = Domain()
    line = domain.aplic.line(1)
    line(first)
    domain.use(1, mode)
    domain.take()
    line(then)
    assert domain.take() == [(0, 1)]


def test_edges_stay_pending_until_enabled() -> None:
    domain = Domain()
    line = domain.aplic.line(40)
    domain.write(SOURCE + 4 * 39, RISING)
    line(True)
    line(False)
    assert domain.read(SET_PENDING + 4) == 1 << 8
    domain.write(TARGET + 4 * 39, 9)
    domain.write(ENABLE + 4, 1 << 8)
    assert domain.take() == [(0, 9)]
    domain.write(DISABLE_NUMBER, 40)
    line(True)
    domain.write(CLEAR_NUMBER, 40)
    domain.write(ENABLE_NUMBER, 40)
    assert domain.take() == []


def test_detached_and_inactive() -> None:
    domain = Domain()
    line = domain.aplic.line(5)
    line(True)
    domain.use(5, DETACHED)
    assert domain.take() == [] and domain.read(CLEAR_PENDING) == 0
    domain.write(SET_PENDING_NUMBER, 5)
    assert domain.take() == [(0, 5)]
    domain.write(SOURCE + 16, 0)
    assert domain.read(TARGET + 16) == 0 and domain.read(ENABLE) == 0
    domain.use(5, 0)
    assert domain.read(TARGET + 16) == 0 and domain.read(ENABLE) == 0
    for reserved in (2, 3, 1 << 10 | HIGH):
        domain.write(SOURCE + 16, reserved)
        assert domain.read(SOURCE + 16) == 0


def test_domain() -> None:
    domain = Domain()
    assert domain.read(DOMAIN) == 0x8000_0104
    domain.write(DOMAIN, 0)
    assert domain.read(DOMAIN) == 0x8000_0004
    domain.use(1, HIGH)
    domain.aplic.line(1)(True)
    assert domain.take() == []
    domain.write(DOMAIN, 1 << 8)
    assert domain.take() == [(0, 1)]
    domain.write(GENERATE, 2 << 18 | 33)
    assert domain.take() == [(2, 33)] and domain.read(GENERATE) == 0


def test_state() -> None:
    domain, other = Domain(), Domain()
    domain.write(DOMAIN, 0)
    domain.use(7, HIGH)
    domain.aplic.line(7)(True)
    other.aplic.load(domain.aplic.save())
    other.write(DOMAIN, 1 << 8)
    assert other.take() == [(0, 7)]
    with pytest.raises(DeviceError):
        Aplic(lambda hart, identity: None, 1024)


@given(
    st.lists(
        st.tuples(
            st.integers(0, REGISTER_BYTES + 64),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, (1 << 64) - 1),
            st.integers(1, 95),
        ),
        max_size=60,
    )
)
def test_no_access_breaks_it(accesses: list[tuple[int, int, int, int]]) -> None:
    domain = Domain()
    for offset, size, value, source in accesses:
        domain.aplic.write(offset, size, value & (1 << 8 * size) - 1)
        domain.aplic.line(source)(bool(value & 1))
        domain.aplic.read(offset, size)
    assert not (domain.aplic.pending | domain.aplic.enables) & ~((1 << 96) - 2)
    assert all(hart < 1 << 14 and identity < 1 << 11 for hart, identity in domain.sent)


def test_pages_of_the_files() -> None:
    taken: list[tuple[int, int]] = []
    imsic = Imsic([lambda identity: taken.append((0, identity)), lambda i: taken.append((1, i))])
    imsic.write(0, 4, 5)
    imsic.write(PAGE_BYTES + 4, 4, 0x0600_0000)
    for offset, size in ((0, 2), (1, 4), (8, 4), (0, 8)):
        imsic.write(offset, size, 9)
    imsic.send(2, 7)
    assert taken == [(0, 5), (1, 6)] and imsic.read(0, 4) == 0
