"""Bring a program into memory, as execve does: segments, interpreter, stack, auxiliary vector.

Follows Linux's fs/binfmt_elf.c in what a program can see. Addresses are not randomised:
two runs are alike.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Sequence

from tandemu.linux.architecture import Architecture
from tandemu.linux.elf import EXECUTABLE, MACHINES, ElfFile
from tandemu.linux.errors import LinuxError
from tandemu.linux.growth import make_stack
from tandemu.linux.host import PAGE
from tandemu.linux.mappings import (
    LOWEST,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    round_up,
)
from tandemu.linux.memory import Memory

_NULL, _PHDR, _PHENT, _PHNUM, _PAGESZ, _BASE, _FLAGS, _ENTRY = 0, 3, 4, 5, 6, 7, 8, 9
_UID, _EUID, _GID, _EGID, _PLATFORM, _HWCAP, _CLKTCK, _SECURE = 11, 12, 13, 14, 15, 16, 17, 23
_RANDOM, _HWCAP2, _EXECFN = 25, 26, 31

_LEAST_STACK_ROOM = 128 << 20
"""So much is kept for the stack, for a program may raise its limit while it runs."""
MOST_ARGUMENTS, _LEAST_ARGUMENTS = 6 << 20, 1 << 17
MOST_TEXT = 32 * PAGE
"""Of one argument, with its zero byte: MAX_ARG_STRLEN."""
_STACK_SHARE = 16
"""An unlimited stack has that part of the window."""
_INITIAL_ROOM = 16 * PAGE


class Image:
    """A program in memory, ready to begin."""

    __slots__ = (
        "arguments", "auxiliary", "entry", "environment", "name", "path", "stack", "stack_top",
        "trampoline",
    )  # fmt: skip

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = b""
        """What the process is called."""
        self.arguments = self.environment = (0, 0)
        """Where the strings begin and end in the program's memory."""
        self.entry = self.stack = self.stack_top = self.trampoline = 0
        self.auxiliary = b""


def check_machine(elf: ElfFile, architecture: Architecture, name: str) -> None:
    """LinuxError unless *elf* is for *architecture*."""
    if elf.machine != architecture.machine:
        raise wrong_machine(elf, name, architecture.name)


def wrong_machine(elf: ElfFile, name: str, wanted: str) -> LinuxError:
    """What to raise where *elf*, called *name*, is not for the *wanted* architecture."""
    machine = MACHINES.get(elf.machine, f"machine {elf.machine}")
    return LinuxError(
        f"{name} is a program for {machine}; 'tandemu exec' runs programs for {wanted}",
        errno.ENOEXEC,
    )


