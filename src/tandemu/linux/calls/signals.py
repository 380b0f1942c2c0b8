"""System calls on signals."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NoReturn

from tandemu.linux.calls.helpers import signed
from tandemu.linux.host import UNBLOCKABLE
from tandemu.linux.signals import SIGSEGV
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_ACTION = struct.Struct("<QQQ")
_KNOWN_FLAGS = 0xD8000007


@calls.row("rt_sigaction", "sig ptr ptr size", native=True)
def _rt_sigaction(task: Task, signal: int, new: int, old: int, size: int) -> int:
    """The rest of it: another action for SIGSEGV or SIGBUS."""
    signal = signed(signal)
    memory, state = task.memory, task.kernel.signals
    action = state.actions[signal]
    before = action.handler, action.flags, action.mask
    handler, flags, mask = _ACTION.unpack(memory.read(new, _ACTION.size))
    action.handler, action.flags, action.mask = handler, flags & _KNOWN_FLAGS, mask & ~UNBLOCKABLE
    state.catch_access(task, signal)
    if old:
        memory.write(old, _ACTION.pack(*before))
    return 0


@calls.row("rt_sigreturn", native=True)
def _rt_sigreturn(task: Task) -> NoReturn:
    """The rest of it: a frame that cannot be read."""
    place = task.kernel.architecture.stack_pointer(task.state)
    task.kernel.die(task, SIGSEGV, place)


for _name, _arguments in (
    ("rt_sigprocmask", "int ptr ptr size"),
    ("rt_sigpending", "ptr size"),
    ("sigaltstack", "ptr ptr"),
    ("kill", "pid sig"),
    ("tkill", "pid sig"),
    ("tgkill", "pid pid sig"),
    ("rt_sigqueueinfo", "pid sig ptr"),
    ("rt_tgsigqueueinfo", "pid pid sig ptr"),
    ("pidfd_send_signal", "fd sig ptr hex"),
):
    calls.direct(_name, _arguments)
calls.direct("rt_sigsuspend", "ptr size", restarts=False)
calls.direct("rt_sigtimedwait", "ptr ptr ptr size", restarts=False)

calls.refuse("restart_syscall", "interrupted calls are made again as they were")
