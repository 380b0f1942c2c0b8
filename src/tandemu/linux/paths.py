"""Paths of the guest: the sysroot, the files of /proc that tell of the program itself.

With a sysroot, an absolute path is looked up there first and then on the host, as a
chroot's inside would see it (symbolic links included); /proc, /dev, /sys, /run and /tmp
are always the host's.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.errors import LinuxError
from tandemu.linux.host import NUMBERS
from tandemu.linux.proc import subject

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

_OPENAT2 = NUMBERS["openat2"]
OPEN_HOW = struct.Struct("<QQQ")
"""struct open_how of openat2(2): flags, mode, resolve."""
_host_openat2 = host.bound_openat2()
O_PATH = 0o10000000
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 8, 16
HOSTS_OWN = ("/proc", "/dev", "/sys", "/run", "/tmp")
MERGED_FOLDERS = frozenset(("bin", "lib", "lib64", "sbin"))
_MOST_LINKS = 40
_EXE = re.compile(r".*/(\d+)(?:/task/\d+)?/exe")
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000


class Files:
    """Finds the host's name of the guest's paths."""

    def __init__(self, kernel: Kernel, sysroot: str) -> None:
        self._kernel = kernel
        self.sysroot = os.path.realpath(sysroot) if sysroot else ""
        self.root = -1
        """The descriptor of the sysroot."""
        if self.sysroot:
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self.root = kernel.descriptors.hide(os.open(self.sysroot, flags))
            except OSError as error:
                raise LinuxError(
                    f"the sysroot {sysroot} cannot be used: {error.strerror}; give the folder"
                    " that holds the foreign system's lib, usr and so on",
                    error.errno or errno.ENOENT,
                ) from None

    def resolve(self, path: str, follow: bool = True) -> str:
        """The host's name of *path*."""
        if self.root < 0:
            return path
        if path[:1] == "/" and not _is_hosts_own(path):
            found = self._look_up(path, follow)
            if not found and path.split("/", 2)[1] in MERGED_FOLDERS:
                # Unpacked packages lack the links /lib -> usr/lib and so on.
                found = self._look_up("/usr" + path, follow)
            if found:
                return found
        return self._follow_link(path) if follow else path

    def find_program(self, directory: int, path: bytes, flags: int) -> int:
        """A descriptor that leads to the file of a program (O_PATH); OSError if there is none.

        *directory* and *flags* are those of execveat(2).
        """
        kernel = self._kernel
        if directory in kernel.descriptors:
            raise OSError(errno.EBADF, "no such descriptor")
        if not path and directory != _AT_FDCWD and flags & _AT_EMPTY_PATH:
            return os.dup(directory)
        if path.endswith(b"exe"):
            program = self.exe_of(directory, path)
            if program:
                return os.open(program, O_PATH | os.O_CLOEXEC)
        found = self.resolve(os.fsdecode(path)) or "."
        how = O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if flags & _AT_SYMLINK_NOFOLLOW else 0)
        return os.open(found, how, dir_fd=None if directory == _AT_FDCWD else directory)

    def open_inside(self, path: bytes, flags: int, resolve: int = 0) -> int:
        """Open a file of the sysroot at once; a negative error number if that fails.

        *resolve* is a set of RESOLVE_* (openat2(2)).
        """
        if _is_hosts_own(os.fsdecode(path)):
            return -errno.ENOENT
        how = OPEN_HOW.pack(flags, 0, resolve | RESOLVE_IN_ROOT)
        found: int = _host_openat2(_OPENAT2, self.root, path + b"\0", how, OPEN_HOW.size)
        return found if found != -1 else host.failure()

    def resolve_new(self, path: str, follow: bool = False) -> str:
        """The host's name of *path*, which may be about to be made.

        What is in neither place belongs into the sysroot if only that has the folder.
        """
        found = self.resolve(path, follow)
        folder, _, name = path.rpartition("/")
        if found != path or not folder or not name or os.path.lexists(os.path.dirname(path)):
            return found
        return os.path.join(self.resolve(folder), name)

    def guest_path(self, path: bytes) -> bytes:
        """What the guest calls the host's *path*: chdir("/") went to the sysroot."""
        root = os.fsencode(self.sysroot)
        if root and (path == root or path.startswith(root + b"/")):
            return path[len(root) :] or b"/"
        return path

    def _follow_link(self, path: str) -> str:
        """Where the host's *path* leads if it is a link to what only the sysroot has.

        A program makes such links in folders of the host: a virtual environment's python.
        """
        for _ in range(_MOST_LINKS):
            if not os.path.islink(path) or os.path.exists(path):
                break
            target = os.readlink(path)
            if target[:1] == "/":
                return self._look_up(target, True) or target
            path = os.path.join(os.path.dirname(path), target)
        return path

    def _look_up(self, path: str, follow: bool) -> str:
        """The host's name of *path* inside of the sysroot; empty if it is not there."""
        flags = O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        how = OPEN_HOW.pack(flags, 0, RESOLVE_IN_ROOT)
        found = _host_openat2(_OPENAT2, self.root, os.fsencode(path) + b"\0", how, OPEN_HOW.size)
        if found < 0:
            return ""
        try:
            return os.readlink(f"/proc/self/fd/{found}")
        finally:
            os.close(found)

    # The program's own file ---------------------------------------------------------------

    def exe_of(self, directory: int, path: bytes) -> str:
        """The host's name of the file of the program to whose /proc/PID/exe *path* leads.

        Empty if it leads to no such link of a program that runs here. *directory* is where a
        path begins that is not absolute.
        """
        for _ in range(_MOST_LINKS):
            how = O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with self._kernel.limits.room():
                    start = None if directory == _AT_FDCWD else directory
                    link = os.open(self.resolve(os.fsdecode(path), False), how, dir_fd=start)
            except OSError:
                return ""
            try:
                details = os.fstat(link)
                if not stat.S_ISLNK(details.st_mode):
                    return ""
                name = os.readlink(f"/proc/self/fd/{link}")
                if details.st_dev == self._kernel.native.process.proc_device:
                    return self._exe_at(name)
                path = os.path.join(
                    os.path.dirname(os.fsencode(name)), os.readlink(b"", dir_fd=link)
                )
                directory = _AT_FDCWD
            except OSError:
                return ""
            finally:
                os.close(link)
        return ""

    def _exe_at(self, link: str) -> str:
        match = _EXE.fullmatch(link)
        if match is None:
            return ""
        of = subject.find(self._kernel, int(match[1]))
        if of is None:
            return ""
        if of.traces is None:
            return f"/proc/self/fd/{self._kernel.image_descriptor}"
        try:
            area = of.program_area(of.areas())
        except OSError:
            return ""
        return "" if area is None else area.name

    def look_at(self, descriptor: int, directory: int, path: bytes, flags: int) -> int:
        """Take note of what was opened as *path*; the program may get another descriptor."""
        if descriptor < 0:
            return descriptor
        process = self._kernel.native.process
        details = os.fstat(descriptor)
        if details.st_dev == process.proc_device:
            self._kernel.watch.mark(descriptor)
        elif (details.st_dev, details.st_ino) == (process.host_device, process.host_inode):
            found = self.exe_of(directory, path)
            if found:
                os.close(descriptor)
                if flags & os.O_ACCMODE != os.O_RDONLY:
                    return -errno.ETXTBSY
                opened = os.open(found, flags & ~(os.O_CREAT | os.O_EXCL))
                os.set_inheritable(opened, not flags & os.O_CLOEXEC)
                return opened
        return descriptor


def _is_hosts_own(path: str) -> bool:
    return path.startswith(HOSTS_OWN) and path.split("/", 2)[1] in _OWN_NAMES


_OWN_NAMES = frozenset(name[1:] for name in HOSTS_OWN)
