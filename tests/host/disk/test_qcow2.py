"""qcow2 on its own: many threads, broken files, chains that lead nowhere, full disks."""

from __future__ import annotations

import errno
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from tandemu.host.disk import Content, DiskError, DiskUsageError, open_image
from tandemu.host.disk.qcow2 import compression, manage
from tandemu.host.disk.qcow2.check import check
from tandemu.host.disk.qcow2.create import Qcow2Options, write_new_image
from tandemu.host.disk.qcow2.image import Qcow2Image
from tandemu.host.disk.qcow2.layout import CORRUPT, PACKED, Header
from tandemu.host.disk.qcow2.opening import open_qcow2, read_header
from tandemu.host.disk.storage import HostFile
from tests.host.disk.images import KIB, MIB, make_qcow2, pattern
from tests.host.disk.power import FragileDisk
from tests.long import LONG


def opened(path: str, **options: bool) -> Qcow2Image:
    image = open_image(path, **options)
    assert isinstance(image, Qcow2Image)
    return image


def check_clean(path: str) -> None:
    with opened(path, read_only=True) as image:
        report = check(image.storage, image.header)
        assert report.is_clean, report


def test_threads_write_what_each_of_them_reads(tmp_path: Path) -> None:
    """Each has sectors of its own, mixed into the clusters of the others'."""
    threads, rounds = 4, 150
    size = 4 * MIB
    path = make_qcow2(tmp_path / "disk", size, Qcow2Options(cluster_bytes=4096))
    failures: list[BaseException] = []
    with opened(path) as image:

        def work(own: int) -> None:
            random = Random(own)
            held: dict[int, bytes] = {}
            try:
                for turn in range(rounds):
                    sector = random.randrange(size // 512 // threads) * threads + own
                    data = bytes([own + 1, turn & 255]) * 256
                    if turn % 5 == 4:
                        image.flush()
                    elif turn % 7 == 6:
                        image.write_zeroes(sector * 512, 512)
                        held[sector] = bytes(512)
                    else:
                        image.write(sector * 512, data)
                        held[sector] = data
                for sector, expected in held.items():
                    assert image.read(sector * 512, 512) == expected
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(own,)) for own in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not failures, failures
    check_clean(path)


def test_threads_discard_and_write_anew(tmp_path: Path) -> None:
    """What is given up is reused at once, and no reader sees another's data."""
    unit = 64 * KIB
    path = make_qcow2(tmp_path / "disk", 8 * MIB, Qcow2Options(cluster_bytes=4096))
    failures: list[BaseException] = []
    with opened(path) as image:

        def work(own: int) -> None:
            base = own * MIB
            try:
                for turn in range(40):
                    place = base + turn % 8 * unit
                    image.write(place, bytes([own + 1]) * unit)
                    assert image.read(place, unit) == bytes([own + 1]) * unit
                    image.discard(place, unit)
                    assert not image.read(place, unit).strip(bytes([0, own + 1]))
                    if turn % 3 == 0:
                        image.flush()
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(own,)) for own in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not failures, failures
    check_clean(path)


