"""Drivers that break the rules: the device reaches nothing but RAM, and goes on after a reset."""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from tandemu.device.virtio.block import Block
from tandemu.device.virtio.features import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    INDIRECT_DESCRIPTORS,
    NEEDS_RESET,
    RING_PACKED,
    VERSION_1,
)
from tandemu.device.virtqueue.layout import SEGMENT_LIMIT, Status
from tandemu.device.virtqueue.queue import Chain, QueueFault, Virtqueue
from tests.device.virtio.driver import (
    INDIRECT,
    NEXT,
    RAM_BASE,
    RAM_BYTES,
    ROM_BASE,
    ROM_BYTES,
    SPLIT,
    VARIANTS,
    WRITE,
    Descriptor,
    Driver,
    PackedRing,
    SplitRing,
    make_memory,
)
from tests.device.virtio.test_block import FLUSH, OK, SECTOR, Bed

RAM_END = RAM_BASE + RAM_BYTES
ROUNDS = 400


class Queue:
    """A queue without a device: what the native code says of what a driver puts into it."""

    def __init__(self, features: int, size: int = 8) -> None:
        self.driver = Driver(make_memory())
        self.driver.features = features
        self.packed = bool(features & RING_PACKED)
        self.ring = (PackedRing if self.packed else SplitRing)(self.driver, 0, size)
        self.queue = Virtqueue(self.driver.memory)
        self.queue.set_packed(self.packed)
        fields = self.queue.fields
        fields.size = size
        fields.descriptors, fields.driver, fields.device = self.ring.areas
        fields.indirect = int(bool(features & INDIRECT_DESCRIPTORS))
        fields.available_wrap = fields.used_wrap = 1
        self.chain = Chain(self.driver.memory)

    def pop(self) -> list[int]:
        """Sizes of the next chain's segments; the writable ones negative."""
        assert self.queue.pop(self.chain)
        sizes = [len(view) for view in self.chain.readable]
        return sizes + [-len(view) for view in self.chain.writable]

    def fault(self) -> Status:
        with pytest.raises(QueueFault) as caught:
            self.queue.pop(self.chain)
        return caught.value.status


@pytest.fixture(params=[SPLIT, VARIANTS["packed"]], ids=["split", "packed"])
def queue(request: pytest.FixtureRequest) -> Queue:
    return Queue(request.param)


@pytest.mark.parametrize("indirect", [False, True])
def test_segments(queue: Queue, indirect: bool) -> None:
    chain = [
        Descriptor(RAM_BASE, 10),
        Descriptor(RAM_BASE + 10, 6),  # goes on where the one before ends
        Descriptor(RAM_BASE + 100, 0),
        Descriptor(ROM_BASE, ROM_BYTES),
        Descriptor(RAM_BASE + 16, 5, WRITE),
        Descriptor(RAM_END - 7, 7, WRITE),
    ]
    queue.ring.add_raw(chain, indirect=indirect)
    assert queue.pop() == [16, ROM_BYTES, -5, -7]
    assert (queue.chain.readable_bytes, queue.chain.writable_bytes) == (16 + ROM_BYTES, 12)
    assert not queue.queue.pop(queue.chain)


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize(
    ("chain", "status"),
    [
        ([Descriptor(RAM_END - 4, 8)], Status.BAD_BUFFER),
        ([Descriptor(RAM_END, 1)], Status.BAD_BUFFER),
        ([Descriptor(0, 1)], Status.BAD_BUFFER),
        ([Descriptor((1 << 64) - 4, 8)], Status.BAD_BUFFER),
        ([Descriptor(0x3000_0000, 4)], Status.BAD_BUFFER),
        ([Descriptor(ROM_BASE, 4, WRITE)], Status.BAD_BUFFER),
        ([Descriptor(RAM_BASE, 4, WRITE), Descriptor(RAM_BASE, 4)], Status.BAD_ORDER),
        ([Descriptor(RAM_BASE, (1 << 32) - 1)], Status.BAD_BUFFER),
    ],
)
def test_buffers_that_cannot_be(
    queue: Queue, chain: list[Descriptor], status: Status, indirect: bool
) -> None:
    queue.ring.add_raw(chain, indirect=indirect)
    assert queue.fault() == status


def test_lengths_that_add_up_to_too_much(queue: Queue) -> None:
    queue.ring.add_raw([Descriptor(RAM_BASE, RAM_BYTES)] * 1024, indirect=True)
    assert queue.fault() == Status.TOO_LONG


