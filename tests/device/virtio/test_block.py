"""The block device by a driver of ours, on every kind of ring."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Iterator, Sequence

import pytest

from tandemu.device.virtio.block import Block
from tandemu.device.virtio.features import NEEDS_RESET, RING_PACKED
from tests.device.virtio.driver import (
    RAM_BASE,
    RAM_BYTES,
    SPLIT,
    VARIANTS,
    Buffer,
    Driver,
    Ring,
    make_memory,
)

SECTOR = 512
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
READ_ONLY_FEATURE = 1 << 5


class MemoryDisk:
    """A disk in memory that counts what is asked of it."""

    def __init__(self, sectors: int, read_only: bool = False) -> None:
        self.data = bytearray(random.Random(1).randbytes(sectors * SECTOR))
        self.read_only = read_only
        self.calls: list[tuple[str, int, int]] = []
        self.error = 0

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def _note(self, name: str, offset: int, length: int) -> None:
        if self.error:
            raise OSError(self.error, "as the test wants it")
        assert 0 <= offset <= offset + length <= len(self.data)
        self.calls.append((name, offset, length))

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._note("readv", offset, sum(map(len, buffers)))
        for buffer in buffers:
            buffer[:] = self.data[offset : offset + len(buffer)]
            offset += len(buffer)

    def writev(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._note("writev", offset, sum(map(len, buffers)))
        for buffer in buffers:
            self.data[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self) -> None:
        self._note("flush", 0, 0)

    def discard(self, offset: int, length: int) -> None:
        self._note("discard", offset, length)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool) -> None:
        self._note(f"zero {may_unmap}", offset, length)
        self.data[offset : offset + length] = bytes(length)


class Bed:
    def __init__(self, features: int | None = None, **options: object) -> None:
        self.disk = MemoryDisk(2048, bool(options.pop("locked", False)))
        self.driver = Driver(make_memory())
        block = Block(self.driver.memory, self.disk, b"serial", **options)  # type: ignore[arg-type]
        self.driver.attach(block)
        own = block.features
        self.rings = self.driver.start(
            *[16] * len(block.queues), features=own | (SPLIT if features is None else features)
        )

    def request(
        self, kind: int, sector: int, data: bytes = b"", sizes: Sequence[int] = (), queue: int = 0
    ) -> tuple[int, bytes]:
        ring: Ring = self.rings[queue]
        out = [struct.pack("<IIQ", kind, 0, sector), *([data] if data else [])]
        answer = ring.call(out, [*sizes, 1], indirect=len(sizes) % 2 == 1)
        return answer[-1], answer[:-1]


@pytest.fixture(params=list(VARIANTS))
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    bed = Bed(VARIANTS[request.param])
    yield bed
    bed.driver.close()


def test_requests(bed: Bed) -> None:
    disk = bed.disk
    assert bed.request(IN, 3, sizes=[SECTOR]) == (OK, bytes(disk.data[3 * SECTOR : 4 * SECTOR]))
    assert bed.request(IN, 0, sizes=[100, 412]) == (OK, bytes(disk.data[:SECTOR]))
    assert bed.request(OUT, 5, b"x" * 1024) == (OK, b"")
    assert disk.data[5 * SECTOR : 7 * SECTOR] == b"x" * 1024
    assert bed.request(FLUSH, 0)[0] == OK
    assert bed.request(GET_ID, 0, sizes=[20]) == (OK, b"serial".ljust(20, b"\0"))
    erased = struct.pack("<QII", 5, 1, 0)
    assert bed.request(DISCARD, 0, erased)[0] == OK
    assert bed.request(WRITE_ZEROES, 0, erased)[0] == OK
    assert disk.data[5 * SECTOR : 7 * SECTOR] == bytes(SECTOR) + b"x" * SECTOR
    assert [call[0] for call in disk.calls] == [
        *("readv", "readv", "writev", "flush", "discard", "zero False"),
    ]


def test_many_requests_wrap_every_ring(bed: Bed) -> None:
    chance = random.Random(2)
    for number in range(300):
        sector = chance.randrange(2000)
        sizes = chance.choice([[SECTOR], [SECTOR, SECTOR], [1, 511], [SECTOR] * 9])
        size = sum(sizes)
        if number % 2:
            expected = bytes(bed.disk.data[sector * SECTOR : sector * SECTOR + size])
            assert bed.request(IN, sector, sizes=sizes) == (OK, expected)
        else:
            assert bed.request(OUT, sector, chance.randbytes(size))[0] == OK
        if number % 50 == 49:  # what a driver's memory is
            bed.driver._free -= 0x8000


def test_several_requests_at_once(bed: Bed) -> None:
    driver, ring = bed.driver, bed.rings[0]
    targets: dict[int, tuple[int, Buffer]] = {}
    for number in range(5):
        header = driver.place(struct.pack("<IIQ", IN, 0, number))
        data = driver.room(SECTOR)
        head = ring.add([header], [data, driver.room(1)])
        targets[head] = number, data
    ring.kick()
    for _ in range(5):
        head, written = ring.wait()
        number, data = targets.pop(head)
        assert written == SECTOR + 1
        assert driver.read(data) == bed.disk.data[number * SECTOR : (number + 1) * SECTOR]
    assert not targets


@pytest.mark.parametrize(
    ("kind", "sector", "data", "sizes", "status"),
    [
        (IN, 2048, b"", [SECTOR], IO_ERROR),
        (IN, 2047, b"", [2 * SECTOR], IO_ERROR),
        (IN, (1 << 64) - 1, b"", [SECTOR], IO_ERROR),
        (IN, 0, b"", [SECTOR - 1], IO_ERROR),
        (OUT, 2048, b"x" * SECTOR, [], IO_ERROR),
        (OUT, 0, b"x" * 3, [], IO_ERROR),
        (99, 0, b"", [], UNSUPPORTED),
        (DISCARD, 0, b"short", [], UNSUPPORTED),
        (DISCARD, 0, struct.pack("<QII", 2047, 2, 0), [], IO_ERROR),
        (DISCARD, 0, struct.pack("<QII", 0, 1, 1), [], UNSUPPORTED),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 2), [], UNSUPPORTED),
        (WRITE_ZEROES, 0, struct.pack("<QII", (1 << 64) - 1, 1, 0), [], IO_ERROR),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 0) * 65, [], UNSUPPORTED),
    ],
)
def test_bad_requests(kind: int, sector: int, data: bytes, sizes: list[int], status: int) -> None:
    bed = Bed()
    before = bytes(bed.disk.data)
    assert bed.request(kind, sector, data, sizes)[0] == status
    assert bytes(bed.disk.data) == before
    assert bed.request(FLUSH, 0)[0] == OK, "the device goes on"
    bed.driver.close()


def test_host_errors_reach_the_guest() -> None:
    bed = Bed()
    bed.disk.error = errno.ENOSPC
    assert bed.request(OUT, 0, b"x" * SECTOR)[0] == IO_ERROR
    bed.disk.error = errno.EOPNOTSUPP
    assert bed.request(DISCARD, 0, struct.pack("<QII", 0, 1, 0))[0] == UNSUPPORTED
    bed.disk.error = 0
    assert bed.request(OUT, 0, b"x" * SECTOR)[0] == OK
    bed.driver.close()


@pytest.mark.parametrize("options", [{"read_only": True}, {"locked": True}])
def test_read_only(options: dict[str, object]) -> None:
    bed = Bed(**options)  # type: ignore[arg-type]
    assert bed.driver.device.features & READ_ONLY_FEATURE
    assert bed.request(OUT, 0, b"x" * SECTOR)[0] == IO_ERROR
    assert bed.request(WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 0))[0] == IO_ERROR
    assert bed.request(IN, 0, sizes=[SECTOR])[0] == OK
    bed.driver.close()


def test_a_cache_that_the_guest_switches_off() -> None:
    bed = Bed()
    bed.driver.put(0x2000 + 32, 1, 0)
    assert bed.driver.get(0x2000 + 32, 1) == 0
    bed.request(OUT, 0, b"x" * SECTOR)
    assert [call[0] for call in bed.disk.calls] == ["writev", "flush"]
    bed.driver.close()


def test_several_queues() -> None:
    bed = Bed(queue_count=4)
    assert bed.driver.get(0x2000 + 34, 2) == 4
    for queue in range(4):
        assert bed.request(IN, queue, sizes=[SECTOR], queue=queue)[0] == OK
    bed.driver.close()


def test_configuration() -> None:
    bed = Bed(block_bytes=4096)
    assert bed.driver.get(0x2000) | bed.driver.get(0x2004) << 32 == 2048
    assert bed.driver.get(0x2000 + 20) == 4096
    assert bed.driver.get(0x2000 + 60) == 0 and bed.driver.get(0x2FFC, 8) == 0
    bed.driver.close()


def test_a_request_without_header_or_status_needs_a_reset() -> None:
    bed = Bed()
    bed.rings[0].add([bed.driver.place(b"short")], [bed.driver.room(1)])
    bed.rings[0].kick()
    assert bed.driver.interrupted.wait(60)
    assert bed.driver.status & NEEDS_RESET
    bed.rings = bed.driver.start(16, features=bed.driver.features)
    assert bed.request(FLUSH, 0)[0] == OK
    bed.driver.close()


def test_state_moves_to_another_device() -> None:
    bed = Bed()
    for sector in range(20):
        bed.request(IN, sector, sizes=[SECTOR])
    device = bed.driver.device
    device.rest()
    saved = {name: part.save() for name, part in bed.driver.transport.parts().items()}
    other = Block(bed.driver.memory, bed.disk, b"serial")
    old = bed.driver.device
    bed.driver.attach(other)
    for name, part in bed.driver.transport.parts().items():
        part.load(saved[name])
    assert bed.request(IN, 7, sizes=[SECTOR])[0] == OK
    old.close()
    bed.driver.close()


@pytest.mark.parametrize("features", list(VARIANTS.values()), ids=list(VARIANTS))
def test_what_the_device_writes_is_noted(features: int) -> None:
    bed = Bed(features)
    driver, ring = bed.driver, bed.rings[0]
    bed.request(FLUSH, 0)  # the worker has begun, and waits for a kick
    driver._free = RAM_BASE + 0x10_0000
    header = driver.place(struct.pack("<IIQ", IN, 0, 0))
    driver._free = RAM_BASE + 0x10_3000
    ring.add([header], [driver.room(2 * 4096), driver.room(1)])
    with driver.memory.open_dirty_log() as log:
        ring.kick()
        ring.wait()
        driver.device.rest()  # the used ring is noted when the driver has it already
        bits = int.from_bytes(log.take(RAM_BASE), "little")
    pages = {number for number in range(RAM_BYTES >> 12) if bits >> number & 1}
    assert {0x103, 0x104} <= pages and 0x100 not in pages
    used = ring.areas[0 if features & RING_PACKED else 2] - RAM_BASE >> 12
    assert used in pages
    driver.device.go_on()
    driver.close()
