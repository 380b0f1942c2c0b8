"""A driver in Python: it lays queues out in guest memory and works a device by its registers."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

from tandemu.device.pci import HostBridge
from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtio.features import (
    ACKNOWLEDGE,
    COMMON_FEATURES,
    DRIVER,
    DRIVER_OK,
    EVENT_INDEX,
    FEATURES_OK,
    INDIRECT_DESCRIPTORS,
    RING_PACKED,
)
from tandemu.device.virtio.pci import VirtioPci
from tandemu.memory import GuestMemory, Ram, RamRegion

RAM_BASE, RAM_BYTES = 0x8000_0000, 4 << 20
ROM_BASE, ROM_BYTES = 0x1000, 0x1000
NEXT, WRITE, INDIRECT = 1, 2, 4
COMMAND, MEMORY_AND_MASTER = 4, 6
WAIT_S = 60.0


def make_memory() -> GuestMemory:
    """RAM and a page of ROM."""
    memory = GuestMemory()
    memory.add(RamRegion(RAM_BASE, RAM_BYTES, Ram(RAM_BYTES)))
    memory.add(RamRegion(ROM_BASE, ROM_BYTES, Ram(ROM_BYTES), readonly=True))
    return memory


class Buffer(NamedTuple):
    """*size* bytes at *address*."""

    address: int
    size: int


class Descriptor(NamedTuple):
    """One descriptor as the guest writes it."""

    address: int
    size: int
    flags: int = 0
    next: int = 0


class Driver:
    """Drives *device* behind its PCI transport, with memory of its own."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.interrupted = threading.Event()
        self.level = False
        self.bridge = HostBridge([self._wire] * 4)
        self._free = RAM_BASE + 0x1000
        self.rings: dict[int, Ring] = {}

    def attach(self, device: VirtioDevice) -> None:
        self.device = device
        self.transport = VirtioPci(device)
        self.bridge.plug(self.transport.function)
        self.transport.function.write_configuration(COMMAND, 2, MEMORY_AND_MASTER)

    def _wire(self, level: bool) -> None:
        self.level = level
        if level:
            self.interrupted.set()

    # Memory

    def allocate(self, size: int, alignment: int = 16) -> int:
        address = -(-self._free // alignment) * alignment
        self._free = address + size
        assert self._free < RAM_BASE + RAM_BYTES, "the test uses up its RAM"
        return address

    def place(self, data: bytes) -> Buffer:
        address = self.allocate(max(len(data), 1))
        assert self.memory.write(address, data)
        return Buffer(address, len(data))

    def room(self, size: int) -> Buffer:
        return self.place(b"\xa5" * size)

    def read(self, buffer: Buffer) -> bytes:
        data = self.memory.read(*buffer)
        assert data is not None
        return data

    # Registers

    def get(self, offset: int, size: int = 4) -> int:
        return self.transport.read(offset, size)

    def put(self, offset: int, size: int, value: int) -> None:
        self.transport.write(offset, size, value)

    @property
    def status(self) -> int:
        return self.get(0x14, 1)

    def begin(self, features: int | None = None) -> int:
        """Reset, negotiate *features* (default: all that are offered); what was accepted."""
        self.put(0x14, 1, 0)
        self.put(0x14, 1, ACKNOWLEDGE)
        self.put(0x14, 1, ACKNOWLEDGE | DRIVER)
        offered = 0
        for half in range(2):
            self.put(0, 4, half)
            offered |= self.get(4) << 32 * half
        self.features = offered if features is None else features
        for half in range(2):
            self.put(8, 4, half)
            self.put(12, 4, self.features >> 32 * half & 0xFFFF_FFFF)
        self.put(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return self.features

    def add_queue(self, index: int, size: int = 16) -> Ring:
        """Lay queue *index* out and enable it."""
        kind = PackedRing if self.features & RING_PACKED else SplitRing
        ring = self.rings[index] = kind(self, index, size)
        self.put(0x16, 2, index)
        assert self.get(0x18, 2) >= size
        self.put(0x18, 2, size)
        for offset, address in zip((0x20, 0x28, 0x30), ring.areas, strict=True):
            self.put(offset, 4, address & 0xFFFF_FFFF)
            self.put(offset + 4, 4, address >> 32)
        self.put(0x1C, 2, 1)
        return ring

    def ready(self) -> None:
        self.put(0x14, 1, self.status | DRIVER_OK)

    def start(self, *sizes: int, features: int | None = None) -> list[Ring]:
        """Everything up to DRIVER_OK, with queues of these sizes."""
        self.begin(features)
        rings = [self.add_queue(index, size) for index, size in enumerate(sizes)]
        self.ready()
        return rings

    def close(self) -> None:
        self.device.close()


class Ring:
    """One queue as the driver sees it."""

    areas: tuple[int, int, int]

    def __init__(self, driver: Driver, index: int, size: int) -> None:
        self.driver, self.index, self.size = driver, index, size
        self.memory = driver.memory
        self.indirect = bool(driver.features & INDIRECT_DESCRIPTORS)
        self.event_index = bool(driver.features & EVENT_INDEX)
        self.lay_out()

    def lay_out(self) -> None:
        raise NotImplementedError

    def add(
        self, out: Sequence[Buffer], into: Sequence[Buffer] = (), *, indirect: bool = False
    ) -> int:
        """Make a chain of these buffers available; what it is known by."""
        flags = [(buffer, 0) for buffer in out] + [(buffer, WRITE) for buffer in into]
        return self.add_raw([Descriptor(*b, f) for b, f in flags], indirect=indirect)

    def add_raw(self, chain: Sequence[Descriptor], *, indirect: bool = False) -> int:
        raise NotImplementedError

    def used(self) -> tuple[int, int] | None:
        """The next chain that came back: what it is known by, and bytes written."""
        raise NotImplementedError

    def kick(self) -> None:
        self.driver.put(0x3000 + 4 * self.index, 2, self.index)

    def wait(self) -> tuple[int, int]:
        """Wait for the next chain that comes back."""
        driver = self.driver
        while True:
            driver.interrupted.clear()
            if driver.level:
                driver.get(0x1000, 1)  # acknowledge
            found = self.used()
            if found is not None:
                return found
            if not driver.level:
                assert driver.interrupted.wait(WAIT_S), "no interrupt came"

    def call(
        self, out: Sequence[bytes], sizes: Sequence[int] = (), *, indirect: bool = False
    ) -> bytes:
        """Send *out*, wait; what was written into buffers of *sizes*."""
        into = [self.driver.room(size) for size in sizes]
        self.add([self.driver.place(data) for data in out], into, indirect=indirect)
        self.kick()
        _, written = self.wait()
        return b"".join(self.driver.read(buffer) for buffer in into)[:written]


class SplitRing(Ring):
    """Virtio 1.2, section 2.7."""

    def lay_out(self) -> None:
        size, allocate = self.size, self.driver.allocate
        self.areas = allocate(16 * size), allocate(6 + 2 * size, 2), allocate(6 + 8 * size, 4)
        for area, length in zip(self.areas, (16 * size, 6 + 2 * size, 6 + 8 * size), strict=True):
            self.memory.write(area, bytes(length))
        self.available = self.seen = 0
        self.next_descriptor = 0

    def put_descriptor(self, table: int, index: int, one: Descriptor) -> None:
        self.memory.write(table + 16 * index, struct.pack("<QIHH", *one))

    def offer(self, head: int) -> None:
        """Put *head* into the available ring."""
        place = self.areas[1] + 4 + 2 * (self.available % self.size)
        self.memory.write(place, struct.pack("<H", head))
        self.available = self.available + 1 & 0xFFFF
        self.memory.write(self.areas[1] + 2, struct.pack("<H", self.available))

    def add_raw(self, chain: Sequence[Descriptor], *, indirect: bool = False) -> int:
        linked = [
            one._replace(flags=one.flags | NEXT, next=number + 1)
            if number + 1 < len(chain)
            else one
            for number, one in enumerate(chain)
        ]
        if indirect:
            table = self.driver.allocate(16 * len(chain))
            for number, one in enumerate(linked):
                self.put_descriptor(table, number, one)
            linked = [Descriptor(table, 16 * len(chain), INDIRECT)]
        head = self.next_descriptor % self.size
        for number, one in enumerate(linked):
            following = (head + number + 1) % self.size
            placed = one._replace(next=following) if one.flags & NEXT else one
            self.put_descriptor(self.areas[0], (head + number) % self.size, placed)
        self.next_descriptor += len(linked)
        self.offer(head)
        return head

    def used(self) -> tuple[int, int] | None:
        if self.event_index:  # interrupt for the next one
            event = struct.pack("<H", self.seen)
            self.memory.write(self.areas[1] + 4 + 2 * self.size, event)
        index = int.from_bytes(self.memory.read(self.areas[2] + 2, 2) or b"", "little")
        if index == self.seen:
            return None
        place = self.areas[2] + 4 + 8 * (self.seen % self.size)
        self.seen = self.seen + 1 & 0xFFFF
        head, written = struct.unpack("<II", self.memory.read(place, 8) or b"")
        return head, written


class PackedRing(Ring):
    """Virtio 1.2, section 2.8."""

    def lay_out(self) -> None:
        allocate = self.driver.allocate
        self.areas = allocate(16 * self.size), allocate(4, 4), allocate(4, 4)
        self.memory.write(self.areas[0], bytes(16 * self.size))
        self.memory.write(self.areas[1], bytes(4))
        self.memory.write(self.areas[2], bytes(4))
        self.position, self.wrap = 0, 1
        self.seen, self.seen_wrap = 0, 1
        self.taken: dict[int, int] = {}
        self.identity = 0

    def add_raw(self, chain: Sequence[Descriptor], *, indirect: bool = False) -> int:
        if indirect:
            table = self.driver.allocate(16 * len(chain))
            data = b"".join(struct.pack("<QIHH", *one[:2], 0, one.flags) for one in chain)
            self.memory.write(table, data)
            chain = [Descriptor(table, 16 * len(chain), INDIRECT)]
        self.identity = self.identity + 1 & 0xFFFF
        self.taken[self.identity] = len(chain)
        last: tuple[int, bytes] | None = None
        for number, one in enumerate(chain):
            flags = one.flags | (NEXT if number + 1 < len(chain) else 0)
            flags |= self.wrap << 7 | (self.wrap ^ 1) << 15
            place = self.areas[0] + 16 * self.position
            data = struct.pack("<QIHH", *one[:2], self.identity, flags)
            if number == 0:
                last = place, data
            else:
                self.memory.write(place, data)
            self.position += 1
            if self.position == self.size:
                self.position, self.wrap = 0, self.wrap ^ 1
        assert last is not None
        self.memory.write(last[0], last[1][:14])
        self.memory.write(last[0] + 14, last[1][14:])  # the flags of the first come last
        return self.identity

    def used(self) -> tuple[int, int] | None:
        if self.event_index:
            event = struct.pack("<HH", self.seen | self.seen_wrap << 15, 2)
            self.memory.write(self.areas[1], event)
        data = self.memory.read(self.areas[0] + 16 * self.seen, 16) or b""
        _, written, identity, flags = struct.unpack("<QIHH", data)
        if flags >> 7 & 1 != self.seen_wrap or flags >> 15 != self.seen_wrap:
            return None
        self.seen += self.taken.pop(identity)
        if self.seen >= self.size:
            self.seen -= self.size
            self.seen_wrap ^= 1
        return identity, written


SPLIT = COMMON_FEATURES & ~RING_PACKED
VARIANTS = {
    "split": SPLIT,
    "split without event index": SPLIT & ~EVENT_INDEX,
    "packed": COMMON_FEATURES,
    "packed without event index": COMMON_FEATURES & ~EVENT_INDEX,
}
"""Features that make different rings."""
