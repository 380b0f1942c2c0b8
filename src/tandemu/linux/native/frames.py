"""What the frames of signal handlers have in common: siginfo and the head of a ucontext.

Linux: include/uapi/asm-generic/ucontext.h, and asm/ucontext.h of the architectures that leave room
for a larger mask behind it. What follows at `CONTEXT` is an architecture's own.
"""

from __future__ import annotations

from tandemu.bits import U32, U64, Layout
from tandemu.ir import I32, I64, Builder, Value
from tandemu.linux.native.layout import INFORMATION_SIZE

AlternateStack = tuple[Value, Value, Value]
"""Its address, flags and size."""

_HEAD = Layout(
    "ContextHead",
    flags=U64, link=U64, stack=U64, stack_flags=U32, pad=U32, stack_size=U64, mask=U64,
)  # fmt: skip
_MASK_ROOM = 120
CONTEXT = INFORMATION_SIZE + (_HEAD.size + _MASK_ROOM + 15 & -16)
"""Where a frame has the registers (struct sigcontext)."""


def begin_frame(
    b: Builder, frame: Value, size: int, information: Value, alternate: AlternateStack, mask: Value
) -> None:
    """Clear the *size* bytes at *frame* and write all that stands before `CONTEXT`."""
    b.fill(frame, 0, size)
    b.copy(frame, information, INFORMATION_SIZE)
    head = b.struct(_HEAD, frame.offset(INFORMATION_SIZE))
    head.stack, head.stack_size, head.mask = alternate[0], alternate[2], mask
    head.stack_flags = alternate[1].trunc(I32)


def read_head(b: Builder, frame: Value) -> tuple[Value, AlternateStack]:
    """The mask and the alternate stack that a frame says are to be restored."""
    head = b.struct(_HEAD, frame.offset(INFORMATION_SIZE))
    return head.mask, (head.stack, head.stack_flags.zext(I64), head.stack_size)
