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

MAPPING = Layout(
    "Mapping",
    start=U64,
    end=U64,
    protection=U32,
    flags=U32,
    traits=U32,
    name=U32,
    offset=U64,
)
"""One stretch of mapped pages, all alike (`linux.mappings`). *name* is the number of a name, with
`OF_FILE` if that is a file's, whose *offset* counts then."""
MAPPING_LIMIT = 1 << 17
"""So many of them: the host's kernel has no more (vm.max_map_count), unless it was told to."""
OF_FILE = 1 << 31
NO_NAME, HEAP_NAME = 0, 1

NAME_SIZE = 65
"""Of each text of struct utsname."""

PROCESS = Layout(
    "Process",
    base=U64,
    limit=U64,
    mappings=U64,
    mapping_count=U64,
    mapping_changes=U64,
    mapping_lock=U32,
    grows=U32,
    restricted=U64,
    top=U64,
    break_start=U64,
    break_end=U64,
    lowest_hidden=U32,
    has_sysroot=U32,
    root=U64,
    root_name=U64,
    root_size=U64,
    may_fork=U32,
    is_forked=U32,
    children=U64,
    child_numbers=U64,
    next_child=U64,
    parents_children=U64,
    own_place=U64,
    machine=U8[NAME_SIZE],
    watched=U64,
    proc_device=U64,
    host_device=U64,
    host_inode=U64,
    trampoline=U64,
    signal_handler=U64,
    restorer=U64,
    actions=ACTION[SIGNALS + 1],
)
"""What all threads share: host address of the guest's address 0, and the number of bytes
from there on that are the guest's. *mappings* is the host address of the table of `MAPPING`s,
lowest first, which changes under *mapping_lock* (a futex); *mapping_changes* is odd while it
does. *grows*: some mapping grows downward; *restricted*: only Python knows all that limits the
program's mappings; *top*: where those without a wish begin. No descriptor below *lowest_hidden*
is one of ours. *root* is the descriptor of the sysroot, whose name of *root_size* bytes stands at
*root_name*. *machine* is what uname calls the guest's processor.

*may_fork*: no thread but the program's only one would be missed in a child that native code makes.
*is_forked*: native code has made this process, and Python does not know yet. The next five are
`linux.offspring`'s.

*watched* is the host address of `WATCHED` bytes, one for each descriptor: not 0 if calls on it
are Python's, since it may be a file of the file system *proc_device* that tells of the program.
The next two say which file the translator's own program is: whoever opens it may mean another
one, by /proc/self/exe.

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
    robust_list=U64,
    clear_tid=U64,
    in_sysroot=U64,
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

*robust_list* is what set_robust_list(2) was given; *clear_tid* where a 0 is written when the
thread ends.

*in_sysroot* says of the path that was read last whether it is looked up in the sysroot first
(`native.paths`). The rest is room for what a call converts."""
