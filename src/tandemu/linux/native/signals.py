"""The host's signal handlers of threads that run guest code.

struct ucontext and its gregs: Linux, x86-64, asm/sigcontext.h.
"""

from __future__ import annotations

from tandemu.ir import I32, I64, PTR, Builder, Function
from tandemu.ir.operations import INTERRUPTIBLE_END, INTERRUPTIBLE_SIZE
from tandemu.ir.values import emit_effect
from tandemu.linux.native.layout import THREAD

_REGISTERS, _RIP = 40, 16


def build_handle_kick() -> Function:
    """handle_kick(signal, info, context): have a call not begun that was about to be made.

    Whoever kicks has set the word at the thread's `request` before.
    """
    b = Builder("handle_kick", [("signal", I32), ("info", PTR), ("context", PTR)])
    pointer = emit_effect("thread_pointer", builder=b)
    assert pointer is not None
    thread = b.struct(THREAD, pointer)
    place = b.context.offset(_REGISTERS + 8 * _RIP)
    distance = thread.not_begun - b.load(place, I64)
    with b.If((distance - INTERRUPTIBLE_END).ule(INTERRUPTIBLE_SIZE - INTERRUPTIBLE_END)):
        b.store(place, thread.not_begun)
    b.Return()
    return b.finish()