def test_space_that_is_given_up_is_used_again(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk", 64 * MIB)
    with opened(path) as image:
        for turn in range(20):
            image.write(turn * MIB, b"x" * MIB)
            image.discard(turn * MIB, MIB)
            image.flush()
        assert image.storage.size() < 4 * MIB
        assert image.read(0, 64 * MIB) == bytes(64 * MIB)
    check_clean(path)


def test_compressed_clusters_share_host_clusters_and_are_overwritten(tmp_path: Path) -> None:
    size = 2 * MIB
    path = make_qcow2(tmp_path / "disk", size)
    data = bytearray(pattern(size, 5))
    with opened(path) as image:
        for offset in range(0, size, 64 * KIB):
            cluster = data[offset : offset + 64 * KIB]
            packed = compression.pack(0, cluster)
            if packed is None:
                image.write(offset, cluster)
            else:
                image.write_packed(offset, packed)
        assert image.read(0, size) == data
        assert any(one.packed for one in image.extents(0, size))
    check_clean(path)
    with opened(path) as image:
        for offset in range(4096, size, 192 * KIB):
            image.write(offset, b"n" * 512)
            data[offset : offset + 512] = b"n" * 512
        image.discard(0, 64 * KIB)
        data[: 64 * KIB] = bytes(64 * KIB)
        assert image.read(0, size) == data
    check_clean(path)


def test_extents_tell_what_is_where(tmp_path: Path) -> None:
    base = make_qcow2(tmp_path / "base", 2 * MIB)
    with opened(base) as image:
        image.write(0, b"b" * MIB)
    path = make_qcow2(
        tmp_path / "top", 4 * MIB, Qcow2Options(backing="base", backing_format="qcow2")
    )
    with opened(path) as image:
        image.write(64 * KIB, b"t" * 64 * KIB)
        image.write_zeroes(128 * KIB, 64 * KIB)
        found = [
            (one.offset, one.length, one.content, one.depth) for one in image.extents(0, 4 * MIB)
        ]
    assert found == [
        (0, 64 * KIB, Content.DATA, 1),
        (64 * KIB, 64 * KIB, Content.DATA, 0),
        (128 * KIB, 64 * KIB, Content.ZERO, 0),
        (192 * KIB, MIB - 192 * KIB, Content.DATA, 1),
        (MIB, MIB, Content.ABSENT, 1),
        (2 * MIB, 2 * MIB, Content.ABSENT, 0),
    ]


# ---- what is broken --------------------------------------------------------------------------


def test_chains_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    one = make_qcow2(tmp_path / "one", MIB, Qcow2Options(backing="two", backing_format="qcow2"))
    make_qcow2(tmp_path / "two", MIB, Qcow2Options(backing="./one", backing_format="qcow2"))
    own = make_qcow2(tmp_path / "own", MIB, Qcow2Options(backing="own", backing_format="qcow2"))
    for path in (one, own):
        for read_only in (True, False):
            with pytest.raises(DiskError, match="stands below itself"):
                open_image(path, read_only=read_only)
    open_image(one, backing=False).close()


def test_a_chain_of_very_many_images_is_refused(tmp_path: Path) -> None:
    for number in range(202):
        options = Qcow2Options(backing=f"{number + 1}", backing_format="qcow2")
        make_qcow2(tmp_path / f"{number}", MIB, options)
    with pytest.raises(DiskError, match="too many"):
        open_image(str(tmp_path / "0"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", "which is not there"),
        ("http://host/disk", "reached by 'http'"),
        ("json:{", "no JSON"),
        ("json:" + "[" * 900, "no JSON"),
        ('json:{"driver":"nbd","host":"h"}', "describes no file"),
        ("/dev/null", "no file that holds data"),
    ],
)
def test_what_cannot_stand_below_is_refused(tmp_path: Path, name: str, says: str) -> None:
    path = make_qcow2(tmp_path / "disk", MIB, Qcow2Options(backing=name))
    with pytest.raises(DiskError, match=says):
        open_image(path)


@pytest.mark.parametrize(
    "form",
    [
        "file:base",
        "{B}/base",
        'json:{"driver":"raw","file":{"driver":"file","filename":"base"}}',
        'json:{"driver":"raw","file.filename":"{B}/base"}',
    ],
)
def test_ways_to_name_what_is_below(tmp_path: Path, form: str) -> None:
    (tmp_path / "base").write_bytes(b"b" * MIB)
    name = form.replace("{B}", str(tmp_path))
    path = make_qcow2(tmp_path / "disk", MIB, Qcow2Options(backing=name, backing_format="raw"))
    with open_image(path) as image:
        assert image.read(0, 512) == b"b" * 512


def test_a_data_file_stands_beside_its_image(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * MIB)
    folder = tmp_path / "images"
    folder.mkdir()
    path = make_qcow2(folder / "disk", MIB, Qcow2Options(data_file="../secret"))
    with pytest.raises(DiskError, match="only a file in the same folder"):
        open_image(path)
    path = make_qcow2(folder / "other", MIB, Qcow2Options(data_file="link"))
    (folder / "link").symlink_to("../secret")
    with open_image(path) as image:
        image.write(0, b"x" * 512)
    assert (tmp_path / "secret").read_bytes()[:512] == b"x" * 512


def test_a_bomb_unpacks_to_one_cluster_and_no_more(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk", MIB)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = bomb.compress(bytes(40 * MIB)) + bomb.flush()
    short = zlib.compressobj(9, zlib.DEFLATED, -12)
    little = short.compress(b"little") + short.flush()
    with opened(path) as image:
        image.write_packed(0, data[: 60 * KIB])
        image.write_packed(64 * KIB, little)
        image.write_packed(128 * KIB, b"\xff" * 600)
        assert image.read(0, 64 * KIB) == bytes(64 * KIB)
        with pytest.raises(DiskError, match="holds 6 bytes instead of 65536"):
            image.read(64 * KIB, 512)
        with pytest.raises(DiskError, match="cannot be unpacked"):
            image.read(128 * KIB, 512)


def test_a_bomb_of_zstd(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = make_qcow2(tmp_path / "disk", MIB, Qcow2Options(compression="zstd"))
    with opened(path) as image:
        image.write_packed(0, zstandard.ZstdCompressor().compress(bytes(40 * MIB)))
        image.write_packed(64 * KIB, b"\xff" * 600)
        image.write_packed(128 * KIB, zstandard.ZstdCompressor().compress(b"little"))
        assert image.read(0, 64 * KIB) == bytes(64 * KIB)
        for offset in (64 * KIB, 128 * KIB):
            with pytest.raises(DiskError, match=r"cannot be unpacked|instead of"):
                image.read(offset, 512)


def test_data_on_a_table_is_found_before_it_is_overwritten(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk", MIB)
    with opened(path) as image:
        image.write(0, b"x" * 512)
        l2 = image.mapping.l1[0] & (1 << 56) - 512
    with open(path, "r+b") as file:
        file.seek(l2)
        file.write((l2 | 1 << 63).to_bytes(8, "big"))
    before = Path(path).read_bytes()
    with pytest.raises(DiskError, match="lies on a table"), opened(path) as image:
        image.write(0, b"y" * 512)
    after = Path(path).read_bytes()
    assert before[512:] == after[512:]
    with pytest.raises(DiskError, match="marked as corrupt"):
        open_image(path)
    with opened(path, read_only=True) as image:
        assert image.header.incompatible & CORRUPT
    with opened(path, repair=True) as image:
        manage.repair(image)


def test_free_clusters_that_hold_tables_are_not_given_out(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk", MIB)
    with open(path, "r+b") as file:
        head = Header.parse(file.read(512), path, 1 << 40)
        file.seek(head.refcount_offset)
        block = int.from_bytes(file.read(8), "big")
        file.seek(block)
        file.write(bytes(16))
    with opened(path) as image, pytest.raises(DiskError, match="is free but holds a table"):
        image.write(0, b"x" * 512)


def test_truncated_data_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk", 4 * MIB)
    with opened(path) as image:
        image.write(0, b"x" * 512)
        image.write(0, b"x" * 4 * MIB)
    with open(path, "r+b") as file:
        file.truncate(2 * MIB)
    with opened(path, read_only=True) as image:
        image.read(0, MIB)
        with pytest.raises(DiskError, match="beyond its end"):
            image.read(3 * MIB, 512)


def _mutants(path: str, count: int) -> list[tuple[int, bytes]]:
    """Places in header and tables, and what to write there."""
    random = Random(7)
    with opened(path, read_only=True) as image:
        header, storage = image.header, image.storage
        tables = [
            header.l1_offset,
            header.refcount_offset,
            header.snapshots_offset,
            *(entry & (1 << 56) - 512 for entry in image.mapping.l1),
        ]
        tables = [place for place in tables if place]
        end = storage.size()
    interesting = [0, 1, 511, end - 512, end, end + 4096, 1 << 55, (1 << 64) - 1, 4096 | 1 << 63]
    found = []
    for _ in range(count):
        chance = random.random()
        if chance < 0.5:
            place, width = random.randrange(0, 200), random.choice((1, 4, 8))
        else:
            place, width = random.choice(tables) + random.randrange(64) * 8, 8
        value = random.choice(interesting) if random.random() < 0.6 else random.getrandbits(64)
        found.append((place, (value & (1 << 8 * width) - 1).to_bytes(width, "big")))
    return found


def test_mutated_images_give_errors_or_data_and_nothing_else(tmp_path: Path) -> None:
    size = 2 * MIB
    (tmp_path / "base").write_bytes(bytes(64 * KIB))
    good = make_qcow2(
        tmp_path / "good", size,
        Qcow2Options(cluster_bytes=4096, backing="base", backing_format="raw"),
    )  # fmt: skip
    with opened(good) as image:
        image.write(0, pattern(MIB))
        manage.create_snapshot(image, "one")
        image.write(5000 // 512 * 512, pattern(100 * KIB, 2))
        image.write_packed(MIB, compression.pack(0, bytes(4096)) or b"")
    original = Path(good).read_bytes()
    base = (tmp_path / "base").read_bytes()
    refused = 0
    for place, value in _mutants(good, 3000 if LONG else 200):
        bad = tmp_path / "bad"
        data = bytearray(original)
        data[place : place + len(value)] = value
        bad.write_bytes(data)
        steps = (_read_all, _check_all, _write_some, _take_snapshot)
        for step in steps:
            try:
                step(str(bad))
            except DiskError:
                refused += 1
            assert (tmp_path / "base").read_bytes() == base
    assert refused > 50


def _read_all(path: str) -> None:
    before = Path(path).read_bytes()
    try:
        with open_image(path, read_only=True) as image:
            for offset in range(0, min(image.size_bytes, 4 * MIB), 64 * KIB):
                image.read(offset, min(64 * KIB, image.size_bytes - offset))
            for count, _ in enumerate(image.extents(0, min(image.size_bytes, 1 << 30))):
                assert count < 1 << 20
            image.describe()
    finally:
        assert Path(path).read_bytes() == before


def _check_all(path: str) -> None:
    storage = HostFile(path, read_only=True)
    try:
        check(storage, read_header(storage))
    finally:
        storage.close()


def _write_some(path: str) -> None:
    with open_image(path) as image:
        for offset in range(0, min(image.size_bytes, MIB), 60 * KIB):
            image.write(offset, b"w" * min(3000, image.size_bytes - offset))


def _take_snapshot(path: str) -> None:
    with open_image(path) as image:
        if isinstance(image, Qcow2Image):
            manage.create_snapshot(image, "two")


def test_what_no_header_may_say_is_refused(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk", MIB)
    original = Path(path).read_bytes()
    fields = {
        "version 9": (4, ">I", 9),
        "2^40 bytes": (20, ">I", 40),
        "encrypted": (32, ">I", 2),
        "L1 table too small": (24, ">Q", 1 << 60),
        "no cluster of its own": (40, ">Q", 77),
        "does not know": (72, ">Q", 1 << 40),
        "2^9 bits": (96, ">I", 9),
        "beyond the end of the file": (36, ">I", 1 << 20),
        "header of 50 bytes": (100, ">I", 50),
        "a compression of kind": (104, ">B", 7),
        "snapshots": (60, ">I", 1 << 20),
        "has no room": (112, ">II", (5, 1 << 30)),
    }
    for says, (place, form, value) in fields.items():
        data = bytearray(original)
        struct.pack_into(form, data, place, *(value if isinstance(value, tuple) else (value,)))
        Path(path).write_bytes(data)
        with pytest.raises(DiskError, match=says.replace("^", r"\^")):
            open_image(path)
    for cut in (0, 4, 71, 100, 104):
        Path(path).write_bytes(original[:cut])
        with pytest.raises(DiskError):
            open_image(path, "qcow2")


def test_what_options_contradict_is_refused(tmp_path: Path) -> None:
    for number, (size, options) in enumerate(
        [
            (MIB, Qcow2Options(cluster_bytes=1000)),
            (MIB, Qcow2Options(cluster_bytes=4 * MIB)),
            (MIB, Qcow2Options(version=4)),
            (MIB, Qcow2Options(refcount_bits=3)),
            (MIB, Qcow2Options(version=2, lazy_refcounts=True)),
            (MIB, Qcow2Options(extended_l2=True, cluster_bytes=4096)),
            (MIB, Qcow2Options(compression="lz4")),
            (MIB, Qcow2Options(data_file_raw=True)),
            (MIB, Qcow2Options(backing="x" * 1024)),
            (1 << 62, Qcow2Options(cluster_bytes=512)),
            (-1, Qcow2Options()),
        ]
    ):
        with pytest.raises(DiskUsageError):
            make_qcow2(tmp_path / str(number), size, options)


class FullDisk(FragileDisk):
    """A host's disk that has no more room."""

    full = False

    def writev(self, offset: int, buffers: Sequence[memoryview]) -> None:
        if self.full:
            raise DiskError("no space", errno.ENOSPC)
        super().writev(offset, buffers)


def test_a_full_host_disk_loses_nothing() -> None:
    disk = FullDisk(random=Random(1))
    write_new_image(disk, MIB, Qcow2Options(cluster_bytes=4096))

    def none(*_: object) -> FragileDisk:
        raise AssertionError

    image = open_qcow2(disk, open_backing=None, open_data=none)
    image.write(0, b"a" * 4096)
    for full in (True, False) * 4:
        disk.full = full
        for change in (
            lambda: image.write(8192, b"b" * 100 * 512),
            lambda: image.write(0, b"a" * 512),
            image.flush,
        ):
            if full and change == image.flush and not image.mapping.dirty_tables():
                continue
            if full:
                with pytest.raises(DiskError, match="no space") as caught:
                    change()
                assert caught.value.errno == errno.ENOSPC
            else:
                change()
    assert image.read(0, 4096) == b"a" * 4096
    assert image.read(8192, 51200) == b"b" * 51200
    image.close()
    assert check(disk, read_header(disk)).is_clean


def test_a_snapshot_too_many_for_narrow_counts_is_refused_and_harms_nothing(
    tmp_path: Path,
) -> None:
    path = make_qcow2(tmp_path / "disk", MIB, Qcow2Options(refcount_bits=1))
    with opened(path) as image:
        image.write(0, b"x" * 512)
        with pytest.raises(DiskError, match="more refcount bits"):
            manage.create_snapshot(image, "one")
        image.write(64 * KIB, b"y" * 512)
    check_clean(path)


def test_unknown_extensions_and_features_that_clear_themselves(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "disk", MIB)
    with open(path, "r+b") as file:
        file.seek(88)
        file.write((1 << 20).to_bytes(8, "big"))
        file.seek(112)
        file.write(struct.pack(">II5s3xII", 0x12345678, 5, b"hello", 0, 0))
    with opened(path) as image:
        assert image.header.extension(0x12345678) == b"hello"
        image.read(0, 512)
    with opened(path) as image:
        assert image.header.autoclear == 1 << 20
        image.write(0, b"x" * 512)
    with opened(path) as image:
        assert image.header.autoclear == 0
        manage.set_backing(image, "", "")
    with opened(path, read_only=True) as image:
        assert image.header.extension(0x12345678) == b"hello"


def test_the_entry_of_a_packed_cluster_says_where_it_is() -> None:
    for bits in (9, 16, 21):
        entry = compression.entry_for(12345, 600, bits)
        if entry is None:
            assert bits == 9
            continue
        assert entry & PACKED
        offset, length = compression.place_of(entry, bits)
        assert offset == 12345
        assert 600 <= length < 600 + 512
