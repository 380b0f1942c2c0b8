"""System calls that start another program: execve, execveat."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from tandemu.linux import host
from tandemu.linux.calls.helpers import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, signed
from tandemu.linux.elf import ElfFile
from tandemu.linux.errors import LinuxError
from tandemu.linux.host import NUMBERS, HostFault
from tandemu.linux.limits import STACK
from tandemu.linux.loader import MOST_ARGUMENTS, MOST_TEXT, check_arguments
from tandemu.linux.succession import Program, replace
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel
    from tandemu.linux.task import Task

calls = Calls()

_SCRIPTS = 5
"""So many interpreters may be scripts themselves."""
_HEAD_SIZE = 256
"""BINPRM_BUF_SIZE."""
_EXECVEAT = NUMBERS["execveat"]
_NO_POINTER = 1


def _strings(task: Task, address: int) -> list[bytes]:
    """The zero-terminated array of strings at *address*."""
    memory = task.memory
    found: list[bytes] = []
    if not address:
        return found
    total = 0
    while True:
        size = min(4096 - address % 4096, 512) & -8 or 8
        for (word,) in struct.iter_unpack("<Q", memory.read(address, size)):
            if not word:
                return found
            try:
                text = memory.read_string(word, MOST_TEXT)
            except HostFault:
                raise
            except OSError:
                raise OSError(errno.E2BIG, "an argument is too long") from None
            total += len(text) + 9
            found.append(text)
            if total > MOST_ARGUMENTS:
                raise OSError(errno.E2BIG, "too many arguments")
        address += size


def _script(head: bytes, path: bytes, arguments: list[bytes]) -> tuple[bytes, list[bytes]]:
    """The interpreter of a script and its arguments: fs/binfmt_script.c."""
    line, newline, _ = head[2:].partition(b"\n")
    line = line.partition(b"\0")[0] if not newline else line
    words = line.strip(b" \t").split(None, 1)
    if not words or (not newline and len(head) == _HEAD_SIZE and len(words) == 1):
        raise OSError(errno.ENOEXEC, "no interpreter, or none that is whole")
    rest = [words[1].strip(b" \t")] if len(words) > 1 else []
    return words[0], [words[0], *rest, path, *arguments[1:]]


@calls.row("execve", "path ptr ptr")
def _execve(task: Task, path: int, arguments: int, environment: int) -> int:
    name = task.memory.read_string(path)
    return _execute(task, AT_FDCWD, name, 0, name, arguments, environment)


@calls.row("execveat", "dirfd path ptr ptr hex")
def _execveat(
    task: Task, directory: int, path: int, arguments: int, environment: int, flags: int
) -> int:
    flags &= 0xFFFFFFFF
    if flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW):
        return -errno.EINVAL
    text, number = task.memory.read_string(path), signed(directory)
    if not text and not flags & AT_EMPTY_PATH:
        return -errno.ENOENT
    name = text
    if text[:1] != b"/" and number != AT_FDCWD:
        name = b"/dev/fd/%d" % number + (b"/" + text if text else b"")
    return _execute(task, number, text, flags, name, arguments, environment)


def _execute(
    task: Task, directory: int, path: bytes, flags: int, name: bytes, argument_place: int,
    environment_place: int,
) -> int:  # fmt: skip
    """*name* is what the program is told that it was started as."""
    arguments = _strings(task, argument_place) or [b""]
    environment = _strings(task, environment_place)
    kernel = task.kernel
    descriptor, head = -1, b""
    try:
        # A kernel takes no descriptor for this.
        with kernel.limits.room():
            descriptor = _open(kernel, directory, path, flags)
            script = name
            for _ in range(_SCRIPTS + 1):
                head = os.pread(descriptor, _HEAD_SIZE, 0)
                if head[:2] != b"#!":
                    break
                if directory >= 0 and not os.get_inheritable(directory):
                    # The interpreter could not open it.
                    return -errno.ENOENT
                script, arguments = _script(head, script, arguments)
                os.close(descriptor)
                descriptor, directory = -1, AT_FDCWD
                descriptor = _open(kernel, AT_FDCWD, script, 0)
            else:
                return -errno.ELOOP
            program = Program(descriptor, name, arguments, environment)
        return _start(task, program, head)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _start(task: Task, program: Program, head: bytes) -> int:
    kernel = task.kernel
    if head[:4] != b"\x7fELF":
        return -errno.ENOEXEC
    if len(head) < 20 or head[18:20] != kernel.architecture.machine.to_bytes(2, "little"):
        return _execute_native(kernel, task, program)
    try:
        check_arguments(program.arguments, program.environment, kernel.limits.get(STACK)[0])
        elf = ElfFile(program.descriptor, program.path)
        if elf.interpreter:
            os.stat(kernel.files.resolve(elf.interpreter))
    except LinuxError as error:
        return -error.code
    replace(task, program)


def _open(kernel: Kernel, directory: int, path: bytes, flags: int) -> int:
    """A descriptor of a program's file that may be executed; OSError as the kernel's."""
    found = kernel.files.find_program(directory, path, flags)
    try:
        mode = os.fstat(found).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "a link")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EACCES, "no file")
        # The kernel itself says whether it would execute it, before it looks at arguments. An
        # older one looks at those first.
        empty = ctypes.create_string_buffer(1)
        result = host.call(
            _EXECVEAT, found, ctypes.addressof(empty), _NO_POINTER, _NO_POINTER, AT_EMPTY_PATH
        )
        if result != -errno.EFAULT:
            raise OSError(-result, "not executable")
        name = f"/proc/self/fd/{found}"
        if not os.access(name, os.X_OK, effective_ids=True):
            raise OSError(errno.EACCES, "not executable")
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _array(texts: list[bytes]) -> tuple[ctypes.Array[ctypes.c_char_p], int]:
    array = (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
    return array, ctypes.addressof(array)


def _execute_native(kernel: Kernel, task: Task, program: Program) -> int:
    """A program for this host: its kernel runs it."""
    if task.restrictions is not None:
        # Its calls have other numbers, which no filter of the guest's speaks of.
        return -errno.EACCES
    kept_arguments, argument_place = _array(program.arguments)
    kept_environment, environment_place = _array(program.environment)
    spawn = kernel.spawn
    if spawn is not None:
        spawn.give_back(done=False)
    # Blocked is what the guest blocks.
    host.set_mask(task.mask)
    name = ctypes.create_string_buffer(os.fsencode(program.path))
    place = ctypes.addressof(name)
    kernel.limits.give_back()
    result = host.call(NUMBERS["execve"], place, argument_place, environment_place)
    kernel.limits.take_back()
    task.refresh_host_mask()
    if spawn is not None:
        spawn.go_on()
    del kept_arguments, kept_environment
    return result
