"""The first look at a path: is it one that Python has to see? And the sysroot.

A path that ends in ``exe`` may be the link of /proc to the program that runs, which leads to the
translator on the host: `linux.paths` knows. All others are the host's kernel's, as they are; what
is opened in /proc is looked at afterwards (`proc.watch`).

With a sysroot, an absolute path is looked up there first, by the host's kernel (openat2 with
RESOLVE_IN_ROOT), and then on the host. Nothing is remembered, so it is right whoever renames what.
What makes, removes, renames or changes is made on the host where the sysroot has nothing of that
name. Python has what the sysroot has, a folder that only the sysroot has, packages without links at
their top (``/lib``), and links of the host that lead to what only the sysroot has.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Any

from tandemu.accel.user import CALL_ELSEWHERE
from tandemu.ir import I1, I8, I64, PTR, Builder, Constant, Function, Value
from tandemu.linux.calls.helpers import AT_FDCWD, AT_SYMLINK_NOFOLLOW
from tandemu.linux.host import NUMBERS
from tandemu.linux.native.abi import HOST_STAT
from tandemu.linux.native.layout import PROCESS, THREAD
from tandemu.linux.native.marshal import KINDS, NOBODYS, Marshal
from tandemu.linux.paths import (
    HOSTS_OWN,
    MERGED_FOLDERS,
    O_PATH,
    OPEN_HOW,
    RESOLVE_IN_ROOT,
)

_PAGE = 4096
_MOST = 4096
_CHUNK = 64
_SLASH = ord("/")
_WORD = 8


def _word(name: str) -> int:
    """The first letters of *name* as a number."""
    return int.from_bytes(name.encode()[:_WORD], "little")


def build_read_path() -> Function:
    """read_path(thread, address, room) -> host address of the path, or CALL_ELSEWHERE.

    The path is copied to *room* (`layout.PATH_ROOM`): what was looked at is what is used.
    """
    parameters = [("thread", PTR), ("address", I64), ("room", PTR)]
    b = Builder("read_path", parameters, result=I64, exported=False)
    thread = b.struct(THREAD, b.thread)
    process = b.struct(PROCESS, thread.process.to_pointer())
    with b.If(b.address == 0, likely=False):
        b.Return(0)
    with b.If(b.address.uge(process.limit), likely=False):
        b.Return(NOBODYS)
    start = b.address + process.base
    offset = b.variable(I64, 0)
    # Of the component that is being read: its length, its first letters as a number.
    length, word = b.variable(I64, 0), b.variable(I64, 0)
    first, first_length = b.variable(I64, 0), b.variable(I64, 0)
    with b.Loop():
        place = start + offset.value
        rest = _PAGE - (place & (_PAGE - 1))
        size = b.select(rest.ult(_CHUNK), rest, Constant(I64, _CHUNK))
        target = b.room.offset(offset.value)
        left = b.call("copy_guest", target, place.to_pointer(), size, result=I64)
        with b.If(left != 0, likely=False):
            b.Return(NOBODYS)
        index = b.variable(I64, 0)
        with b.While(lambda: index.value.ult(size)):
            letter = b.load(target.offset(index.value), I8).zext(I64)
            with b.If(letter == 0):
                with b.If(first_length.value == 0):
                    first.value, first_length.value = word.value, length.value
                _classify(b, thread, process, first.value, first_length.value)
                _finish(b, word.value, length.value)
            with b.If(letter == _SLASH):
                with b.If(first_length.value == 0):
                    first.value, first_length.value = word.value, length.value
                word.value = 0
                length.value = 0
            with b.Else():
                with b.If(length.value.ult(_WORD)):
                    word.value = word.value | (letter << (length.value << 3))
                length.value = length.value + 1
            index.value = index.value + 1
        offset.value = offset.value + size
        with b.If(offset.value.uge(_MOST), likely=False):
            # Too long: the host says so.
            b.Return(start)
    return b.finish()


def _is(word: Value, length: Value, name: str) -> Value:
    return (word == _word(name)) & (length == len(name))


IN_SYSROOT, MERGED, ON_HOST = 1, 2, 3
"""`THREAD.in_sysroot`: it is looked up in the sysroot; and maybe below /usr of that; or the host's
in any case, but a link there may lead into the sysroot. 0: none of that."""
_KIND_OF_FILE, _LINK = 0xF000, 0xA000
"""S_IFMT, S_IFLNK"""


def _classify(b: Builder, thread: Any, process: Any, word: Value, length: Value) -> None:
    """Note whether the sysroot is asked first, by the first component of the path."""

    def is_one_of(names: Iterable[str]) -> Value:
        found: Value = Constant(I1, 0)
        for name in names:
            found = found | _is(word, length, name)
        return found

    absolute = b.load(b.room, I8) == _SLASH
    merged, own = is_one_of(MERGED_FOLDERS), is_one_of(name[1:] for name in HOSTS_OWN)
    kind = b.select(merged, Constant(I64, MERGED), Constant(I64, IN_SYSROOT))
    kind = b.select(own, Constant(I64, ON_HOST), kind)
    thread.in_sysroot = b.select(absolute & (process.has_sysroot != 0), kind, Constant(I64, 0))


def _finish(b: Builder, word: Value, length: Value) -> None:
    """The path has been read: decide."""
    found = _is(word, length, "exe")
    b.Return(b.select(found, CALL_ELSEWHERE, b.room.from_pointer()))


READ_PATH = build_read_path()


def read_path(m: Marshal, address: Value) -> Value:
    """The host address of the path at the guest's *address*; or the call is left to Python."""
    m.thread.in_sysroot = 0
    found = m.b.call(READ_PATH, m.b.thread, address, m.path_room())
    m.elsewhere_if(found == CALL_ELSEWHERE)
    return found


