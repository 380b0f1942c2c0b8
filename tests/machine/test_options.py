"""Options as people write them."""

from __future__ import annotations

import math

import pytest

from tandemu.machine import MachineError
from tandemu.machine.options import check_cpus, check_timeout, parse_memory

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("512", 512 * MIB),
        ("1G", 1024 * MIB),
        (" 2 GiB ", 2048 * MIB),
        ("65536k", 64 * MIB),
        ("1073741824B", 1024 * MIB),
        (128 * MIB, 128 * MIB),
    ],
)
def test_a_size_is_understood(text: str | int, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "value", ["", "M", "-1G", "1.5G", "1X", "0", "1B", "9" * 30, "99999T", 0, -4096, 5, True, None]
)
def test_a_size_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(MachineError, match="must be a"):
        parse_memory(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 65, -1, True, "2", 1.0])
def test_a_number_of_cpus_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(MachineError, match="from 1 to 64"):
        check_cpus(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", True])
def test_a_time_out_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(MachineError, match="time-out"):
        check_timeout(value)  # type: ignore[arg-type]


def test_a_time_out_may_be_missing() -> None:
    assert check_timeout(None) is None
    assert check_timeout(2) == 2.0
