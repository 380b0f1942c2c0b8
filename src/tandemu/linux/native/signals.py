"""Signals: taken from the host's kernel, given to the guest, in native code.

The host's kernel keeps each guest thread's mask and what is pending; so what is blocked, what
coalesces, which thread gets what is sent to the process, and what signalfd and sigtimedwait
find are its affair. A signal that the guest handles has `handle_signal` for a handler on the
host. That notes it in the thread's structure, blocks all others and asks for the thread's
attention; when the guest has come to rest between two instructions, or its system call has
returned or not been begun, `settle` makes the frame, and the handler's mask is the host's, too.

What the host cannot block (SIGSEGV and SIGBUS, by which refused accesses are told, and the
signal that kicks) is held if the guest blocks it, one of them at a time.

struct ucontext and its gregs: Linux, x86-64, asm/sigcontext.h. What happens when: signal(7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandemu.accel.user import INTERRUPTED, INTERRUPTED_RESTARTS, NOT_BEGUN, REQUEST_SIGNAL
from tandemu.ir import I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.ir.operations import INTERRUPTIBLE_END, INTERRUPTIBLE_SIZE
from tandemu.ir.values import emit_effect
from tandemu.linux.host import (
    KICK_VALUE,
    NEVER_BLOCKED,
    NUMBERS,
    SIGNAL_KICK,
    UNBLOCKABLE,
)
from tandemu.linux.native.guest import GuestAbi
from tandemu.linux.native.layout import (
    ACTION,
    INFORMATION_SIZE,
    PROCESS,
    SIGNAL_DONE,
    SIGNAL_FOR_PYTHON,
    SIGNAL_NO_ROOM,
    SIGNALS,
    THREAD,
)

_REGISTERS, _RIP, _CONTEXT_MASK = 40, 16, 296
_CODE, _VALUE = 8, 24
_SI_QUEUE = -1
_ALL = (1 << 64) - 1
_SET_MASK, _MASK_SIZE = 2, 8
SA_NOCLDSTOP, SA_NOCLDWAIT, SA_SIGINFO = 1, 2, 4
SA_ONSTACK, SA_RESTART, SA_NODEFER, SA_RESETHAND = 0x08000000, 0x10000000, 0x40000000, 0x80000000
SA_RESTORER = 0x04000000
SS_ONSTACK, SS_DISABLE, SS_AUTODISARM = 1, 2, 1 << 31
HOST_ACTION_SIZE = 32


def structures(b: Builder) -> tuple[Any, Any]:
    """The thread and the process of the routine's first parameter."""
    thread = b.struct(THREAD, b.thread)
    process = b.struct(PROCESS, thread.process.to_pointer())
    return thread, process


def signal_bit(signal: Value) -> Value:
    """The bit of *signal* in a mask."""
    return Constant(I64, 1) << ((signal - 1) & (SIGNALS - 1))


def on_alternate(thread: Any, stack: Value) -> Value:
    """Whether the stack pointer is on the alternate stack, as far as the kernel asks."""
    off = (thread.alternate_flags & SS_AUTODISARM) != 0
    inside: Value = ~off & (stack - thread.alternate_start - 1).ult(thread.alternate_size)
    return inside


def build_handle_signal() -> Function:
    """handle_signal(signal, info, context): what the host's kernel calls."""
    b = Builder("handle_signal", [("signal", I32), ("info", PTR), ("context", PTR)])
    pointer = emit_effect("thread_pointer", builder=b)
    assert pointer is not None
    thread = b.struct(THREAD, pointer)
    number = b.signal.zext(I64)
    kicked = (
        (number == SIGNAL_KICK)
        & (b.load(b.info.offset(_CODE), I32) == _SI_QUEUE)
        & (b.load(b.info.offset(_VALUE), I64) == KICK_VALUE)
    )
    with b.If(~kicked):
        # One at a time: the others stay the kernel's until this one has been delivered.
        b.store(b.context.offset(_CONTEXT_MASK), Constant(I64, _ALL & ~NEVER_BLOCKED))
        with b.If(thread.pending == 0):
            thread.pending = number
            b.copy(thread.pointer("information"), b.info, INFORMATION_SIZE)
            b.atomic("or", thread.request.to_pointer(), Constant(I64, REQUEST_SIGNAL))
        with b.Else():
            # It came while a new mask was on its way to the kernel.
            _put_back(b, thread, number, b.info)
    place = b.context.offset(_REGISTERS + 8 * _RIP)
    distance = thread.not_begun - b.load(place, I64)
    with b.If((distance - INTERRUPTIBLE_END).ule(INTERRUPTIBLE_SIZE - INTERRUPTIBLE_END)):
        b.store(place, thread.not_begun)
    b.Return()
    return b.finish()


