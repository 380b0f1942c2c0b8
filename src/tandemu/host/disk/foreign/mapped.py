"""What the formats share: a table tells for each block of the disk where in a file it stands."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterator

from tandemu.bits import Record, replace
from tandemu.host.disk.errors import DiskError
from tandemu.host.disk.image import Content, Description, Extent, Image
from tandemu.host.disk.storage import Storage, read_at
from tandemu.host.disk.vectors import Buffers, cut, fill_zeros, scatter

_MOST_TABLE_BYTES = 128 << 20


def broken(path: str, form: str, what: str) -> DiskError:
    """The error for an image that contradicts itself or its format."""
    return DiskError(f"{path} is a broken {form} image: {what}")


def read_table(storage: Storage, offset: int, count: int, typecode: str, form: str) -> array[int]:
    """*count* numbers of a table in the file, as they stand there; `DiskError` if they cannot."""
    words = array(typecode)
    length = count * words.itemsize
    if length > _MOST_TABLE_BYTES or offset + length > storage.size():
        raise broken(storage.path, form, f"a table of {count} entries at {offset:#x} has no room")
    words.frombytes(read_at(storage, offset, length))
    return words


class Place(Record):
    """Where *length* bytes of the disk stand: at *host* of *storage*, if they are data.

    *unit*: the number of the compressed unit that they are in, and *within* it at which byte.
    """

    content: Content
    length: int
    storage: Storage | None = None
    host: int = 0
    unit: int = -1
    within: int = 0


class MappedImage(Image):
    """An image for reading, of which `_place` tells what is where."""

    read_only = True

    def __init__(self, storages: list[Storage], path: str, size_bytes: int) -> None:
        self._storages = storages
        self.path = path
        self.size_bytes = size_bytes
        self.facts: dict[str, object] = {}

    @abstractmethod
    def _place(self, offset: int) -> Place:
        """What stands at *offset*; its length may reach beyond what is asked for."""

    def _unpack(self, place: Place) -> bytes:
        """The compressed unit that *place* is in. Only for formats that compress."""
        raise broken(self.path, self.format, "it has no compressed parts")

    def _places(self, offset: int, length: int) -> Iterator[tuple[int, Place]]:
        end = offset + length
        while offset < end:
            place = self._place(offset)
            part = min(place.length, end - offset)
            yield offset, replace(place, length=part) if part != place.length else place
            offset += part

    def _readv(self, offset: int, buffers: Buffers, length: int) -> None:
        for begin, place in self._places(offset, length):
            part = cut(buffers, begin - offset, place.length)
            if place.content is Content.DATA and place.unit >= 0:
                data = self._unpack(place)
                scatter(data[place.within : place.within + place.length], part)
            elif place.content is Content.DATA:
                assert place.storage is not None
                if place.host + place.length > -(-place.storage.size() // 512) * 512:
                    raise broken(self.path, self.format, f"data at {begin:#x} is not in the file")
                place.storage.readv(place.host, part)
            elif place.content is Content.ABSENT and self.backing is not None:
                self._read_below(begin, place.length, part)
            else:
                fill_zeros(part)

    def _read_below(self, offset: int, length: int, buffers: list[memoryview]) -> None:
        assert self.backing is not None
        there = min(max(self.backing.size_bytes - offset, 0), length)
        if there:
            self.backing.readv(offset, cut(buffers, 0, there))
        fill_zeros(cut(buffers, there, length - there))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for begin, place in self._places(offset, length):
            below = self.backing
            there = 0
            if place.content is Content.ABSENT and below is not None:
                there = min(max(below.size_bytes - begin, 0), place.length)
                if there:
                    for one in below.extents(begin, there):
                        yield replace(one, depth=one.depth + 1)
            if there < place.length:
                host = place.host if place.content is Content.DATA and place.unit < 0 else None
                yield Extent(
                    begin + there, place.length - there, place.content, host,
                    packed=place.unit >= 0,
                )  # fmt: skip

    def flush(self) -> None:
        """Nothing was written."""

    def describe(self) -> Description:
        """What there is to say about it."""
        taken = sum(one.allocated_bytes() for one in self._storages)
        below = "" if self.backing is None else self.backing.path
        return Description(self.format, self.size_bytes, taken, below, facts=dict(self.facts))

    def close(self) -> None:
        """Let the files go."""
        for storage in self._storages:
            storage.close()
        if self.backing is not None:
            self.backing.close()
