"""The descriptors of /proc from which a program reads something else than the host says.

Native calls mark what is opened in /proc (`native.layout.PROCESS`, watched); the first call on
such a descriptor looks what it is, and takes the mark away if it is nothing of ours. A mark that
is there for no reason costs time, nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.descriptors import WATCHED
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.proc import subject, texts

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

_FILE = re.compile(r".*/(\d+)(?:/task/(\d+))?/(\w+)")
_CPUINFO = re.compile(r".*/cpuinfo")
_MOST = 1 << 20
"""Bytes that are read from memory at once."""
_LSEEK, _PREAD, _PWRITE = NUMBERS["lseek"], NUMBERS["pread64"], NUMBERS["pwrite64"]


class TextFile:
    """A file whose content is a text that is made when it is read from its start."""

    def __init__(self, watch: Watch, descriptor: int, link: str, text: _Maker) -> None:
        self._watch, self._descriptor, self._link, self._text = watch, descriptor, link, text

    @property
    def can_be_spliced(self) -> bool:
        """Whether Linux lets it be spliced: no file of a process."""
        return isinstance(self._text, _Processors)

    def read(self, size: int, offset: int) -> bytes:
        """Up to *size* bytes from *offset*; OSError as a kernel's."""
        kept = self._watch.contents.get(self._descriptor)
        if offset == 0 or kept is None or kept[0] != self._link:
            kept = self._link, self._text().encode("utf-8", "surrogateescape")
            self._watch.contents[self._descriptor] = kept
        return kept[1][offset : offset + size]

    def write(self, data: bytes, offset: int) -> int:
        """No program writes there."""
        raise OSError(errno.EINVAL, "a text")


class MemoryFile:
    """A file in which an offset is an address, or stands for one: mem, pagemap."""

    def __init__(
        self, descriptor: int, bias: int, size: int, whose: subject.Subject | None = None
    ) -> None:
        """*whose*: what is not mapped there must not be reached, though the host has pages."""
        self._descriptor, self._bias, self._size, self._whose = descriptor, bias, size, whose

    def _room(self, size: int, offset: int) -> int:
        """How many of *size* bytes from *offset* can be reached."""
        size = min(size, self._size - offset, _MOST)
        if self._whose is not None:
            size = min(size, self._whose.mapped_from(offset, size))
            if size <= 0:
                raise OSError(errno.EIO, "nothing is mapped")
        return size

    def read(self, size: int, offset: int) -> bytes:
        """Up to *size* bytes from *offset*; OSError as a kernel's."""
        size = self._room(size, offset)
        if size <= 0:
            return b""
        buffer = ctypes.create_string_buffer(size)
        place = ctypes.addressof(buffer)
        got = host.call(_PREAD, self._descriptor, place, size, self._bias + offset)
        if got < 0:
            raise OSError(-got, "not read")
        return buffer.raw[:got]

    def write(self, data: bytes, offset: int) -> int:
        """How many bytes were written."""
        size = self._room(len(data), offset)
        if size <= 0:
            raise OSError(errno.EIO, "outside")
        buffer = ctypes.create_string_buffer(data, len(data))
        place = ctypes.addressof(buffer)
        done = host.call(_PWRITE, self._descriptor, place, size, self._bias + offset)
        if done < 0:
            raise OSError(-done, "not written")
        return done


class _Maker:
    """What makes a text, and of whom."""

    def __init__(self, make: texts.Text, of: subject.Subject, thread: int) -> None:
        self._make, self._of, self._thread = make, of, thread

    def __call__(self) -> str:
        return self._make(self._of, self._thread)


class _Processors(_Maker):
    def __init__(self, text: str) -> None:
        self._processor = text

    def __call__(self) -> str:
        return texts.processors(self._processor)


class Watch:
    """The watched descriptors of one process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.contents: dict[int, tuple[str, bytes]] = {}
        """What has been read from the start of a descriptor's file, with the file's name."""
        self._marks = (ctypes.c_uint8 * WATCHED)()
        process = kernel.native.process
        process.watched = ctypes.addressof(self._marks)
        process.proc_device = os.stat("/proc").st_dev
        mine = os.stat("/proc/self/exe")
        process.host_device, process.host_inode = mine.st_dev, mine.st_ino

    def mark(self, descriptor: int) -> None:
        """Have a look at *descriptor* when it is used."""
        if 0 <= descriptor < WATCHED:
            self._marks[descriptor] = 1

    def copied(self, old: int, new: int) -> int:
        """*new*, a copy of descriptor *old*, or an error number."""
        old &= 0xFFFFFFFF
        if old < WATCHED and self._marks[old]:
            self.mark(new)
        return new

    def file(self, descriptor: int) -> TextFile | MemoryFile | None:
        """What is read from *descriptor*; None: what the host says."""
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            link = ""
        found = self._find(descriptor, link)
        if found is None:
            self.contents.pop(descriptor, None)
            if 0 <= descriptor < WATCHED:
                self._marks[descriptor] = 0
        return found

    def _find(self, descriptor: int, link: str) -> TextFile | MemoryFile | None:
        kernel = self._kernel
        if not link or os.fstat(descriptor).st_dev != kernel.native.process.proc_device:
            return None
        if _CPUINFO.fullmatch(link):
            maker: _Maker = _Processors(kernel.architecture.cpuinfo)
            return TextFile(self, descriptor, link, maker)
        match = _FILE.fullmatch(link)
        if match is None:
            return None
        pid, thread, name = int(match[1]), int(match[2] or 0), match[3]
        known = name in texts.TEXTS or name in ("mem", "pagemap")
        if not known and (kernel.is_told or name not in texts.UNTOLD):
            return None
        of = subject.find(kernel, pid)
        if of is None:
            return None
        if name == "mem":
            return MemoryFile(descriptor, of.base, of.size, of)
        if name == "pagemap":
            return MemoryFile(descriptor, of.base // PAGE * 8, of.size // PAGE * 8)
        make = texts.TEXTS.get(name) or texts.UNTOLD[name]
        if name in texts.UNTOLD and of.traces is not None:
            return None
        return TextFile(self, descriptor, link, _Maker(make, of, thread))


def position(descriptor: int) -> int:
    """Where the next read of *descriptor* begins; OSError."""
    place = host.quick(_LSEEK, descriptor, 0, os.SEEK_CUR)
    if place < 0:
        raise OSError(-place, "no position")
    return place


def advance(descriptor: int, place: int) -> None:
    """Have the next read begin at *place*."""
    host.quick(_LSEEK, descriptor, place, os.SEEK_SET)
