"""What the host's kernel is told of the program, for whoever asks it: ps, top, /proc/PID.

The process's name, and where its arguments, environment and auxiliary vector are: what /proc
shows of them is the program's own memory then, whatever it writes there. prctl(2), PR_SET_NAME
and PR_SET_MM_MAP (struct prctl_mm_map of uapi linux/prctl.h), which needs a kernel with
CONFIG_CHECKPOINT_RESTORE; without it others see the translator's command line.

The fields that say where code and data are have no use of their own. They lead from a process
to its program (`Traces`): start and end of code are those of the window.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from tandemu.linux import host
from tandemu.linux.host import NUMBERS

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

OUR_THREAD = b"tandemu"
"""The name of threads that are not the program's."""
NAME_SIZE = 16
"""TASK_COMM_LEN: with the zero byte."""
_PR_SET_NAME, _PR_SET_MM, _PR_SET_MM_MAP = 15, 35, 14
_MAP = struct.Struct("<11QQIi")
_BRK = NUMBERS["brk"]

# Fields of /proc/PID/stat by their numbers in proc(5).
START_CODE, END_CODE, START_STACK = 26, 27, 28
START_DATA, START_BRK, ARG_START, ARG_END, ENV_START, ENV_END = 45, 47, 48, 49, 50, 51


class Traces(NamedTuple):
    """What /proc/PID/stat of one of our processes leads to."""

    base: int
    """Host address of the program's address 0."""
    size: int
    """Of the window, in bytes."""
    stack: int
    """The program's address where its stack began."""
    heap: int
    """Where its heap begins."""


def set_name(name: bytes) -> None:
    """Name the calling thread *name*, cut to 15 bytes."""
    buffer = ctypes.create_string_buffer(name[: NAME_SIZE - 1], NAME_SIZE)
    host.quick(NUMBERS["prctl"], _PR_SET_NAME, ctypes.addressof(buffer))


def stat_fields(text: bytes) -> list[bytes]:
    """The fields of a /proc/PID/stat from the third on: the name may hold anything."""
    return text[text.rindex(b")") + 1 :].split()


def publish(kernel: Kernel) -> bool:
    """Tell the host's kernel of the program that has been loaded; whether it listened."""
    image, base = kernel.image, kernel.memory.base
    set_name(image.name)
    try:
        with open("/proc/self/stat", "rb", buffering=0) as file:
            fields = stat_fields(file.read())
    except OSError:
        return False
    # The heap is that of the C library that runs us.
    start_brk, brk = int(fields[START_BRK - 3]), host.quick(_BRK, 0)
    auxiliary = ctypes.create_string_buffer(image.auxiliary, len(image.auxiliary))
    heap = base + kernel.memory.break_start
    values = _MAP.pack(
        base, base + kernel.memory.limit, heap, heap, start_brk, brk, base + image.stack,
        *(base + place for place in (*image.arguments, *image.environment)),
        ctypes.addressof(auxiliary), len(image.auxiliary), -1,
    )  # fmt: skip
    place = ctypes.create_string_buffer(values, _MAP.size)
    address = ctypes.addressof(place)
    return host.quick(NUMBERS["prctl"], _PR_SET_MM, _PR_SET_MM_MAP, address, _MAP.size, 0) == 0


def traces(stat: bytes, window: int) -> Traces | None:
    """What a /proc/PID/stat leads to; None if that is none of our processes."""
    try:
        fields = stat_fields(stat)
        start, end = int(fields[START_CODE - 3]), int(fields[END_CODE - 3])
        if end - start != window:
            return None
        stack, heap = int(fields[START_STACK - 3]), int(fields[START_DATA - 3])
    except (ValueError, IndexError):
        return None
    return Traces(start, window, stack - start, heap - start)


def name_of_program(execfn: bytes, path: str) -> bytes:
    """What execve names a process: after what it was asked for, or the file if by descriptor."""
    if execfn.startswith(b"/dev/fd/"):
        return os.path.basename(os.fsencode(path.removesuffix(" (deleted)")))
    return os.path.basename(execfn)
