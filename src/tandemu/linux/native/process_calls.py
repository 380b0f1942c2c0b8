"""The system calls on processes that native code makes: fork and the end of a child, robust lists.

A program of one thread forks without Python, whose pages the child would touch and so have copied.
In the child the translator's Python goes on as if nothing had happened until it is needed: then it
is told first (`UserEngine.take_forks`). Clone with anything but the flags of fork is Python's, and
so is fork beside threads of ours or the program's.

Source: clone(2), fork(2), and futex(2) for robust lists.
"""

from __future__ import annotations

import errno

from tandemu.accel.user import NOT_BEGUN
from tandemu.ir import I8, I32, I64, Constant, Value
from tandemu.linux.clone import CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.native.marshal import Marshal
from tandemu.linux.native.special import special
from tandemu.linux.offspring import NUMBER_SIZE, PLACES, READ_WRITE, SHARED

_SIGCHLD = 17
_SET_MASK, _MASK_SIZE, _ALL = 2, 8, (1 << 64) - 1
_OF_FORK = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
_ROBUST_SIZE = 24
"""sizeof(struct robust_list_head): the first entry, the futex's offset, the pending entry."""


def _change_mask(m: Marshal, new: Value, old: Value | int) -> None:
    m.b.system_call(NUMBERS["rt_sigprocmask"], _SET_MASK, new, old, _MASK_SIZE)


@special("clone")
def _clone(m: Marshal) -> Value:
    b, thread, process = m.b, m.thread, m.process
    flags, stack, _, _, child_tid = m.given
    flags = flags & 0xFFFFFFFF
    m.elsewhere_if(((flags & ~_OF_FORK) != _SIGCHLD) | (stack != 0))
    m.elsewhere_if((process.may_fork == 0) | (process.restricted != 0) | (thread.held != 0))
    with b.If(process.children == 0, likely=False):
        page = b.system_call(NUMBERS["mmap"], 0, PAGE, READ_WRITE, SHARED, -1)
        m.elsewhere_if(page.ugt(-PAGE & _ALL))
        process.children, process.next_child = page, 0
    place = process.next_child & (PLACES - 1)
    process.next_child = process.next_child + 1
    number = (process.child_numbers + place * NUMBER_SIZE).to_pointer()
    b.store((process.children + place).to_pointer(), b.constant(I8, 0))
    b.store(number, b.constant(I32, 0))
    # Nothing may be delivered in the child before its state is its own.
    room = thread.pointer("structure")
    b.store(room, Constant(I64, _ALL))
    before = room.offset(_MASK_SIZE).from_pointer()
    _change_mask(m, room.from_pointer(), before)
    with b.If(thread.pending != 0, likely=False):
        # As in a kernel: what is pending comes first, and is not the child's as well.
        _change_mask(m, before, 0)
        b.Return(NOT_BEGUN)
    # The C library's, which knows its own locks and numbers of threads.
    pid = b.call("fork", result=I32)
    with b.If(pid == 0):
        process.is_forked = 1
        process.parents_children, process.own_place = process.children, place
        process.children = 0
        thread.robust_list = 0
        clears = (flags & CLONE_CHILD_CLEARTID) != 0
        thread.clear_tid = b.select(clears, child_tid, Constant(I64, 0))
        _change_mask(m, before, 0)
        # The host's kernel would end a process that blocks the fault which this may be.
        with b.If((flags & CLONE_CHILD_SETTID) != 0):
            own = room.offset(2 * _MASK_SIZE)
            b.store(own, b.system_call(NUMBERS["gettid"]).trunc(I32))
            m.write(child_tid, own, NUMBER_SIZE)
        b.Return(0)
    b.store(number, pid)
    _change_mask(m, before, 0)
    # Python finds out why.
    m.elsewhere_if(pid.slt(0))
    return pid.zext(I64)


@special("exit_group")
def _exit_group(m: Marshal) -> Value:
    b, thread = m.b, m.thread
    # Python has something to tell of all others.
    m.elsewhere_if(m.process.is_forked == 0)
    head = thread.robust_list
    with b.If(head != 0):
        place = thread.pointer("structure")
        m.elsewhere_if(~m.read(place, head, _ROBUST_SIZE))
        m.elsewhere_if((b.load(place, I64) != head) | (b.load(place.offset(16), I64) != 0))
    b.system_call(NUMBERS["exit_group"], m.given[0] & 0xFF)
    return Constant(I64, 0)


@special("set_robust_list")
def _set_robust_list(m: Marshal) -> Value:
    head, size = m.given
    m.error_if(size != _ROBUST_SIZE, errno.EINVAL)
    m.thread.robust_list = head
    return Constant(I64, 0)
