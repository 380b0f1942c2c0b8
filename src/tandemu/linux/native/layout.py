"""The structures that native system calls share with Python.

A routine gets the host address of its thread's `THREAD`, which leads to the `PROCESS`.
"""

from __future__ import annotations

from tandemu.bits import U8, U32, U64, Layout

PATH_ROOM = 4096 + 64
"""A path is at most 4,096 bytes long with its zero byte (PATH_MAX); it is read piece by piece."""
AREA_SIZE = 1 << 16
"""Room for what is converted: 1,024 iovecs and a few structures, or 4,000 events."""
HEAD_SIZE = 256
"""Room at the area's start for a structure, before its arrays."""
INFORMATION_SIZE = 128
"""Of a siginfo_t."""
SIGNALS = 64
SIGNAL_DONE, SIGNAL_FOR_PYTHON, SIGNAL_NO_ROOM = range(3)
"""What settling a signal came to: go on; its default action is due (it is in `pending`); there
was no room for the frame, which ends the program."""

ACTION = Layout("Action", handler=U64, flags=U64, mask=U64)
"""What the guest wants done at a signal: its struct sigaction."""

PROCESS = Layout(
    "Process",
    base=U64,
    limit=U64,
    lowest_hidden=U32,
    has_sysroot=U32,
    trampoline=U64,
    signal_handler=U64,
    restorer=U64,
    actions=ACTION[SIGNALS + 1],
)
"""What all threads share: host address of the guest's address 0, and the number of bytes
from there on that are the guest's. No descriptor below *lowest_hidden* is one of ours.
*trampoline* is the guest address of code that returns from signal handlers, *signal_handler*
and *restorer* are what the host's kernel gets for a signal that the guest handles."""

THREAD = Layout(
    "Thread",
    self=U64,
    process=U64,
    request=U64,
    state=U64,
    not_begun=U64,
    mask=U64,
    saved_mask=U64,
    has_saved=U64,
    alternate_start=U64,
    alternate_flags=U64,
    alternate_size=U64,
    pending=U64,
    held=U64,
    word=U64,
    information=U8[INFORMATION_SIZE],
    held_information=U8[INFORMATION_SIZE],
    path=U8[PATH_ROOM],
    second_path=U8[PATH_ROOM],
    structure=U8[512],
    area=U8[AREA_SIZE],
)
"""One guest thread. *self* is its own host address; *request* that of a word that is not zero
while somebody wants the thread's attention, *state* that of its registers; *not_begun* where a
system call that is not begun goes on (`ir.operations`, interruptible_call).

*mask* is the guest's signal mask, *saved_mask* the one to go back to when a call with a mask of
its own is over, if *has_saved*. *pending* is the signal with *information* that the host has
delivered and the guest has not got, 0 for none: all others are blocked on the host until then.
*held*: one that the host cannot block but the guest does.

The rest is room for what a call converts."""