def _path(m: Marshal, index: int) -> Value:
    """A path that the host's call gets: none of the sysroot."""
    found = read_path(m, m.given[index])
    kind = m.thread.in_sysroot
    leave_if_in_sysroot(m, found, kind)
    # Maybe the sysroot has the folder, or what a link of the host leads to.
    m.elsewhere_on(-errno.ENOENT, kind != 0)
    return found


KINDS["path"] = _path


def open_inside(m: Marshal, path: Value, flags: Value) -> Value:
    """openat2(2) in the sysroot."""
    how = m.thread.pointer("structure")
    m.b.store(how, flags)
    m.b.store(how.offset(8), Constant(I64, 0))
    m.b.store(how.offset(16), Constant(I64, RESOLVE_IN_ROOT))
    number = NUMBERS["openat2"]
    return m.call(number, m.process.root, path, how.from_pointer(), OPEN_HOW.size)


def leave_if_in_sysroot(m: Marshal, path: Value, kind: Value) -> None:
    """Leave the call to Python if the sysroot has something of that name, or may have."""
    with m.b.If((kind == IN_SYSROOT) | (kind == MERGED), likely=False):
        m.elsewhere_if(kind == MERGED)
        found = open_inside(m, path, Constant(I64, O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW))
        with m.b.If(found.sge(0)):
            m.b.system_call(NUMBERS["close"], found)
        m.elsewhere_if(found != -errno.ENOENT)


def look_up(
    m: Marshal, path: Value, nofollow: Value, found: Callable[[Value], Value],
    on_host: Callable[[], Value],
) -> Value:  # fmt: skip
    """Make a call with *path*: *found* with a descriptor (O_PATH) of the sysroot's file; or
    *on_host*, where that has none. *nofollow*: a link is meant itself."""
    b, thread = m.b, m.thread
    result = b.variable(I64, 0)
    kind = thread.in_sysroot
    with b.If((kind == 0) | (kind == ON_HOST), likely=True):
        result.value = on_host()
        with b.If((result.value == -errno.ENOENT) & (kind == ON_HOST) & ~nofollow):
            m.elsewhere_if(is_link(m, path))
    with b.Else():
        follow = b.select(nofollow, Constant(I64, os.O_NOFOLLOW), Constant(I64, 0))
        descriptor = open_inside(m, path, follow | (O_PATH | os.O_CLOEXEC))
        with b.If(descriptor.sge(0), likely=True):
            result.value = found(descriptor)
            b.system_call(NUMBERS["close"], descriptor)
        with b.Else():
            # Of any other error Python knows more.
            m.elsewhere_if((descriptor != -errno.ENOENT) | (thread.in_sysroot == MERGED))
            result.value = on_host()
            with b.If((result.value == -errno.ENOENT) & ~nofollow):
                m.elsewhere_if(is_link(m, path))
    return result.value


def is_link(m: Marshal, path: Value) -> Value:
    """Whether the host has something of that name, even if it leads nowhere."""
    return _state(m, path) == 0


def leave_if_link(m: Marshal, path: Value) -> None:
    """Leave the call to Python if the host has a link of that name, wherever that leads."""
    with m.b.If(_state(m, path) == 0):
        mode = m.b.struct(HOST_STAT, m.area()).mode
        m.elsewhere_if((mode & _KIND_OF_FILE) == _LINK)


def _state(m: Marshal, path: Value) -> Value:
    """lstat(2) of the host's *path* into the area: 0, or a negative error number."""
    place = m.area().from_pointer()
    number = NUMBERS["newfstatat"]
    return m.b.system_call(number, AT_FDCWD, path, place, AT_SYMLINK_NOFOLLOW)
