"""The system calls on signals, as native routines."""

from __future__ import annotations

import errno
from typing import Any

from tandemu.accel.user import CALL_DONE
from tandemu.bits import U32, U64, Layout
from tandemu.ir import I32, I64, Constant, Value
from tandemu.linux.calls.aio import EVENT_REQUEST, EVENT_SIZE
from tandemu.linux.host import NEVER_BLOCKED, NUMBERS, SIGNAL_KICK, bit
from tandemu.linux.native.layout import ACTION, SIGNALS
from tandemu.linux.native.marshal import Marshal
from tandemu.linux.native.signals import (
    HOST_ACTION_SIZE,
    SA_NOCLDSTOP,
    SA_NOCLDWAIT,
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESETHAND,
    SA_RESTART,
    SA_RESTORER,
    SA_SIGINFO,
    SET_MASK,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
    on_alternate,
    signal_bit,
    with_mask,
)
from tandemu.linux.native.special import special

_STACK = Layout("Stack", start=U64, flags=U32, pad=U32, size=U64)
_LEAST_STACK = 2048
_MASK_SIZE = 8
_ACCESS = bit(7) | bit(11)
_KNOWN_FLAGS = (
    SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER | SA_RESETHAND
)
_BLOCK, _UNBLOCK, _SET = range(3)


@special("rt_sigprocmask")
def _rt_sigprocmask(m: Marshal) -> Value:
    b, thread = m.b, m.thread
    how, new, old, size = m.given
    m.error_if(size != _MASK_SIZE, errno.EINVAL)
    before = thread.mask
    with b.If(new != 0):
        room = thread.pointer("word")
        m.fault_if(~m.read(room, new, _MASK_SIZE))
        given = thread.word
        kind = how.trunc(I32)
        m.error_if(kind.ugt(_SET), errno.EINVAL)
        added = b.select(kind == _BLOCK, before | given, before & ~given)
        b.call(SET_MASK, b.thread, b.select(kind == _SET, given, added))
    with b.If(old != 0):
        thread.word = before
        m.write_or_fault(old, thread.pointer("word"), _MASK_SIZE)
    return Constant(I64, 0)


@special("rt_sigaction")
def _rt_sigaction(m: Marshal) -> Value:
    b, thread = m.b, m.thread
    signal, new, old, size = m.given
    signal = signal.trunc(I32).zext(I64)
    m.error_if((size != _MASK_SIZE) | (signal - 1).uge(SIGNALS), errno.EINVAL)
    room = thread.pointer("structure")
    action: Any = b.struct(ACTION, m.process.actions.pointer(signal))
    b.copy(room.offset(ACTION.size), action.pointer(), ACTION.size)
    with b.If(new != 0):
        # The engine has to know of handlers of refused accesses.
        m.elsewhere_if((signal_bit(signal) & _ACCESS) != 0)
        m.fault_if(~m.read(room, new, ACTION.size))
        m.error_if((signal == 9) | (signal == 19), errno.EINVAL)
        given = b.struct(ACTION, room)
        given.flags = given.flags & _KNOWN_FLAGS
        given.mask = given.mask & ~(bit(9) | bit(19))
        b.copy(action.pointer(), room, ACTION.size)
        with b.If(signal != SIGNAL_KICK):
            set_host_action(m, signal, given.handler, given.flags)
    with b.If(old != 0):
        m.write_or_fault(old, room.offset(ACTION.size), ACTION.size)
    return Constant(I64, 0)


def set_host_action(m: Marshal, signal: Value, handler: Value, flags: Value) -> None:
    """Have the host's kernel do at *signal* what the guest's *handler* and *flags* come to."""
    b = m.b
    place = m.area()
    b.fill(place, 0, HOST_ACTION_SIZE)
    kept = flags & (SA_NOCLDSTOP | SA_NOCLDWAIT)
    b.store(place, handler)
    b.store(place.offset(8), kept)
    with b.If(handler.ugt(1)):
        b.store(place, m.process.signal_handler)
        b.store(place.offset(8), kept | (SA_SIGINFO | SA_RESTORER))
        b.store(place.offset(16), m.process.restorer)
        b.store(place.offset(24), Constant(I64, ~NEVER_BLOCKED))
    b.system_call(NUMBERS["rt_sigaction"], signal, place.from_pointer(), 0, _MASK_SIZE)


@special("rt_sigreturn")
def _rt_sigreturn(m: Marshal) -> Value:
    b, thread = m.b, m.thread
    state = b.struct(m.guest.REGISTERS, thread.state.to_pointer())
    frame = m.area()
    readable = m.read(frame, state.x[m.guest.STACK_POINTER], m.guest.FRAME_SIZE)
    m.elsewhere_if(~readable)
    mask, (start, flags, size) = m.guest.read_frame(b, state, frame)
    # As sigaltstack(2), whose errors nobody is told of.
    with b.If(size.uge(_LEAST_STACK) | ((flags & SS_DISABLE) != 0)):
        thread.alternate_start, thread.alternate_size = start, size
        thread.alternate_flags = flags
    b.call(SET_MASK, b.thread, mask)
    return Constant(I64, CALL_DONE)


