"""Whenever the power goes, a qcow2 image is whole and holds what was flushed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from tandemu.host.disk.qcow2 import manage
from tandemu.host.disk.qcow2.check import check
from tandemu.host.disk.qcow2.create import Qcow2Options, write_new_image
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.qcow2.layout import DIRTY
from tandemu.host.disk.qcow2.opening import open_qcow2, read_header
from tests.host.disk.power import SECTOR, FragileDisk, PowerCutError
from tests.long import LONG

SIZE = 1 << 20
SECTORS = SIZE // SECTOR
OPERATIONS = 10_000 if LONG else 800
OPTIONS = {
    "plain": Qcow2Options(cluster_bytes=4096),
    "tiny clusters": Qcow2Options(cluster_bytes=512),
    "lazy": Qcow2Options(cluster_bytes=4096, lazy_refcounts=True),
    "narrow counts": Qcow2Options(cluster_bytes=1024, refcount_bits=2),
    "version 2": Qcow2Options(cluster_bytes=2048, version=2),
    "subclusters": Qcow2Options(cluster_bytes=16384, extended_l2=True),
}


class Model:
    """What each sector may hold: the *flushed* value, or one that was written since."""

    def __init__(self) -> None:
        self.now = [0] * SECTORS
        self.allowed: list[set[int]] = [{0} for _ in range(SECTORS)]

    def write(self, first: int, count: int, value: int) -> None:
        for sector in range(first, first + count):
            self.now[sector] = value
            self.allowed[sector].add(value)

    def flushed(self) -> None:
        self.allowed = [{value} for value in self.now]


def sector_of(value: int) -> bytes:
    return value.to_bytes(8, "little") * (SECTOR // 8)


def values_in(data: bytes) -> list[int]:
    found = []
    for at in range(0, len(data), SECTOR):
        sector = data[at : at + SECTOR]
        value = int.from_bytes(sector[:8], "little")
        assert sector == sector_of(value), "a sector that nobody wrote so"
        found.append(value)
    return found


def open_disk(disk: FragileDisk) -> Qcow2Image:
    def none(*_: object) -> FragileDisk:
        raise AssertionError

    return open_qcow2(disk, open_backing=None, open_data=none)


class Run:
    """Random operations on one image, with a power cut now and then."""

    def __init__(self, options: Qcow2Options, seed: int) -> None:
        self.random = Random(seed)
        self.disk = FragileDisk(random=self.random)
        write_new_image(self.disk, SIZE, options)
        self.disk.flush()
        self.image = open_disk(self.disk)
        self.model = Model()
        self.snapshots: dict[str, list[int]] = {}
        self.counter = 0
        self.cuts = 0

    def operations(self, count: int) -> None:
        for _ in range(count):
            if self.disk.left > 1 << 30 and self.random.random() < 0.05:
                self.disk.left = self.random.randrange(600)
            try:
                self.operation()
            except PowerCutError:
                self.power_is_back()

    def operation(self) -> None:
        chance = self.random.random()
        first = self.random.randrange(SECTORS)
        count = min(self.random.choice((1, 1, 8, 20, 100)), SECTORS - first)
        offset, length = first * SECTOR, count * SECTOR
        if chance < 0.55:
            self.counter += 1
            self.model.write(first, count, self.counter)
            self.image.write(offset, sector_of(self.counter) * count)
        elif chance < 0.65:
            self.model.write(first, count, 0)
            self.image.write_zeroes(offset, length, self.random.random() < 0.5)
        elif chance < 0.72:
            for sector in range(first, first + count):
                self.model.allowed[sector].add(0)
            self.image.discard(offset, length)
            self.model.now[first : first + count] = values_in(self.image.read(offset, length))
        elif chance < 0.85:
            found = values_in(self.image.read(offset, length))
            assert found == self.model.now[first : first + count]
        elif chance < 0.95:
            self.image.flush()
            self.model.flushed()
        elif chance < 0.97:
            self.image.close()
            self.model.flushed()
            self.image = open_disk(self.disk)
        else:
            self.change_snapshots()

    def change_snapshots(self) -> None:
        if len(self.snapshots) < 2 and self.random.random() < 0.6:
            name = f"s{self.counter}-{self.cuts}-{self.random.randrange(1 << 30)}"
            self.maybe(name, lambda: manage.create_snapshot(self.image, name), list(self.model.now))
        elif self.snapshots:
            name = self.random.choice(sorted(self.snapshots))
            if self.random.random() < 0.5:
                self.maybe(name, lambda: manage.delete_snapshot(self.image, name), None)
            else:
                then = self.snapshots[name]
                for sector, value in enumerate(then):
                    self.model.allowed[sector].add(value)
                manage.apply_snapshot(self.image, name)
                self.model.now = list(then)
                self.model.flushed()

    def maybe(self, name: str, change: Callable[[], object], becomes: list[int] | None) -> None:
        """Carry out a change of snapshots, which a power cut leaves done or undone."""
        before = self.snapshots.pop(name, None)
        try:
            change()
        except PowerCutError:
            for holds in (before, becomes):
                if holds is not None:
                    self.snapshots[name] = holds
            raise
        self.model.flushed()
        if becomes is not None:
            self.snapshots[name] = becomes

    def power_is_back(self) -> None:
        self.cuts += 1
        data = self.disk.after_power_cut()
        self.disk = FragileDisk(data, random=self.random)
        header = read_header(self.disk)
        report = check(self.disk, header)
        if not header.incompatible & DIRTY:
            assert not report.errors, report.errors
        self.image = open_disk(self.disk)
        assert not check(self.disk, self.image.header).errors
        found = values_in(self.image.read(0, SIZE))
        for sector, value in enumerate(found):
            assert value in self.model.allowed[sector], f"sector {sector} after cut {self.cuts}"
        self.model.now = found
        self.model.allowed = [
            {value} | may for value, may in zip(found, self.model.allowed, strict=True)
        ]
        there = {one.name for one in manage.list_snapshots(self.image)}
        assert there <= set(self.snapshots)
        self.snapshots = {name: self.snapshots[name] for name in there}


@pytest.mark.timeout(3600 if LONG else 300)
@pytest.mark.parametrize("name", OPTIONS)
def test_an_image_survives_power_cuts(name: str) -> None:
    run = Run(OPTIONS[name], seed=sum(name.encode()))
    run.operations(OPERATIONS)
    assert run.cuts > OPERATIONS / 100
    run.disk.left = 1 << 60
    assert values_in(run.image.read(0, SIZE)) == run.model.now
    for snapshot, then in run.snapshots.items():
        manage.apply_snapshot(run.image, snapshot)
        assert values_in(run.image.read(0, SIZE)) == then
    run.image.close()
    report = check(run.disk, read_header(run.disk))
    assert not report.errors
    repaired = open_disk(run.disk)
    manage.repair(repaired)
    repaired.close()
    assert check(run.disk, read_header(run.disk)).is_clean