def test_pieces_that_are_too_many(queue: Queue) -> None:
    pieces = [Descriptor(RAM_BASE + 2 * n, 1) for n in range(SEGMENT_LIMIT + 1)]
    queue.ring.add_raw(pieces[:-1], indirect=True)
    assert queue.pop() == [1] * SEGMENT_LIMIT
    queue.ring.add_raw(pieces, indirect=True)
    assert queue.fault() == Status.TOO_LONG


@pytest.mark.parametrize(
    ("address", "size", "status"),
    [
        (RAM_BASE, 0, Status.BAD_INDIRECT),
        (RAM_BASE, 17, Status.BAD_INDIRECT),
        (RAM_END - 16, 32, Status.BAD_BUFFER),
        (RAM_BASE, (1 << 32) - 16, Status.BAD_INDIRECT),
        (0x10, 16, Status.BAD_BUFFER),
    ],
)
def test_indirect_tables_that_cannot_be(
    queue: Queue, address: int, size: int, status: Status
) -> None:
    queue.ring.add_raw([Descriptor(address, size, INDIRECT)])
    assert queue.fault() == status


def test_indirect_in_indirect(queue: Queue) -> None:
    queue.ring.add_raw([Descriptor(RAM_BASE, 16, INDIRECT)], indirect=True)
    assert queue.fault() == Status.BAD_INDIRECT


def test_indirect_that_was_not_negotiated() -> None:
    for features in (SPLIT, VARIANTS["packed"]):
        queue = Queue(features & ~INDIRECT_DESCRIPTORS)
        queue.ring.add_raw([Descriptor(RAM_BASE, 16, INDIRECT)])
        assert queue.fault() == Status.BAD_INDIRECT


def test_indirect_with_a_next(queue: Queue) -> None:
    queue.ring.add_raw([Descriptor(RAM_BASE, 16, INDIRECT), Descriptor(RAM_BASE, 1)])
    assert queue.fault() == Status.BAD_INDIRECT


def split_queue() -> tuple[Queue, SplitRing]:
    queue = Queue(SPLIT)
    assert isinstance(queue.ring, SplitRing)
    return queue, queue.ring


@pytest.mark.parametrize("following", [0, 3])
def test_a_chain_that_is_a_loop(following: int) -> None:
    queue, ring = split_queue()
    for index in range(8):
        ring.put_descriptor(
            *(ring.areas[0], index, Descriptor(RAM_BASE, 1, NEXT, (index + 1) % 8 or following))
        )
    ring.offer(0)
    assert queue.fault() == Status.LOOP


def test_a_chain_that_is_itself_in_an_indirect_table() -> None:
    queue, ring = split_queue()
    table = queue.driver.allocate(32)
    ring.put_descriptor(table, 0, Descriptor(RAM_BASE, 1, NEXT, 0))
    ring.put_descriptor(ring.areas[0], 0, Descriptor(table, 32, INDIRECT))
    ring.offer(0)
    assert queue.fault() == Status.LOOP


def test_indices_that_cannot_be() -> None:
    queue, ring = split_queue()
    ring.offer(8)
    assert queue.fault() == Status.BAD_HEAD
    queue, ring = split_queue()
    ring.put_descriptor(ring.areas[0], 0, Descriptor(RAM_BASE, 1, NEXT, 8))
    ring.offer(0)
    assert queue.fault() == Status.BAD_NEXT
    queue, ring = split_queue()
    queue.driver.memory.write(ring.areas[1] + 2, struct.pack("<H", 9))
    assert queue.fault() == Status.BAD_INDEX


@pytest.mark.parametrize("address", [0, RAM_BASE + 1, RAM_END - 8, ROM_BASE, (1 << 64) - 16])
@pytest.mark.parametrize("area", ["descriptors", "driver", "device"])
def test_areas_that_cannot_be(queue: Queue, area: str, address: int) -> None:
    if address == ROM_BASE and not (area == "device" or (queue.packed and area == "descriptors")):
        return  # who only reads may have it in ROM
    if address == RAM_END - 8 and queue.packed and area != "descriptors":
        return  # it fits
    queue.ring.add_raw([Descriptor(RAM_BASE, 1)])
    setattr(queue.queue.fields, area, address)
    assert queue.fault() == Status.BAD_AREA


def test_a_packed_chain_without_an_end() -> None:
    queue = Queue(VARIANTS["packed"])
    available = 1 << 7
    for index in range(8):
        data = struct.pack("<QIHH", RAM_BASE, 1, 0, NEXT | available)
        queue.driver.memory.write(queue.ring.areas[0] + 16 * index, data)
    assert queue.fault() == Status.LOOP


