"""Paths of the guest: the sysroot, the files of /proc that tell of the program itself.

With a sysroot, an absolute path is looked up there first and then on the host, as a
chroot's inside would see it (symbolic links included); /proc, /dev, /sys, /run and /tmp
are always the host's.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.errors import LinuxError
from tandemu.linux.host import NUMBERS

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
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000


OWN_NAMES = (
    "exe", "maps", "cmdline", "environ", "auxv", "stat", "cpuinfo",
    "smaps", "smaps_rollup", "status", "statm", "comm", "mem",
)  # fmt: skip
"""What files of /proc that tell of a program may be called: `native.paths` looks for them."""


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
        if self.own_file(path) == "exe":
            return os.dup(kernel.image_descriptor)
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

    def own_file(self, path: bytes) -> str:
        """Which file of /proc about the program itself *path* is; empty if none."""
        if not path.startswith(b"/proc/"):
            return ""
        if path == b"/proc/cpuinfo":
            return "cpuinfo"
        parts = path.split(b"/")
        if len(parts) != 4 or parts[2] not in (b"self", b"thread-self", b"%d" % os.getpid()):
            return ""
        name = parts[3].decode(errors="replace")
        return name if name in ("exe", "maps", "cmdline", "environ", "auxv", "stat") else ""

    def open_own_file(self, name: str, flags: int) -> int:
        """A descriptor of what `own_file` named."""
        kernel = self._kernel
        if name == "exe":
            return os.open(f"/proc/self/fd/{kernel.image_descriptor}", flags & ~os.O_CREAT)
        if name == "maps":
            content = self._maps()
        elif name == "cmdline":
            content = b"".join(text + b"\0" for text in kernel.arguments)
        elif name == "environ":
            content = b"".join(text + b"\0" for text in kernel.environment)
        elif name == "auxv":
            content = kernel.image.auxiliary
        elif name == "stat":
            content = self._stat()
        else:
            text = kernel.architecture.cpuinfo
            count = len(os.sched_getaffinity(0))
            content = "".join(text.format(number=number) for number in range(count)).encode()
        if flags & os.O_ACCMODE != os.O_RDONLY:
            return -errno.EACCES
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC if flags & os.O_CLOEXEC else 0)
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def _maps(self) -> bytes:
        lines = []
        for mapping in self._kernel.memory.mappings:
            letters = "".join(
                letter if mapping.protection & mask else "-"
                for letter, mask in (("r", 1), ("w", 2), ("x", 4))
            )
            kind = "p" if mapping.flags == 2 else "s"
            inode = 0
            if mapping.name[:1] == "/":
                try:
                    inode = os.stat(mapping.name).st_ino
                except OSError:
                    inode = 0
            place = f"{mapping.start:08x}-{mapping.end:08x} {letters}{kind}"
            line = f"{place} {mapping.offset:08x} 00:00 {inode}"
            lines.append(f"{line:<72} {mapping.name}".rstrip() + "\n")
        return os.fsencode("".join(lines))

    def _stat(self) -> bytes:
        with open("/proc/self/stat", "rb") as file:
            text = file.read()
        head, _, tail = text.rpartition(b")")
        fields = tail.split()
        name = os.path.basename(os.fsencode(self._kernel.image.path))[:15]
        # Field 28 of proc(5) is the start of the stack; *tail* begins with field 3.
        # Field 20: threads, without ours.
        fields[20 - 3] = b"%d" % len(self._kernel.tasks)
        fields[28 - 3] = b"%d" % self._kernel.image.stack
        return head.split(b"(", 1)[0] + b"(" + name + b") " + b" ".join(fields) + b"\n"


def _is_hosts_own(path: str) -> bool:
    return path.startswith(HOSTS_OWN) and path.split("/", 2)[1] in _OWN_NAMES


_OWN_NAMES = frozenset(name[1:] for name in HOSTS_OWN)
