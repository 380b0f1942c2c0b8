"""System calls on files and directories."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    host_path,
    on_path,
    signed,
)
from tandemu.linux.host import NUMBERS
from tandemu.linux.paths import OPEN_HOW, RESOLVE_BENEATH, RESOLVE_IN_ROOT
from tandemu.linux.proc.folders import told
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.paths import Files
    from tandemu.linux.task import Task

calls = Calls()

_FSTAT, _NEWFSTATAT, _OPENAT = NUMBERS["fstat"], NUMBERS["newfstatat"], NUMBERS["openat"]
_host_fstat, _host_newfstatat, _host_openat = host.bound(2), host.bound(4), host.bound(4)
_FIRST_POINTER_IOCTL = 0x5401


# Reading and writing --------------------------------------------------------------------

for _name, _arguments in (
    ("lseek", "fd long int"),
    ("ftruncate", "fd long"),
    ("fsync", "fd"),
    ("fdatasync", "fd"),
    ("sync", ""),
    ("syncfs", "fd"),
    ("sync_file_range", "fd long long hex"),
    ("fallocate", "fd hex long long"),
    ("fadvise64", "fd long long int"),
    ("readahead", "fd long size"),
    ("flock", "fd int"),
    ("fchmod", "fd mode"),
    ("fchown", "fd int int"),
    ("fchdir", "fd"),
    ("umask", "mode"),
    ("memfd_create", "str hex"),
    ("vmsplice", "fd vectors int hex"),
    ("tee", "fd fd size hex"),
    ("fstatfs", "fd ptr"),
    ("pipe2", "ptr open"),
    ("fgetxattr", "fd str out size"),
    ("fsetxattr", "fd str in size hex"),
    ("flistxattr", "fd out size"),
    ("fremovexattr", "fd str"),
    ("name_to_handle_at", "dirfd path ptr ptr hex"),
    ("open_by_handle_at", "dirfd ptr open"),
    ("fanotify_init", "hex hex"),
    ("cachestat", "fd ptr ptr hex"),
    ("statmount", "ptr out size hex"),
    ("listmount", "ptr ptr size hex"),
):
    calls.direct(_name, _arguments)

for _name, _arguments, _flags in (
    ("faccessat", "dirfd path mode", -1),
    ("faccessat2", "dirfd path mode hex", 3),
    ("fchmodat", "dirfd path mode", -1),
    ("fchmodat2", "dirfd path mode hex", 3),
    ("fchownat", "dirfd path int int hex", 4),
    ("utimensat", "dirfd path ptr hex", 3),
    ("truncate", "path long", -1),
    ("chdir", "path", -1),
    ("statfs", "path ptr", -1),
    ("statx", "dirfd path hex hex ptr", 2),
    ("inotify_add_watch", "fd path hex", -1),
    ("fanotify_mark", "fd hex hex dirfd path", -1),
    ("getxattr", "path str out size", -1),
    ("setxattr", "path str in size hex", -1),
    ("listxattr", "path out size", -1),
    ("removexattr", "path str", -1),
):
    on_path(calls, _name, _arguments, flags=_flags)
for _name, _arguments in (
    ("mkdirat", "dirfd path mode"),
    ("mknodat", "dirfd path mode hex"),
    ("unlinkat", "dirfd path hex"),
    ("symlinkat", "str dirfd path"),
    ("linkat", "dirfd path dirfd path hex"),
    ("renameat", "dirfd path dirfd path"),
    ("renameat2", "dirfd path dirfd path hex"),
):
    on_path(calls, _name, _arguments, new=True)
for _name, _arguments in (
    ("lgetxattr", "path str out size"),
    ("lsetxattr", "path str in size hex"),
    ("llistxattr", "path out size"),
    ("lremovexattr", "path str"),
):
    on_path(calls, _name, _arguments, nofollow=True)


@calls.row("getcwd", "out size", native=True)
def _getcwd(task: Task, result: int, size: int) -> int:
    path = task.kernel.files.guest_path(os.getcwdb()) + b"\0"
    if size < len(path):
        return -errno.ERANGE
    task.memory.write(result, path)
    return len(path)


# Opening and closing --------------------------------------------------------------------


def _find_or_open(
    files: Files, text: bytes, flags: int, resolve: int | None = None
) -> int | ctypes.Array[ctypes.c_char] | None:
    """A descriptor of the file that *text* names, or an error, if it is opened here.

    Else the host's name of it; None if that is the guest's. *resolve* is what openat2(2) has.
    """
    if text[:1] != b"/" or not files.sysroot:
        return None
    if not flags & os.O_CREAT:
        opened = files.open_inside(text, flags, resolve or 0)
        # openat2 refuses what openat ignores: then the long way is gone.
        if opened >= 0 or (resolve is not None and opened != -errno.ENOENT):
            return opened
    look_up = files.resolve_new if flags & os.O_CREAT else files.resolve
    found = os.fsencode(look_up(os.fsdecode(text), not flags & os.O_NOFOLLOW))
    return ctypes.create_string_buffer(found)


def _open(task: Task, directory: int, path: int, flags: int, mode: int) -> int:
    memory = task.memory
    text = memory.read_string(path)
    found = _find_or_open(task.kernel.files, text, flags & 0xFFFFFFFF)
    if isinstance(found, int):
        return found
    place = memory.base + path if found is None else ctypes.addressof(found)
    result = _host_openat(_OPENAT, directory, place, flags, mode)
    if result == -1:
        return host.failure()
    return task.kernel.files.look_at(result, signed(directory), text, flags)


@calls.row("openat", "dirfd path open mode", native=True)
def _openat(task: Task, directory: int, path: int, flags: int, mode: int) -> int:
    return _open(task, directory, path, task.kernel.architecture.open_flags(flags), mode)


@calls.row("openat2", "dirfd path ptr size")
def _openat2(task: Task, directory: int, path: int, how: int, size: int) -> int:
    memory = task.memory
    found = None
    host_how = memory.host_address(how, size)
    if OPEN_HOW.size <= size <= _PAGE:
        # What is behind the structure is the host's kernel's to judge.
        room = ctypes.create_string_buffer(memory.read(how, size), size)
        given, mode, resolve = OPEN_HOW.unpack_from(room)
        flags = task.kernel.architecture.open_flags(given)
        OPEN_HOW.pack_into(room, 0, flags, mode, resolve)
        host_how = ctypes.addressof(room)
        # Else an absolute path is refused, or begins at the directory.
        if not resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT):
            found = _find_or_open(task.kernel.files, memory.read_string(path), flags, resolve)
    if isinstance(found, int):
        return found
    place = memory.host_address(path) if found is None else ctypes.addressof(found)
    result = host.call(NUMBERS["openat2"], directory, place, host_how, size)
    if result < 0:
        return result
    flags = task.kernel.architecture.open_flags(memory.read_word(how) & 0xFFFFFFFF)
    return task.kernel.files.look_at(result, signed(directory), memory.read_string(path), flags)


@calls.row("getdents64", "fd out size", native=True)
def _getdents64(task: Task, descriptor: int, address: int, size: int) -> int:
    memory = task.memory
    number = NUMBERS["getdents64"]
    while True:
        result = host.call(number, descriptor, memory.host_address(address, size), size)
        if result <= 0:
            return result
        entries = memory.read(address, result)
        kept = told(task.kernel, signed(descriptor), entries)
        # A result of nothing would be the end of the directory.
        if kept:
            if len(kept) < result:
                memory.write(address, kept)
            return len(kept)


@calls.row("close", "fd", native=True)
def _close(task: Task, descriptor: int) -> int:
    descriptor = signed(descriptor)
    if descriptor in task.kernel.descriptors:
        return -errno.EBADF
    return host.call(3, descriptor)


@calls.row("close_range", "int int hex")
def _close_range(task: Task, first: int, last: int, flags: int) -> int:
    first, last = first & 0xFFFFFFFF, last & 0xFFFFFFFF
    if first > last:
        return -errno.EINVAL
    result = 0
    for ours in [*task.kernel.descriptors.hidden(), last + 1]:
        if first < ours and first <= min(ours - 1, last):
            result = host.call(NUMBERS["close_range"], first, min(ours - 1, last), flags)
            if result < 0:
                return result
        first = max(first, ours + 1)
    return result


@calls.row("dup3", "fd fd hex", native=True)
def _dup3(task: Task, old: int, new: int, flags: int) -> int:
    if signed(new) in task.kernel.descriptors:
        return -errno.EBUSY
    return task.kernel.watch.copied(old, host.call(NUMBERS["dup3"], old, new, flags))


LOCKS = frozenset((5, 6, 7, 36, 37, 38, 15, 16, 1035, 1036, 1037, 1038, 1039, 1040))
"""F_GETLK … F_OFD_SETLKW, F_SETOWN_EX, F_GETOWN_EX, the write life hints: pointers."""


F_GETFL, F_SETFL = 3, 4
_PAGE = 4096
_COPIES = frozenset((0, 1030))
"""F_DUPFD, F_DUPFD_CLOEXEC"""


@calls.row("fcntl", "fd int hex", native=True)
def _fcntl(task: Task, descriptor: int, command: int, argument: int) -> int:
    if signed(descriptor) in task.kernel.descriptors:
        return -errno.EBADF
    if signed(command) in LOCKS:
        argument = task.memory.host_address(argument, 32)
    architecture = task.kernel.architecture
    if signed(command) == F_SETFL:
        argument = architecture.open_flags(argument)
    result = host.call(NUMBERS["fcntl"], descriptor, command, argument)
    if signed(command) == F_GETFL and result >= 0:
        return architecture.open_flags(result)
    if signed(command) in _COPIES:
        return task.kernel.watch.copied(descriptor, result)
    return result


# Looking --------------------------------------------------------------------------------


@calls.row("newfstatat", "dirfd path stat hex", native=True)
def _newfstatat(task: Task, directory: int, path: int, result: int, flags: int) -> int:
    memory = task.memory
    changed = None
    if not (flags & AT_EMPTY_PATH and signed(directory) != AT_FDCWD):
        changed = host_path(task, directory, path, not flags & AT_SYMLINK_NOFOLLOW)
    name = memory.host_address(path) if changed is None else ctypes.addressof(changed)
    done = _host_newfstatat(_NEWFSTATAT, directory, name, task.scratch_address, flags)
    if done != 0:
        return host.failure()
    memory.write(result, task.kernel.architecture.stat(task.scratch))
    return done


@calls.row("fstat", "fd stat", native=True)
def _fstat(task: Task, descriptor: int, result: int) -> int:
    done = _host_fstat(_FSTAT, descriptor, task.scratch_address)
    if done != 0:
        return host.failure()
    task.memory.write(result, task.kernel.architecture.stat(task.scratch))
    return done


@calls.row("readlinkat", "dirfd path out size", native=True)
def _readlinkat(task: Task, directory: int, path: int, result: int, size: int) -> int:
    memory = task.memory
    files = task.kernel.files
    text = memory.read_string(path)
    if text.endswith(b"exe"):
        program = files.exe_of(signed(directory), text)
        if program and signed(size) > 0:
            target = os.fsencode(program)
            if program.startswith("/proc/self/fd/"):
                target = os.readlink(target)
            memory.write(result, target[: signed(size)])
            return min(len(target), signed(size))
    place = memory.host_address(result, size)
    changed = host_path(task, directory, path, False)
    name = memory.host_address(path) if changed is None else ctypes.addressof(changed)
    return host.call(NUMBERS["readlinkat"], directory, name, place, size)


calls.refuse(
    "mount umount2 pivot_root chroot swapon swapoff move_mount open_tree fsopen fsconfig fsmount "
    "fspick mount_setattr open_tree_attr quotactl quotactl_fd nfsservctl acct vhangup",
    "changes the host for everybody; a program run like this has no need of it",
    errno.EPERM,
)
calls.refuse(
    "io_uring_setup io_uring_enter io_uring_register",
    "programs fall back to read and write",
)
calls.refuse(
    "lookup_dcookie setxattrat getxattrat listxattrat removexattrat file_getattr file_setattr",
    "as by a kernel that was built without it",
)
