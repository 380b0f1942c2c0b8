"""execve's other half: one program goes, another comes, in the same process.

The kernel ends the other threads of a process that starts a program, and gives the thread that
is left the number of the process. Here the new program runs on the thread with that number: the
one that the process began with, which waits for this if it is over.
"""

from __future__ import annotations

import _thread
import os
from typing import TYPE_CHECKING, NoReturn

from tandemu.linux import clone, host
from tandemu.linux.errors import ImageReplaced, LinuxError, ProgramEnded
from tandemu.linux.host import NUMBERS

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel
    from tandemu.linux.task import Task

_SIGKILL = 9
_KICK_AGAIN_S = 0.002


class Program:
    """A program that is to be started: a file that may be executed, and what it is told."""

    __slots__ = ("arguments", "descriptor", "environment", "name", "path")

    def __init__(
        self, descriptor: int, name: bytes, arguments: list[bytes], environment: list[bytes]
    ) -> None:
        self.descriptor = descriptor
        self.name = name
        """What execve was asked for."""
        self.path = os.readlink(f"/proc/self/fd/{descriptor}")
        self.arguments, self.environment = arguments, environment


def replace(task: Task, program: Program) -> NoReturn:
    """Start *program*: there is no way back."""
    kernel = task.kernel
    end_others(kernel, task)
    if task.tid != os.getpid():
        # The thread that the process began with does the rest.
        program.descriptor = os.dup(program.descriptor)
        leader = kernel.leader
        leader.native.mask = task.mask
        leader.restrictions = task.restrictions
        kernel.tasks.append(leader)
        kernel.succession = program
        kernel.leader_wakes.release()
        raise ProgramEnded
    load(task, program)
    raise ImageReplaced


def end_others(kernel: Kernel, task: Task) -> None:
    """End all threads but *task*, and wait until they are over."""
    while True:
        others = [other for other in kernel.tasks if other is not task]
        if not others:
            return
        for other in others:
            other.ending = True
            other.kick()
        kernel.thread_ended.acquire(timeout=_KICK_AGAIN_S)


def load(task: Task, program: Program) -> None:
    """Give the process *program*; *task* is its only thread."""
    with task.kernel.limits.room():
        _load(task, program)


def _load(task: Task, program: Program) -> None:
    kernel = task.kernel
    kernel.release_robust(task)
    kernel.offspring.start_program()
    if kernel.spawn is not None:
        kernel.spawn.give_back(done=True)
        kernel.spawn = None
    host.quick(NUMBERS["unshare"], clone.CLONE_FILES)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in kernel.descriptors and descriptor != program.descriptor:
            flags = host.quick(NUMBERS["fcntl"], descriptor, 1)
            if flags > 0 and flags & 1:
                host.call(NUMBERS["close"], descriptor)
    kernel.signals.reset(task)
    task.robust_list = task.clear_tid = 0
    with kernel.memory_lock:
        kernel.memory.clear()
    kernel.memory.has_one_thread = True
    try:
        kernel.load(
            program.descriptor, program.path, program.arguments, program.environment, program.name
        )
    except (LinuxError, OSError):
        kernel.die(task, _SIGKILL)
    kernel.start(task)


def lead(kernel: Kernel, task: Task) -> NoReturn:
    """What the thread that the process began with does: run, then wait for its next program."""
    kernel.leader = task
    while True:
        kernel.run_thread(task)
        # Others run on: what ends the process is theirs, or they start a program.
        kernel.leader_wakes.acquire()
        program = kernel.succession
        assert program is not None
        kernel.succession = None
        while any(other is not task for other in kernel.tasks):
            kernel.thread_ended.acquire(timeout=_KICK_AGAIN_S)
        task.revive(kernel.new_cpu())
        load(task, program)
        os.close(program.descriptor)


def new_lock() -> _thread.LockType:
    """A lock that is held: who wants it waits to be woken."""
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock
