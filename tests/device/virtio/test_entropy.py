"""The entropy device."""

from __future__ import annotations

import pytest

from tandemu.device.virtio.entropy import Entropy
from tests.device.virtio.driver import VARIANTS, Driver, make_memory


@pytest.mark.parametrize("features", list(VARIANTS.values()), ids=list(VARIANTS))
def test_random_bytes(features: int) -> None:
    driver = Driver(make_memory())
    driver.attach(Entropy(driver.memory))
    (ring,) = driver.start(16, features=features)
    first, second = ring.call([], [64, 100]), ring.call([], [164])
    assert len(first) == len(second) == 164 and first != second
    assert len(set(first)) > 50
    assert ring.call([b"nothing to write to"]) == b""
    assert len(ring.call([], [1 << 17])) == 1 << 16
    driver.close()