def build_set_mask() -> Function:
    """set_mask(thread, mask): a new mask, on the host too."""
    b = Builder("set_mask", [("thread", PTR), ("mask", I64)])
    thread, _ = structures(b)
    mask = b.mask & ~UNBLOCKABLE
    thread.mask = mask
    held = thread.held
    allowed = (mask & signal_bit(held)) == 0
    with b.If((held != 0) & (thread.pending == 0) & allowed, likely=False):
        thread.pending, thread.held = held, 0
        b.copy(thread.pointer("information"), thread.pointer("held_information"), 128)
        b.atomic("or", thread.request.to_pointer(), Constant(I64, REQUEST_SIGNAL))
    # While a signal waits for its delivery all are blocked.
    with b.If(thread.pending == 0, likely=True):
        _set_host_mask(b, thread, mask)
    b.Return()
    return b.finish()


def _set_host_mask(b: Builder, thread: Any, mask: Value) -> None:
    thread.word = mask & ~NEVER_BLOCKED
    word = thread.pointer("word").from_pointer()
    b.system_call(NUMBERS["rt_sigprocmask"], _SET_MASK, word, 0, _MASK_SIZE)


def build_enter(set_mask: Function, guest: GuestAbi) -> Function:
    """enter(thread, signal, information) -> SIGNAL_DONE or SIGNAL_NO_ROOM.

    Have the guest's handler run when the guest goes on.
    """
    b = Builder("enter", [("thread", PTR), ("signal", I64), ("information", PTR)], result=I64)
    thread, process = structures(b)
    state = b.struct(guest.REGISTERS, thread.state.to_pointer())
    action = process.actions[b.signal]
    handler, flags, action_mask = action.handler, action.flags, action.mask
    stack = state.x[guest.STACK_POINTER]
    start, size, kind = thread.alternate_start, thread.alternate_size, thread.alternate_flags
    enabled = size != 0
    inside = on_alternate(thread, stack)
    wants = enabled & ~inside & ((flags & SA_ONSTACK) != 0)
    top = b.select(wants, start + size, stack)
    place = (top - guest.FRAME_SIZE) & -16
    # The mask that comes back: the one before a call with a mask of its own.
    mask = b.select(thread.has_saved != 0, thread.saved_mask, thread.mask)
    frame = thread.pointer("area")
    described = (start, kind, size)
    guest.build_frame(b, state, frame, b.information, described, mask)
    host = b.select(place.ult(process.limit), place + process.base, 0)
    left = b.call("copy_guest", host.to_pointer(), frame, guest.FRAME_SIZE, result=I64)
    with b.If((left != 0) | (inside & place.ult(start)), likely=False):
        b.Return(SIGNAL_NO_ROOM)
    thread.has_saved = 0
    with b.If(enabled & ((kind & SS_AUTODISARM) != 0)):
        thread.alternate_start, thread.alternate_size = 0, 0
        thread.alternate_flags = SS_DISABLE
    guest.enter_handler(state, place, handler, b.signal, process.trampoline)
    with b.If((flags & SA_RESETHAND) != 0):
        action.handler = 0
        with b.If((signal_bit(b.signal) & NEVER_BLOCKED) == 0):
            room = thread.pointer("structure")
            b.fill(room, 0, HOST_ACTION_SIZE)
            number = NUMBERS["rt_sigaction"]
            b.system_call(number, b.signal, room.from_pointer(), 0, _MASK_SIZE)
    itself = b.select((flags & SA_NODEFER) != 0, Constant(I64, 0), signal_bit(b.signal))
    b.call(set_mask, b.thread, thread.mask | action_mask | itself)
    b.Return(SIGNAL_DONE)
    return b.finish()


