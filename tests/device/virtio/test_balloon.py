"""The balloon: memory that goes to the host and comes back as zeroes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from tandemu.device.virtio.balloon import Balloon
from tests.device.virtio.driver import (
    RAM_BASE,
    RAM_BYTES,
    ROM_BASE,
    VARIANTS,
    Buffer,
    Driver,
    make_memory,
)

INFLATE, DEFLATE, STATISTICS, REPORTING = range(4)
PAGE = 4096
FRAME = RAM_BASE // PAGE
TARGET, ACTUAL = 0x2000, 0x2004


class Bed:
    def __init__(self, features: int) -> None:
        self.driver = Driver(make_memory())
        self.memory = self.driver.memory
        self.balloon = Balloon(self.memory)
        self.driver.attach(self.balloon)
        self.rings = self.driver.start(*(16, 16, 16, 16), features=features | self.balloon.features)

    def host_bytes(self) -> int:
        """What the RAM takes of the host's memory."""
        return os.fstat(self.memory.region(RAM_BASE).ram.fd).st_blocks * 512


@pytest.fixture(params=["split", "packed"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    bed = Bed(VARIANTS[request.param])
    yield bed
    bed.driver.close()


def frames(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def test_pages_go_back_to_the_host(bed: Bed) -> None:
    place = RAM_BASE + 0x20_0000
    assert bed.memory.write(place, b"\xff" * (0x20_0000))
    before = bed.host_bytes()
    first = place // PAGE
    bed.rings[INFLATE].call([frames(*range(first + 3, first + 255, 2), *range(first, first + 3))])
    bed.rings[INFLATE].call([frames(*range(first, first + 512))])
    assert bed.host_bytes() <= before - 0x20_0000 + 2 * PAGE
    assert bed.memory.read(place, 0x20_0000) == bytes(0x20_0000)
    bed.rings[DEFLATE].call([frames(first)])
    assert bed.memory.write(place, b"again") and bed.memory.read(place, 5) == b"again"


def test_frames_that_are_no_ram_are_passed_over(bed: Bed) -> None:
    rom = bed.memory.read(ROM_BASE, PAGE)
    bed.memory.write(RAM_BASE, b"kept")
    odd = (0, ROM_BASE // PAGE, (1 << 32) - 1, FRAME + RAM_BYTES // PAGE, FRAME - 1)
    bed.rings[INFLATE].call([frames(*odd)])
    bed.rings[INFLATE].call([b"\1\2\3"])
    bed.rings[INFLATE].call([frames(FRAME + 900) * 3])
    bed.rings[DEFLATE].call([frames(*odd) * 10])
    assert bed.memory.read(ROM_BASE, PAGE) == rom
    assert bed.memory.read(RAM_BASE, 4) == b"kept"
    assert bed.balloon.returned_bytes == PAGE


def test_free_pages_that_are_reported(bed: Bed) -> None:
    place = RAM_BASE + 0x30_0000
    bed.memory.write(place - 8, b"\xff" * (2 * PAGE + 16))
    bed.rings[REPORTING].add([], [Buffer(place - 8, 2 * PAGE + 16)])
    bed.rings[REPORTING].kick()
    bed.rings[REPORTING].wait()
    assert bed.memory.read(place - 8, 8) == b"\xff" * 8, "only whole pages"
    assert bed.memory.read(place, 2 * PAGE) == bytes(2 * PAGE)


def test_the_target(bed: Bed) -> None:
    bed.balloon.target_bytes = 100 * PAGE + 5
    assert bed.driver.interrupted.wait(60)
    assert bed.driver.get(0x1000, 1) == 2
    assert bed.driver.get(TARGET) == 100
    bed.driver.put(ACTUAL, 4, 70)
    assert bed.balloon.actual_bytes == 70 * PAGE
    bed.driver.put(TARGET, 4, 5)
    assert bed.driver.get(TARGET) == 100, "that is the host's to say"


def test_statistics(bed: Bed) -> None:
    ring = bed.rings[STATISTICS]

    def tell(value: int) -> None:
        data = struct.pack("<HQHQ", 4, value, 999, 1)
        ring.add([bed.driver.place(data)])
        ring.kick()

    tell(1000)
    for value in (2000, 3000):
        while "free_bytes" not in bed.balloon.statistics:
            bed.balloon.rest()
            bed.balloon.go_on()
        bed.balloon.ask_for_statistics()
        ring.wait()
        bed.balloon.statistics.clear()
        tell(value)
    while bed.balloon.statistics.get("free_bytes") != 3000:
        bed.balloon.rest()
        bed.balloon.go_on()
    bed.driver.put(0x14, 1, 0)
    bed.balloon.ask_for_statistics()
