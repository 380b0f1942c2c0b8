"""Register maps: access modes, splitting of odd accesses, saving and loading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.device.registers import (
    Access,
    DeviceError,
    Field,
    Peripheral,
    Register,
    RegisterMap,
    queue,
    state,
)


class Sample(Peripheral, version=3):
    registers = RegisterMap(
        Register(
            "mixed",
            0,
            4,
            (
                Field("plain", 0, 8, reset=0x11),
                Field("fixed", 8, 8, Access.RO, 0x22),
                Field("sticky", 16, 8, Access.W1C, 0xFF),
                Field("command", 24, 8, Access.WO),
            ),
        ),
        Register("wide", 8, 8),
        Register("table", 0x10, 2, count=4, stride=4, reset=7),
        Register("input", 0x20, 1, access=Access.RO),
        Register("output", 0x20, 1, access=Access.WO),
        Register("banked", 0x20, 1, bank="other"),
        hole=0xEE,
    )

    written: list[int]

    mixed: int = registers.mixed.state()
    wide: int = registers.wide.state()
    table: list[int] = registers.table.state()
    banked: int = registers.banked.state()
    extra: int = state(4, 5)
    waiting: list[int] = queue(3, 8)

    def read_input(self) -> int:
        return 0x5A

    def write_output(self, value: int) -> None:
        self.written.append(value)


@pytest.fixture
def sample() -> Sample:
    return Sample([])


def test_access_modes(sample: Sample) -> None:
    assert sample.read(0, 4) == 0x00FF2211
    sample.write(0, 4, 0xAB0F_FF33)
    assert sample.mixed == 0xABF0_2233
    assert sample.read(0, 4) == 0x00F0_2233


def test_narrow_write_keeps_the_other_bytes(sample: Sample) -> None:
    sample.write(0, 1, 0x44)
    assert sample.read(0, 4) == 0x00FF_2244
    sample.write(8, 8, 0x1122_3344_5566_7788)
    sample.write(12, 4, 0xAABB_CCDD)
    assert sample.wide == 0xAABB_CCDD_5566_7788
    assert sample.read(10, 2) == 0x5566


def test_wide_and_misaligned_accesses_are_split(sample: Sample) -> None:
    sample.write(6, 4, 0x1234_5678)
    assert sample.wide == 0x1234
    assert sample.read(6, 4) == 0x1234_EEEE
    assert sample.read(0x10, 8) == 0xEEEE_0007_EEEE_0007
    sample.write(0x10, 8, 0x0004_0003_0002_0001)
    assert sample.table == [1, 3, 7, 7]


def test_directions_and_banks_share_an_offset(sample: Sample) -> None:
    sample.write(0x20, 1, 9)
    assert (sample.read(0x20, 1), sample.written) == (0x5A, [9])
    sample.select_bank("other")
    sample.write(0x20, 1, 8)
    assert (sample.read(0x20, 1), sample.written, sample.banked) == (8, [9], 8)


def test_save_load_reset(sample: Sample) -> None:
    sample.write(8, 8, 77)
    sample.waiting.append(1)
    saved = sample.save()
    assert saved["version"] == 3
    other = Sample([])
    other.load(saved)
    assert other.save() == saved
    other.waiting.append(2)
    assert sample.waiting == [1]
    other.reset()
    assert other.save() == Sample([]).save()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"wide": -1}, "not 64 bits"),
        ({"extra": 16}, "not 4 bits"),
        ({"extra": "1"}, "must be an integer"),
        ({"extra": True}, "must be an integer"),
        ({"table": [1]}, "list of 4"),
        ({"waiting": [0] * 4}, "at most 3"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_load_refuses_what_does_not_fit(
    sample: Sample, change: dict[str, object], message: str
) -> None:
    before = sample.save()
    with pytest.raises(DeviceError, match=message):
        sample.load({**before, "mixed": 0, **change})
    assert sample.save() == before


def test_mistakes_in_a_declaration_fail_at_import() -> None:
    with pytest.raises(DeviceError, match="overlap"):
        RegisterMap(Register("a", 0, 4), Register("b", 2, 4))
    with pytest.raises(DeviceError, match="called"):
        RegisterMap(Register("a", 0), Register("a", 8))
    with pytest.raises(DeviceError, match="leaves"):
        Register("a", 0, 1, (Field("f", 4, 8),))
    RegisterMap(Register("a", 0, count=1000, stride=16), Register("b", 4, count=1000, stride=16))
    with pytest.raises(DeviceError, match="overlap"):
        RegisterMap(
            Register("a", 0, count=1000, stride=16), Register("b", 2, count=1000, stride=16)
        )
    with pytest.raises(DeviceError, match="no state of that name and no method"):

        class Missing(Peripheral):
            registers = RegisterMap(Register("a", 0))


@given(
    st.lists(
        st.tuples(st.integers(0, 0x40), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1)),
        max_size=30,
    )
)
def test_any_access_is_answered(accesses: list[tuple[int, int, int]]) -> None:
    sample = Sample([])
    for offset, size, value in accesses:
        sample.write(offset, size, value & (1 << size * 8) - 1)
        assert 0 <= sample.read(offset, size) < 1 << size * 8
    Sample([]).load(sample.save())