def build_settle(set_mask: Function, enter: Function, guest: GuestAbi) -> Function:
    """settle(thread, result) -> SIGNAL_*: end an interrupted call, deliver what is pending.

    *result* is that of a call that was interrupted or not begun (`accel.user`), or 0. The guest
    stands behind the call then, the register of the first argument is as it was.
    """
    b = Builder("settle", [("thread", PTR), ("result", I64)], result=I64)
    thread, process = structures(b)
    state = b.struct(guest.REGISTERS, thread.state.to_pointer())
    result = b.variable(I64, b.result)
    with b.Loop():
        signal = thread.pending
        action = b.struct(ACTION, process.actions.pointer(signal))
        blocked = (thread.mask & signal_bit(signal)) != 0
        counts = (signal != 0) & ~blocked & (action.handler != 1)
        restarts = ((action.flags & SA_RESTART) != 0) & (result.value == INTERRUPTED_RESTARTS)
        again = (result.value == NOT_BEGUN) | ~counts | restarts
        with b.If(result.value != 0):
            with b.If(again):
                state.pc = state.pc - guest.CALL_SIZE
            with b.Else():
                state.x[guest.RESULT] = Constant(I64, INTERRUPTED_ERROR)
        b.atomic("and", thread.request.to_pointer(), Constant(I64, ~REQUEST_SIGNAL))
        with b.If(counts & (action.handler == 0), likely=False):
            b.Return(SIGNAL_FOR_PYTHON)
        thread.pending = 0
        with b.If(counts):
            status = b.call(enter, b.thread, signal, thread.pointer("information"))
            with b.If(status != SIGNAL_DONE, likely=False):
                thread.pending = signal
                b.Return(status)
        with b.Else():
            with b.If((signal != 0) & blocked):
                _put_back(b, thread, signal, thread.pointer("information"))
            with b.If(thread.has_saved != 0):
                thread.has_saved = 0
                thread.mask = thread.saved_mask
            with b.If((signal != 0) | (result.value != 0)):
                b.call(set_mask, b.thread, thread.mask)
        # The kernel has given us the next one when the mask let it: its handler runs first.
        result.value = 0
        with b.If(thread.pending == 0):
            b.Return(SIGNAL_DONE)
    return b.finish()


INTERRUPTED_ERROR = -4


def _put_back(b: Builder, thread: Any, signal: Value, information: Value) -> None:
    """A signal that is blocked by now waits in the host's kernel, or here if it cannot."""
    with b.If((signal_bit(signal) & NEVER_BLOCKED) != 0):
        thread.held = signal
        b.copy(thread.pointer("held_information"), information, INFORMATION_SIZE)
    with b.Else():
        process = b.system_call(NUMBERS["getpid"])
        number = b.system_call(NUMBERS["gettid"])
        place = information.from_pointer()
        b.system_call(NUMBERS["rt_tgsigqueueinfo"], process, number, signal, place)


SET_MASK = build_set_mask()


def with_mask(m: Any, address: Value, call: Callable[[Value], Value]) -> Value:
    """Make *call* with the signal mask at the guest's *address*, if that is not 0.

    *call* gets the host address of the host's mask, or 0.
    """
    b, thread = m.b, m.thread
    place = b.variable(I64, 0)
    with b.If(address != 0):
        room = thread.pointer("word")
        m.fault_if(~m.read(room, address, _MASK_SIZE))
        wanted = thread.word
        thread.saved_mask, thread.has_saved = thread.mask, 1
        thread.mask = wanted & ~UNBLOCKABLE
        thread.word = wanted & ~NEVER_BLOCKED
        place.value = room.from_pointer()
    result = call(place.value)
    with b.If((address != 0) & (result != INTERRUPTED) & (result != INTERRUPTED_RESTARTS)):
        thread.mask, thread.has_saved = thread.saved_mask, 0
    return result