@special("sigaltstack")
def _sigaltstack(m: Marshal) -> Value:
    b, thread = m.b, m.thread
    new, old = m.given
    state = b.struct(m.guest.REGISTERS, thread.state.to_pointer())
    start, size, kind = thread.alternate_start, thread.alternate_size, thread.alternate_flags
    inside = on_alternate(thread, state.x[m.guest.STACK_POINTER])
    before, given = (b.struct(_STACK, thread.pointer("structure").offset(n)) for n in (32, 0))
    before.start, before.pad, before.size = start, 0, size
    on = b.select(inside, Constant(I64, SS_ONSTACK), Constant(I64, 0))
    state_now = b.select(size == 0, Constant(I64, SS_DISABLE), on)
    before.flags = (state_now | (kind & SS_AUTODISARM)).trunc(I32)
    with b.If(new != 0):
        m.fault_if(~m.read(given.pointer(), new, _STACK.size))
        m.error_if(inside, errno.EPERM)
        flags = given.flags.zext(I64)
        # One of the two, or none of them.
        m.error_if((flags & ~SS_AUTODISARM).ugt(SS_DISABLE), errno.EINVAL)
        same = (given.start == start) & (given.size == size) & (flags == kind)
        off = (flags & SS_DISABLE) != 0
        m.error_if(~same & ~off & given.size.ult(_LEAST_STACK), errno.ENOMEM)
        thread.alternate_start = b.select(off, Constant(I64, 0), given.start)
        thread.alternate_size = b.select(off, Constant(I64, 0), given.size)
        thread.alternate_flags = flags
    with b.If(old != 0):
        m.write_or_fault(old, before.pointer(), _STACK.size)
    return Constant(I64, 0)


@special("rt_sigsuspend")
def _rt_sigsuspend(m: Marshal) -> Value:
    mask, size = m.given
    m.error_if(size != _MASK_SIZE, errno.EINVAL)
    m.fault_if(mask == 0)
    number = NUMBERS["rt_sigsuspend"]
    return with_mask(m, mask, lambda place: m.make(number, (place, _MASK_SIZE)))


@special("ppoll")
def _ppoll(m: Marshal) -> Value:
    entries, count, timeout, mask, size = m.given
    m.error_if((mask != 0) & (size != _MASK_SIZE), errno.EINVAL)
    moved = (m.moved(entries), count, m.moved(timeout))
    return with_mask(m, mask, lambda place: m.make(NUMBERS["ppoll"], (*moved, place, _MASK_SIZE)))


@special("pselect6")
def _pselect6(m: Marshal) -> Value:
    count, reads, writes, errors, timeout, both = m.given
    b, pair = m.b, m.thread.pointer("structure")
    mask = b.variable(I64, 0)
    with b.If(both != 0):
        m.fault_if(~m.read(pair, both, 16))
        mask.value = b.load(pair, I64)
        m.error_if((mask.value != 0) & (b.load(pair.offset(8), I64) != _MASK_SIZE), errno.EINVAL)
    sets = [m.moved(address) for address in (reads, writes, errors)]

    def call(place: Value) -> Value:
        b.store(pair, place)
        b.store(pair.offset(8), Constant(I64, _MASK_SIZE))
        given = (count, *sets, m.moved(timeout), pair.from_pointer())
        return m.make(NUMBERS["pselect6"], given)

    return with_mask(m, mask.value, call)


@special("epoll_pwait", "epoll_pwait2")
def _epoll_pwait(m: Marshal) -> Value:
    mask, size = m.given[4], m.given[5]
    m.error_if((mask != 0) & (size != _MASK_SIZE), errno.EINVAL)
    descriptor, events, count, timeout, *_ = m.arguments()
    given = (descriptor, events, count, timeout)
    number = NUMBERS[m.name]
    return with_mask(m, mask, lambda place: m.make(number, (*given, place, _MASK_SIZE)))


@special("io_getevents", "io_pgetevents")
def _io_getevents(m: Marshal) -> Value:
    context, least, most, events, timeout, *both = m.given
    b, pair = m.b, m.thread.pointer("structure")
    number = NUMBERS[m.name]

    def name_requests(found: Value) -> None:
        # The kernel tells of a request by its address, which is the guest's in the window.
        index = b.variable(I64, 0)
        with b.While(lambda: index.value.ult(found)):
            place = events + index.value * EVENT_SIZE + EVENT_REQUEST
            m.fault_if(~m.read(pair, place, 8))
            b.store(pair, b.load(pair, I64) - m.process.base)
            m.write_or_fault(place, pair, 8)
            index.value = index.value + 1

    m.after(name_requests)
    given = (m.moved(context), least, most, m.moved(events), m.moved(timeout))
    if not both:
        return m.make(number, given)
    mask = b.variable(I64, 0)
    with b.If(both[0] != 0):
        m.fault_if(~m.read(pair, both[0], 16))
        mask.value = b.load(pair, I64)
        m.error_if((mask.value != 0) & (b.load(pair.offset(8), I64) != _MASK_SIZE), errno.EINVAL)

    def call(place: Value) -> Value:
        b.store(pair, place)
        b.store(pair.offset(8), Constant(I64, _MASK_SIZE))
        return m.make(number, (*given, pair.from_pointer()))

    return with_mask(m, mask.value, call)
