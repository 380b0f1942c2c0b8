"""The system calls that most often look paths up, in the sysroot too."""

from __future__ import annotations

import errno
import os

from tandemu.accel.user import CALL_ELSEWHERE
from tandemu.ir import I1, I8, I64, Constant, Value
from tandemu.linux.calls.helpers import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from tandemu.linux.descriptors import WATCHED
from tandemu.linux.host import NUMBERS
from tandemu.linux.native.marshal import KINDS, Marshal
from tandemu.linux.native.paths import (
    MERGED,
    ON_HOST,
    is_link,
    leave_if_in_sysroot,
    leave_if_link,
    look_up,
    open_inside,
    read_path,
)
from tandemu.linux.native.special import special

_SLASH = ord("/")
_EMPTY = 511
"""Where in a thread's structure a text of no letters stands."""


def _empty(m: Marshal) -> Value:
    place: Value = m.thread.pointer("structure").offset(_EMPTY)
    m.b.fill(place, 0, 1)
    return place.from_pointer()


@special("newfstatat")
def _newfstatat(m: Marshal) -> Value:
    number, (directory, name, _, flags) = NUMBERS["newfstatat"], m.given
    path, place = read_path(m, name), KINDS["stat"](m, 2)
    nofollow = (flags & AT_SYMLINK_NOFOLLOW) != 0
    made = look_up(
        m, path, nofollow,
        lambda file: m.call(number, file, _empty(m), place, flags | AT_EMPTY_PATH),
        lambda: m.call(number, directory, path, place, flags),
    )  # fmt: skip
    return m.finish(made)


@special("statx")
def _statx(m: Marshal) -> Value:
    number, (directory, name, flags, mask, result) = NUMBERS["statx"], m.given
    path, place = read_path(m, name), m.moved(result)
    nofollow = (flags & AT_SYMLINK_NOFOLLOW) != 0
    made = look_up(
        m, path, nofollow,
        lambda file: m.call(number, file, _empty(m), flags | AT_EMPTY_PATH, mask, place),
        lambda: m.call(number, directory, path, flags, mask, place),
    )  # fmt: skip
    return m.finish(made)


@special("faccessat", "faccessat2")
def _faccessat(m: Marshal) -> Value:
    directory, name, mode = m.given[:3]
    flags = m.given[3] if m.given[3:] else Constant(I64, 0)
    path = read_path(m, name)
    rest = (flags,) if m.given[3:] else ()
    checked = NUMBERS["faccessat2"]
    made = look_up(
        m, path, (flags & AT_SYMLINK_NOFOLLOW) != 0,
        lambda file: m.call(checked, file, _empty(m), mode, flags | AT_EMPTY_PATH),
        lambda: m.call(NUMBERS[m.name], directory, path, mode, *rest),
    )  # fmt: skip
    return m.finish(made)


@special("readlinkat")
def _readlinkat(m: Marshal) -> Value:
    number, (directory, name, _, _) = NUMBERS["readlinkat"], m.given
    path, place, size = read_path(m, name), KINDS["out"](m, 2), KINDS["size"](m, 3)
    made = look_up(
        m, path, Constant(I1, 1),
        lambda file: m.call(number, file, _empty(m), place, size),
        lambda: m.call(number, directory, path, place, size),
    )  # fmt: skip
    # What is no link says so of its name; of a descriptor it would be ENOENT.
    no_link = (made == -errno.ENOENT) & (m.thread.in_sysroot != 0)
    m.elsewhere_if(no_link)
    return m.finish(made)


@special("chdir")
def _chdir(m: Marshal) -> Value:
    path = read_path(m, m.given[0])
    made = look_up(
        m, path, Constant(I1, 0),
        lambda folder: m.call(NUMBERS["fchdir"], folder),
        lambda: m.call(NUMBERS["chdir"], path),
    )  # fmt: skip
    return m.finish(made)


_MOST_NAME = 4096 + 1


@special("getcwd")
def _getcwd(m: Marshal) -> Value:
    b, process = m.b, m.process
    with b.If(process.has_sysroot == 0, likely=True):
        b.Return(m.make(NUMBERS["getcwd"], m.arguments()))
    name, root = m.area(), process.root_name
    made = m.call(NUMBERS["getcwd"], name.from_pointer(), _MOST_NAME)
    with b.If(made.slt(0)):
        b.Return(m.finish(made))
    # A folder of the sysroot is called by its name in there.
    common = b.variable(I64, 0)
    with b.While(lambda: common.value.ult(process.root_size)):
        letter = b.load(name.offset(common.value), I8)
        with b.If(letter != b.load((root + common.value).to_pointer(), I8)):
            b.Break()
        common.value = common.value + 1
    start = b.variable(I64, 0)
    with b.If(common.value == process.root_size):
        after = b.load(name.offset(common.value), I8)
        with b.If(after == _SLASH):
            start.value = common.value
        with b.If(after == 0):
            # The sysroot itself.
            start.value = common.value - 1
            b.store(name.offset(start.value), b.constant(I8, _SLASH))
    size = made - start.value
    m.error_if(m.given[1].ult(size), errno.ERANGE)
    m.write_or_fault(m.given[0], name.offset(start.value), size)
    return size


_STAT_INODE = 8


def _look_at(m: Marshal, descriptor: Value) -> None:
    """Watch what was opened, if it is a file of /proc; Python finds the program's own (`exe`)."""
    b, process = m.b, m.process
    place = m.thread.pointer("structure")
    b.system_call(NUMBERS["fstat"], descriptor, place.from_pointer())
    device, inode = b.load(place, I64), b.load(place.offset(_STAT_INODE), I64)
    with b.If((device == process.proc_device) & descriptor.ult(WATCHED), likely=False):
        b.store((process.watched + descriptor).to_pointer(), b.constant(I8, 1))
    is_host = (device == process.host_device) & (inode == process.host_inode)
    with b.If(is_host, likely=False):
        b.system_call(NUMBERS["close"], descriptor)
        b.Return(CALL_ELSEWHERE)


@special("openat")
def _openat(m: Marshal) -> Value:
    b, thread = m.b, m.thread
    m.after(lambda descriptor: _look_at(m, descriptor))
    directory, name, given, mode = m.given
    flags = m.guest.open_flags(given & 0xFFFFFFFF)
    path = read_path(m, name)
    result = b.variable(I64, 0)
    kind = thread.in_sysroot
    creates = (flags & os.O_CREAT) != 0
    with b.If((kind != 0) & creates, likely=False):
        leave_if_in_sysroot(m, path, kind)
        # What it leads to may be the sysroot's, and is not to be made on the host then.
        with b.If((flags & (os.O_EXCL | os.O_NOFOLLOW)) == 0):
            leave_if_link(m, path)
    with b.If((kind == 0) | (kind == ON_HOST) | creates, likely=True):
        result.value = m.call(NUMBERS["openat"], directory, path, flags, mode)
        with b.If((result.value == -errno.ENOENT) & (kind != 0)):
            m.elsewhere_if(creates | is_link(m, path))
    with b.Else():
        result.value = open_inside(m, path, flags)
        with b.If(result.value.slt(0)):
            m.elsewhere_if((result.value != -errno.ENOENT) | (kind == MERGED))
            result.value = m.call(NUMBERS["openat"], directory, path, flags, mode)
            with b.If(result.value == -errno.ENOENT):
                m.elsewhere_if(is_link(m, path))
    return m.finish(result.value)
