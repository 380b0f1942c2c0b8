"""Rate limits, by a clock that only sleeping moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandemu.host.disk import DiskUsageError, open_image
from tandemu.host.disk.limit import LimitedImage, Limits
from tests.host.disk.images import MIB


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def limited(tmp_path: Path, limits: Limits) -> tuple[LimitedImage, Clock]:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
    clock = Clock()
    image = open_image(str(path), "raw")
    return LimitedImage(image, limits, clock=lambda: clock.now, sleep=clock.sleep), clock


def test_bytes_come_at_their_rate_after_the_burst(tmp_path: Path) -> None:
    image, clock = limited(tmp_path, Limits(bytes_per_s=MIB, burst_bytes=4 * MIB))
    with image:
        image.write(0, b"x" * 4 * MIB)
        assert clock.now == 0
        for number in range(1, 5):
            assert image.read(0, MIB) == b"x" * MIB
            assert clock.now == pytest.approx(number)
        image.write(0, bytes(8 * MIB))  # larger than the burst: not cut, paid for later
        assert clock.now == pytest.approx(12)
        clock.now += 100
        image.read(0, 4 * MIB)
        assert clock.now == pytest.approx(112)


def test_operations_come_at_their_rate(tmp_path: Path) -> None:
    image, clock = limited(tmp_path, Limits(operations_per_s=10))
    with image:
        for _ in range(10):
            image.read(0, 512)
        assert clock.now == 0
        for change in (
            lambda: image.write(0, b"x" * 512),
            lambda: image.discard(0, 4096),
            lambda: image.write_zeroes(0, 4096),
            image.flush,
        ):
            change()
        assert clock.now == pytest.approx(0.4)
        assert sum(one.length for one in image.extents(0, 8 * MIB)) == 8 * MIB
        assert image.describe().format == "raw"


def test_both_limits_hold(tmp_path: Path) -> None:
    image, clock = limited(tmp_path, Limits(bytes_per_s=MIB, operations_per_s=2))
    with image:
        image.read(0, MIB)
        image.read(0, 512)
        image.read(0, 512)
        assert clock.now == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "wrong", [{"bytes_per_s": -1}, {"burst_bytes": 5}, {"burst_operations": 5}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DiskUsageError):
        Limits(**wrong)
    assert not Limits().is_any


def test_what_is_urgent_does_not_wait_and_is_paid_for_later(tmp_path: Path) -> None:
    image, clock = limited(tmp_path, Limits(bytes_per_s=MIB))
    with image:
        image.is_urgent = lambda: clock.now > 1
        image.read(0, 8 * MIB)
        assert 1 < clock.now < 1.1
        image.is_urgent = lambda: False
        image.read(0, 512)
        assert clock.now == pytest.approx(7, abs=0.1)
