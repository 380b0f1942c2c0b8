"""The structures that native system calls share with Python.

A routine gets the host address of its thread's `THREAD`, which leads to the `PROCESS`.
"""

from __future__ import annotations

from tandemu.bits import U8, U32, U64, Layout

PATH_ROOM = 4096 + 64
"""A path is at most 4,096 bytes long with its zero byte (PATH_MAX); it is read piece by piece."""
AREA_SIZE = 1 << 16
"""Room for what is converted: 1,024 iovecs and a few structures, or 5,000 events."""
HEAD_SIZE = 256
"""Room at the area's start for a structure, before its arrays."""

PROCESS = Layout(
    "Process",
    base=U64,
    limit=U64,
    lowest_hidden=U32,
    has_sysroot=U32,
)
"""What all threads share: host address of the guest's address 0, and the number of bytes
from there on that are the guest's. No descriptor below *lowest_hidden* is one of ours."""

THREAD = Layout(
    "Thread",
    self=U64,
    process=U64,
    request=U64,
    not_begun=U64,
    registers=U64,
    path=U8[PATH_ROOM],
    second_path=U8[PATH_ROOM],
    structure=U8[512],
    area=U8[AREA_SIZE],
)
"""One guest thread. *self* is its own host address; *request* that of a word that is not zero
while somebody wants the thread's attention; *not_begun* where a system call that is not begun
goes on (`ir.operations`, interruptible_call). The rest is room for what a call converts."""
