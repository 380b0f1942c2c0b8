"""The transport of registers in memory, by a driver that uses nothing else."""

from __future__ import annotations

import random
import struct

import pytest

from tandemu.device.virtio.block import Block
from tandemu.device.virtio.features import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    EVENT_INDEX,
    FEATURES_OK,
    RING_PACKED,
    VERSION_1,
)
from tandemu.device.virtio.mmio import VirtioMmio
from tests.device.virtio.driver import SPLIT, VARIANTS, Driver, PackedRing, SplitRing, make_memory
from tests.device.virtio.test_block import SECTOR, MemoryDisk

MAGIC, VERSION, DEVICE, FEATURES, FEATURES_SELECT = 0, 4, 8, 0x10, 0x14
ACCEPT, ACCEPT_SELECT, SELECT, LARGEST, SIZE, READY, NOTIFY = (
    *(0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50),
)
INTERRUPT, TAKEN, STATUS, AREAS, RESET = 0x60, 0x64, 0x70, (0x80, 0x90, 0xA0), 0xC0


class Bed(Driver):
    """A disk in a slot."""

    def __init__(self) -> None:
        super().__init__(make_memory())
        self.disk = MemoryDisk(64)
        self.device = Block(self.memory, self.disk)
        self.slot = VirtioMmio(self.device, self._wire)

    def put32(self, offset: int, value: int) -> None:
        self.slot.write(offset, 4, value)

    def get32(self, offset: int) -> int:
        return self.slot.read(offset, 4)

    def prepare(self, features: int) -> None:
        self.put32(STATUS, 0)
        self.put32(STATUS, ACKNOWLEDGE | DRIVER)
        self.features = features
        for half in range(2):
            self.put32(ACCEPT_SELECT, half)
            self.put32(ACCEPT, features >> 32 * half & 0xFFFF_FFFF)
        self.put32(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.get32(STATUS) & FEATURES_OK

    def enable(self, ring: SplitRing | PackedRing) -> None:
        self.put32(SELECT, 0)
        self.put32(SIZE, ring.size)
        for offset, address in zip(AREAS, ring.areas, strict=True):
            self.put32(offset, address & 0xFFFF_FFFF)
            self.put32(offset + 4, address >> 32)
        self.put32(READY, 1)
        assert self.get32(READY) == 1

    def read_sector(self, ring: SplitRing | PackedRing, sector: int) -> bytes:
        data, status = self.room(SECTOR), self.room(1)
        ring.add([self.place(struct.pack("<IIQ", 0, 0, sector))], [data, status])
        self.put32(NOTIFY, 0)
        while ring.used() is None:
            assert self.interrupted.wait(60)
            self.interrupted.clear()
            self.put32(TAKEN, self.get32(INTERRUPT))
        assert self.read(status) == b"\0"
        return self.read(data)


@pytest.mark.parametrize("features", list(VARIANTS.values()), ids=list(VARIANTS))
def test_a_disk_in_a_slot(features: int) -> None:
    bed = Bed()
    assert (bed.get32(MAGIC), bed.get32(VERSION), bed.get32(DEVICE)) == (0x7472_6976, 2, 2)
    bed.put32(FEATURES_SELECT, 1)
    assert bed.get32(FEATURES) & VERSION_1 >> 32
    bed.prepare(features)
    assert bed.get32(LARGEST) == 256
    ring = (PackedRing if features & RING_PACKED else SplitRing)(bed, 0, 16)
    bed.enable(ring)
    bed.put32(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    for sector in range(40):
        expected = bytes(bed.disk.data[sector * SECTOR : (sector + 1) * SECTOR])
        assert bed.read_sector(ring, sector) == expected
    assert bed.slot.read(0x100, 8) == 64
    bed.put32(SELECT, 0)
    bed.put32(RESET, 1)
    assert bed.get32(READY) == 0 and bed.get32(RESET) == 0
    bed.put32(STATUS, 0)
    assert not bed.level and bed.get32(INTERRUPT) == 0
    bed.slot.close()


def test_state_moves() -> None:
    bed = Bed()
    bed.prepare(SPLIT & ~EVENT_INDEX)
    ring = SplitRing(bed, 0, 16)
    bed.enable(ring)
    bed.put32(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    bed.read_sector(ring, 1)
    bed.device.rest()
    saved = {name: part.save() for name, part in bed.slot.parts().items()}
    old, bed.device = bed.device, Block(bed.memory, bed.disk)
    bed.slot = VirtioMmio(bed.device, bed._wire)
    for name, part in bed.slot.parts().items():
        part.load(saved[name])
    assert bed.read_sector(ring, 2) == bytes(bed.disk.data[2 * SECTOR : 3 * SECTOR])
    old.close()
    bed.slot.close()


def test_any_access_is_answered() -> None:
    chance = random.Random(3)
    bed = Bed()
    for _ in range(4000):
        size = chance.choice((1, 2, 4, 4, 4, 8))
        offset = chance.choice((chance.randrange(0x140), 4 * chance.randrange(0x50), 0xFFC))
        if chance.random() < 0.5:
            value = chance.choice((0, 1, 15, chance.getrandbits(64))) & (1 << 8 * size) - 1
            bed.slot.write(offset, size, value)
        else:
            assert 0 <= bed.slot.read(offset, size) < 1 << 8 * size
    bed.slot.close()