def open_interpreter(elf: ElfFile, name: str, resolve: Callable[[str], str]) -> int:
    """Open the program's dynamic linker; LinuxError says how to give it a sysroot."""
    try:
        return os.open(resolve(elf.interpreter), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LinuxError(
            f"{name} needs the dynamic linker {elf.interpreter}, which is not here"
            f" ({os.strerror(error.errno or errno.ENOENT)}); give the folder that holds the"
            " foreign system's files with -L SYSROOT or TANDEMU_SYSROOT",
            errno.ENOENT,
        ) from None


def load(
    memory: Memory,
    architecture: Architecture,
    descriptor: int,
    elf: ElfFile,
    path: str,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
    stack_size: int,
    resolve: Callable[[str], str],
    execfn: bytes,
) -> Image:
    """Map the program in *descriptor* into empty *memory* and build its stack."""
    check_arguments(arguments, environment, stack_size)
    image = Image(path)
    interpreter: ElfFile | None = None
    linker = -1
    if elf.interpreter:
        linker = open_interpreter(elf, path, resolve)
    try:
        if linker >= 0:
            interpreter = ElfFile(linker, elf.interpreter)
            check_machine(interpreter, architecture, elf.interpreter)
        bias = 0
        if elf.type != EXECUTABLE:
            # Where Linux puts position-independent programs: at two thirds.
            bias = (memory.limit // 3 * 2) & -elf.align
            if interpreter is None and elf.low == 0:
                bias &= -(1 << 21)
            bias -= elf.low
        elif elf.low < LOWEST:
            raise LinuxError(
                f"{path} wants to be at {elf.low:#x}; a program cannot lie below {LOWEST:#x}",
                errno.ENOEXEC,
            )
        # The stack first: it belongs at the top.
        image.stack_top = memory.top
        needed = sum(len(text) + 9 for text in (*arguments, *environment))
        _must(_make_stack(memory, stack_size, needed), path)
        if elf.executable_stack:
            stack = memory.find(image.stack_top - PAGE)
            assert stack is not None
            size, protection = stack.end - stack.start, PROT_READ | PROT_WRITE | PROT_EXEC
            _must(memory.protect(stack.start, size, protection), path)
        _map_segments(memory, descriptor, elf, bias, path)
        memory.break_start = memory.break_end = bias + elf.high
        memory.data_size = sum(
            one.memory_size for one in elf.segments if one.protection & PROT_WRITE
        )
        image.entry = bias + elf.entry
        linker_bias = 0
        if interpreter is not None:
            size = interpreter.high - interpreter.low
            place = memory.find_free(size, interpreter.align)
            if not place:
                raise LinuxError(f"{path}: no room for its interpreter", errno.ENOMEM)
            linker_bias = place - interpreter.low
            _map_segments(memory, linker, interpreter, linker_bias, resolve(elf.interpreter))
            image.entry = linker_bias + interpreter.entry
    finally:
        if linker >= 0:
            os.close(linker)
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    page = _must(memory.map(0, PAGE, PROT_READ | PROT_WRITE, flags, name="[sigpage]"), path)
    memory.write(page, architecture.trampoline)
    memory.protect(page, PAGE, PROT_READ | PROT_EXEC)
    image.trampoline = page
    headers = 0
    for segment in elf.segments:
        offset = elf.headers_offset - segment.offset
        if 0 <= offset < segment.file_size:
            headers = bias + segment.address + offset
    vector = [
        (_HWCAP, architecture.hwcap),
        (_PAGESZ, PAGE),
        (_CLKTCK, os.sysconf("SC_CLK_TCK")),
        (_PHDR, headers),
        (_PHENT, 56),
        (_PHNUM, elf.headers),
        (_BASE, linker_bias),
        (_FLAGS, 0),
        (_ENTRY, bias + elf.entry),
        (_UID, os.getuid()),
        (_EUID, os.geteuid()),
        (_GID, os.getgid()),
        (_EGID, os.getegid()),
        (_SECURE, 0),
    ]
    if architecture.hwcap2:
        vector.append((_HWCAP2, architecture.hwcap2))
    _build_stack(memory, architecture, image, arguments, environment, vector, execfn)
    return image


def check_arguments(
    arguments: Sequence[bytes], environment: Sequence[bytes], stack_size: int
) -> None:
    """LinuxError if they are too long for a stack of that limit (execve(2), fs/exec.c)."""
    texts = (*arguments, *environment)
    most = max(min(MOST_ARGUMENTS, stack_size // 4), _LEAST_ARGUMENTS)
    if sum(len(text) + 9 for text in texts) > most or any(len(text) >= MOST_TEXT for text in texts):
        raise LinuxError("the arguments and the environment are too long", errno.E2BIG)


def _make_stack(memory: Memory, wanted: int, needed: int) -> int:
    """Map a stack of *wanted* bytes, as far as the window has room, and *needed* ones at least."""
    room = max(min(wanted, memory.limit // _STACK_SHARE), _LEAST_STACK_ROOM)
    room = min(round_up(room), memory.limit // 4)
    size = max(min(round_up(wanted), room), round_up(needed + _INITIAL_ROOM))
    result = make_stack(memory, memory.top, size, room)
    while result == -errno.ENOMEM and size > _LEAST_STACK_ROOM:
        # A host that counts what could be used (vm.overcommit_memory) does not give all.
        size //= 2
        result = make_stack(memory, memory.top, size, room)
    return result


def _must(result: int, path: str) -> int:
    if result < 0:
        raise LinuxError(f"{path} cannot be loaded: {os.strerror(-result)}", -result)
    return result


def _map_segments(memory: Memory, descriptor: int, elf: ElfFile, bias: int, path: str) -> None:
    # One reservation for all, so that a part cannot land in the gap of another's.
    size = elf.high - elf.low
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    _must(memory.map(bias + elf.low, size, 0, flags), path)
    position = bias + elf.low
    for segment in elf.segments:
        start = bias + segment.address
        first = start & -PAGE
        if first > position:
            memory.unmap(position, first - position)
        end = start + segment.memory_size
        file_end = start + segment.file_size
        position = round_up(end)
        if segment.file_size:
            _must(
                memory.map(
                    first, file_end - first, segment.protection, MAP_PRIVATE | MAP_FIXED,
                    descriptor, segment.offset - (start - first), os.path.abspath(path),
                ),
                path,
            )  # fmt: skip
        zero = round_up(file_end) if segment.file_size else first
        if file_end < zero and segment.memory_size > segment.file_size:
            # The rest of the last page of the file belongs to the zeroed part.
            if not segment.protection & PROT_WRITE:
                memory.protect(zero - PAGE, PAGE, segment.protection | PROT_WRITE)
            memory.write(file_end, bytes(zero - file_end))
            if not segment.protection & PROT_WRITE:
                memory.protect(zero - PAGE, PAGE, segment.protection)
        if position > zero:
            flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
            _must(memory.map(zero, position - zero, segment.protection, flags), path)


def _build_stack(
    memory: Memory,
    architecture: Architecture,
    image: Image,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
    vector: list[tuple[int, int]],
    execfn: bytes,
) -> None:
    strings = bytearray()
    top = image.stack_top - 8
    offsets: list[int] = []
    for text in (*arguments, *environment, execfn, architecture.platform):
        offsets.append(len(strings))
        strings += text + b"\0"
    random = len(strings)
    strings += os.urandom(16)
    start = (top - len(strings)) & -16
    pointers = [start + offset for offset in offsets]
    count = len(arguments)
    image.arguments = start, pointers[count]
    image.environment = pointers[count], pointers[-2]
    vector = [*vector, (_RANDOM, start + random), (_EXECFN, pointers[-2])]
    if architecture.platform:
        vector.append((_PLATFORM, pointers[-1]))
    vector.append((_NULL, 0))
    words = [count, *pointers[:count], 0, *pointers[count:-2], 0]
    image.auxiliary = b"".join(struct.pack("<QQ", *pair) for pair in vector)
    table = struct.pack(f"<{len(words)}Q", *words) + image.auxiliary
    image.stack = (start - len(table)) & -16
    memory.write(image.stack, table)
    memory.write(start, bytes(strings))