def rubbish(chance: random.Random) -> Iterator[bytes]:
    """Descriptors that are nearly right."""
    while True:
        address = chance.choice(
            [RAM_BASE, ROM_BASE, RAM_END - 16, chance.getrandbits(64), RAM_BASE + 0x1000]
        )
        size = chance.choice([0, 1, 16, 4096, RAM_BYTES, chance.getrandbits(32)])
        flags = chance.choice([0, 1, 2, 3, 4, 0x80, 0x82, 0x84, 0x8081, chance.getrandbits(16)])
        yield struct.pack("<QIHH", address, size, *chance.sample([flags, chance.randrange(16)], 2))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("features", [SPLIT, VARIANTS["packed"]], ids=["split", "packed"])
def test_queues_full_of_rubbish(features: int, seed: int) -> None:
    """What comes out lies in RAM, or it is a fault; the walk ends."""
    chance = random.Random(seed)
    for _ in range(ROUNDS // 4):
        queue = Queue(features, chance.choice([1, 2, 8, 16]))
        memory, ring = queue.driver.memory, queue.ring
        source = rubbish(chance)
        for index in range(ring.size):
            memory.write(ring.areas[0] + 16 * index, next(source))
        memory.write(RAM_BASE, b"".join(next(source) for _ in range(32)))
        if not queue.packed:
            heads = [chance.randrange(ring.size + 1) for _ in range(ring.size)]
            entries = struct.pack(f"<HH{ring.size}H", 0, chance.randrange(ring.size + 2), *heads)
            memory.write(ring.areas[1], entries)
        rom = memory.read(ROM_BASE, ROM_BYTES)
        try:
            while queue.queue.pop(queue.chain):
                size = sum(map(len, queue.chain.writable))
                assert size == queue.chain.writable_bytes
                assert sum(map(len, queue.chain.readable)) == queue.chain.readable_bytes
                queue.queue.push(queue.chain, chance.randrange(size + 2))
        except QueueFault:
            pass
        assert memory.read(ROM_BASE, ROM_BYTES) == rom


# Devices ----------------------------------------------------------------------------------------


def test_a_fault_stops_the_device_until_it_is_reset() -> None:
    bed = Bed()
    bed.rings[0].add_raw([Descriptor(0, 16), Descriptor(0, 1, WRITE)])
    bed.rings[0].kick()
    assert bed.driver.interrupted.wait(60)
    assert bed.driver.status & NEEDS_RESET
    bed.driver.put(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    assert bed.driver.status & NEEDS_RESET, "writing the status does not take it away"
    bed.rings[0].kick()
    bed.rings = bed.driver.start(16, features=bed.driver.features)
    assert not bed.driver.status & NEEDS_RESET
    assert bed.request(FLUSH, 0)[0] == OK
    bed.driver.close()


def test_features_that_were_not_offered_or_are_missing() -> None:
    bed = Bed()
    good = bed.driver.features
    for features in (good | 1 << 50, good & ~VERSION_1, good | 1 << 63, 0):
        bed.driver.begin(features)
        assert not bed.driver.status & FEATURES_OK
        bed.driver.put(0x14, 1, bed.driver.status | DRIVER_OK)
        assert not bed.driver.status & DRIVER_OK
    bed.driver.begin(good)
    bed.driver.put(8, 4, 0)
    bed.driver.put(12, 4, 0)
    assert bed.driver.device.driver_features == good, "they stand once FEATURES_OK is set"
    bed.driver.close()


def test_queues_that_are_not_there() -> None:
    bed = Bed()
    driver = bed.driver
    for select in (1, 63, 64, 0xFFFF):
        driver.put(0x16, 2, select)
        assert driver.get(0x18, 2) == 0
        for offset, size in ((0x18, 2), (0x1A, 2), (0x1C, 2), (0x20, 8), (0x30, 8), (0x3A, 2)):
            driver.put(offset, size, 1)
            driver.get(offset, size)
        driver.put(0x3000 + 4 * min(select, 900), 2, select)
    assert bed.request(FLUSH, 0)[0] == OK
    driver.close()


@pytest.mark.parametrize("size", [0, 3, 257, 512, 0xFFFF])
def test_sizes_that_cannot_be(size: int) -> None:
    bed = Bed()
    bed.driver.begin(bed.driver.device.features | SPLIT)
    bed.driver.put(0x16, 2, 0)
    bed.driver.put(0x18, 2, size)
    assert bed.driver.get(0x18, 2) == 256
    bed.driver.close()


def test_a_queue_that_is_enabled_stays_as_it_is() -> None:
    bed = Bed()
    driver = bed.driver
    driver.put(0x16, 2, 0)
    before = [driver.get(offset, 4) for offset in range(0x18, 0x38, 4)]
    for offset in (0x18, 0x20, 0x24, 0x28, 0x2C, 0x30, 0x34):
        driver.put(offset, 2 if offset == 0x18 else 4, 1)
    assert [driver.get(offset, 4) for offset in range(0x18, 0x38, 4)] == before
    assert bed.request(FLUSH, 0)[0] == OK
    driver.close()


def test_a_function_that_is_no_bus_master_reaches_nothing() -> None:
    bed = Bed()
    driver = bed.driver
    driver.transport.function.write_configuration(4, 2, 2)
    header = driver.place(struct.pack("<IIQ", FLUSH, 0, 0))
    bed.rings[0].add([header], [driver.room(1)])
    bed.rings[0].kick()
    assert bed.rings[0].used() is None
    driver.transport.function.write_configuration(4, 2, 6)
    assert bed.rings[0].wait()[1] == 1
    driver.close()


def slow_disk(bed: Bed) -> tuple[threading.Event, threading.Event]:
    """Have the disk's reads wait; the events are set when one has begun, and to let it go on."""
    begun, go_on = threading.Event(), threading.Event()
    plain: Callable[[int, Sequence[memoryview]], None] = bed.disk.readv

    def readv(offset: int, buffers: Sequence[memoryview]) -> None:
        begun.set()
        assert go_on.wait(60)
        plain(offset, buffers)

    bed.disk.readv = readv  # type: ignore[method-assign]
    return begun, go_on


@pytest.mark.parametrize("whole", [True, False], ids=["device", "queue"])
def test_a_reset_in_flight_waits_for_the_request(whole: bool) -> None:
    bed = Bed()
    driver = bed.driver
    begun, go_on = slow_disk(bed)
    data = driver.room(SECTOR)
    bed.rings[0].add([driver.place(struct.pack("<IIQ", 0, 0, 0))], [data, driver.room(1)])
    bed.rings[0].kick()
    assert begun.wait(60)
    driver.put(0x16, 2, 0)
    reset = threading.Thread(target=lambda: driver.put(*((0x14, 1, 0) if whole else (0x3A, 2, 1))))
    reset.start()
    go_on.set()
    reset.join()
    after = driver.memory.read(*data)
    driver.memory.write(data.address, b"now it is the driver's")
    assert driver.memory.read(*data) != after
    assert driver.get(0x1C, 2) == 0
    bed.rings = driver.start(16, features=driver.features) if whole else [driver.add_queue(0)]
    assert bed.request(FLUSH, 0)[0] == OK
    driver.close()


def test_kicks_do_not_wait_for_a_slow_disk() -> None:
    bed = Bed(queue_count=2)
    begun, go_on = slow_disk(bed)
    driver = bed.driver
    bed.rings[0].add(
        [driver.place(struct.pack("<IIQ", 0, 0, 0))], [driver.room(SECTOR), driver.room(1)]
    )
    bed.rings[0].kick()
    assert begun.wait(60)
    for _ in range(100):
        bed.rings[0].kick()
    assert bed.request(FLUSH, 0, queue=1)[0] == OK, "another queue goes on"
    go_on.set()
    assert bed.rings[0].wait()[1] == SECTOR + 1
    driver.close()


def test_any_access_to_the_registers_is_answered() -> None:
    chance = random.Random(9)
    bed = Bed()
    driver = bed.driver
    function = driver.transport.function
    for _ in range(6000):
        size = chance.choice((1, 2, 4, 8))
        offset = chance.choice((0, 0, 0x1000, 0x2000, 0x3000)) + chance.randrange(0x48)
        value = chance.choice((0, 1, 15, 0xFFFF, chance.getrandbits(64))) & (1 << 8 * size) - 1
        if chance.random() < 0.6:
            driver.put(offset, size, value)
        else:
            assert 0 <= driver.get(offset, size) < 1 << 8 * size
        if chance.random() < 0.2:
            place = chance.randrange(0x40, 0x100)
            function.write_configuration(place, size, value)
            assert 0 <= function.read_configuration(place, size) < 1 << 8 * size
    function.write_configuration(4, 2, 6)
    bed.rings = driver.start(16, features=bed.driver.device.features | SPLIT)
    assert bed.request(FLUSH, 0)[0] == OK
    driver.close()


def test_nothing_is_left_open() -> None:
    def events() -> int:
        names = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum("event" in os.readlink(name) for name in names if os.path.islink(name))

    Bed().driver.close()
    before, threads = events(), threading.active_count()
    for _ in range(5):
        bed = Bed(queue_count=3)
        bed.request(FLUSH, 0)
        bed.driver.close()
    assert (events(), threading.active_count()) == (before, threads)


def test_too_many_queues() -> None:
    with pytest.raises(ValueError, match="1 to 16"):
        Block(make_memory(), Bed().disk, queue_count=17)
