"""System calls that make processes and threads."""

from __future__ import annotations

import contextlib
import errno
import struct
from typing import TYPE_CHECKING

from tandemu.accel.user import NOT_BEGUN
from tandemu.linux import clone, host
from tandemu.linux.clone import (
    CLONE_CHILD_CLEARTID,
    CLONE_CHILD_SETTID,
    CLONE_CLEAR_SIGHAND,
    CLONE_DETACHED,
    CLONE_FILES,
    CLONE_FS,
    CLONE_INTO_CGROUP,
    CLONE_PARENT,
    CLONE_PARENT_SETTID,
    CLONE_PIDFD,
    CLONE_SETTLS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
    NEW_NAMESPACES,
    Wish,
)
from tandemu.linux.host import NUMBERS, PAGE
from tandemu.linux.signals import SIGNALS
from tandemu.linux.spawn import Rendezvous, Spawn, wait_for_child
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

_SIGNAL_MASK = 0xFF
_LEAST_ARGUMENTS, _MOST_NUMBERS = 64, 32
_CLONE_ARGS = struct.Struct("<11Q")
_PIDFD_THREAD = 0o200
_SHAREABLE = CLONE_FILES | CLONE_FS | CLONE_SYSVSEM
_KNOWN_TO_CLONE3 = (1 << 34) - 1


class _Request:
    """What clone or clone3 was asked for."""

    def __init__(self, flags: int, signal: int, stack: int, tls: int) -> None:
        self.flags, self.signal, self.stack, self.tls = flags, signal, stack, tls
        self.pidfd = self.parent_tid = self.child_tid = 0
        self.numbers: tuple[int, ...] = ()
        self.cgroup = 0


@calls.row(
    "clone",
    "hex hex ptr hex ptr",
    native=True,
    missing="namespaces, CLONE_VM without CLONE_THREAD or CLONE_VFORK",
)
def _clone(task: Task, flags: int, stack: int, parent_tid: int, tls: int, child_tid: int) -> int:
    flags &= 0xFFFFFFFF
    request = _Request(flags & ~_SIGNAL_MASK, flags & _SIGNAL_MASK, stack, tls)
    request.pidfd = request.parent_tid = parent_tid
    request.child_tid = child_tid
    if flags & CLONE_PIDFD and flags & (CLONE_PARENT_SETTID | CLONE_DETACHED):
        return -errno.EINVAL
    return _create(task, request)


@calls.row("clone3", "ptr size", missing="as clone")
def _clone3(task: Task, place: int, size: int) -> int:
    memory = task.memory
    if size > PAGE:
        return -errno.E2BIG
    if size < _LEAST_ARGUMENTS:
        return -errno.EINVAL
    data = memory.read(place, size).ljust(_CLONE_ARGS.size, b"\0")
    if any(data[_CLONE_ARGS.size :]):
        return -errno.E2BIG
    (
        flags, pidfd, child_tid, parent_tid, signal, stack, stack_size, tls, numbers, count, cgroup,
    ) = _CLONE_ARGS.unpack_from(data)  # fmt: skip
    if count > _MOST_NUMBERS or bool(numbers) != bool(count):
        return -errno.EINVAL
    if signal & ~_SIGNAL_MASK or signal > SIGNALS:
        return -errno.EINVAL
    if flags & CLONE_INTO_CGROUP and (cgroup > 0x7FFFFFFF or size < _CLONE_ARGS.size):
        return -errno.EINVAL
    request = _Request(flags, signal, stack, tls)
    if count:
        request.numbers = struct.unpack(f"<{count}i", memory.read(numbers, 4 * count))
    if flags & ~_KNOWN_TO_CLONE3 or flags & (CLONE_DETACHED | (_SIGNAL_MASK & ~0x80)):
        return -errno.EINVAL
    if flags & CLONE_SIGHAND and flags & CLONE_CLEAR_SIGHAND:
        return -errno.EINVAL
    if flags & (CLONE_THREAD | CLONE_PARENT) and signal:
        return -errno.EINVAL
    if bool(stack) != bool(stack_size) or stack + stack_size > memory.limit:
        return -errno.EINVAL
    request.stack = stack + stack_size
    request.pidfd, request.parent_tid, request.child_tid = pidfd, parent_tid, child_tid
    request.cgroup = cgroup
    return _create(task, request)


def _create(task: Task, request: _Request) -> int:
    flags = request.flags
    if flags & CLONE_THREAD and not flags & CLONE_SIGHAND:
        return -errno.EINVAL
    if flags & CLONE_SIGHAND and not flags & CLONE_VM:
        return -errno.EINVAL
    if flags & NEW_NAMESPACES:
        return -errno.EPERM
    if flags & CLONE_THREAD:
        return _create_thread(task, request)
    if flags & CLONE_VM and not flags & CLONE_VFORK:
        return -errno.EINVAL
    if flags & CLONE_SIGHAND:
        # One table of handlers for two processes there cannot be here.
        return -errno.EINVAL
    return _fork(task, request)


# Threads --------------------------------------------------------------------------------


def _create_thread(task: Task, request: _Request) -> int:
    memory, flags = task.memory, request.flags
    if flags & CLONE_PARENT_SETTID:
        memory.host_address(request.parent_tid, 4)
    if flags & CLONE_PIDFD:
        # A kernel that has no such descriptors says so of the caller as well.
        probe = host.call(NUMBERS["pidfd_open"], task.tid, _PIDFD_THREAD)
        if probe < 0:
            return -errno.EINVAL
        host.call(NUMBERS["close"], probe)

    def ready(child: Task) -> None:
        architecture = task.kernel.architecture
        tls = request.tls if flags & CLONE_SETTLS else None
        architecture.start_thread(child.state, request.stack, tls)
        # A thread of the host shares all of that.
        host.quick(NUMBERS["unshare"], ~flags & _SHAREABLE)
        with contextlib.suppress(OSError):
            if flags & CLONE_PARENT_SETTID:
                memory.write_word(request.parent_tid, child.tid, 4)
            if flags & CLONE_CHILD_SETTID:
                memory.write_word(request.child_tid, child.tid, 4)
        if flags & CLONE_CHILD_CLEARTID:
            child.clear_tid = request.child_tid

    tid = task.kernel.start_thread(task, ready)
    if tid > 0 and flags & CLONE_PIDFD:
        descriptor = host.call(NUMBERS["pidfd_open"], tid, _PIDFD_THREAD)
        memory.write_word(request.pidfd, descriptor, 4)
    return tid


@calls.row("unshare", "hex", missing="namespaces")
def _unshare(task: Task, flags: int) -> int:
    if flags & NEW_NAMESPACES:
        return -errno.EPERM
    if flags & ~(_SHAREABLE | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM):
        return -errno.EINVAL
    if flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) and len(task.kernel.tasks) > 1:
        return -errno.EINVAL
    return host.call(NUMBERS["unshare"], flags & _SHAREABLE)


# Processes ------------------------------------------------------------------------------


def _fork(task: Task, request: _Request) -> int:
    kernel, memory, flags = task.kernel, task.memory, request.flags
    rendezvous = Rendezvous() if flags & CLONE_VFORK else None
    others_run = len(kernel.tasks) > 1
    mask = host.get_mask()
    place = kernel.offspring.reserve()
    wish = Wish(flags, request.signal, request.numbers, request.cgroup)
    # A lock that another thread holds would stay so in the child, the engine's own too.
    with kernel.threads_lock, kernel.memory_lock, kernel.engine.holding_code():
        # Nothing may be delivered in the child before its state is its own.
        host.block_all()
        if task.native.pending:
            # As in a kernel: what is pending comes first, and is not the child's as well.
            host.set_mask(mask)
            return NOT_BEGUN
        # What the child closes of ours would be closed for the parent, too.
        kernel.descriptors.is_shared = bool(flags & CLONE_FILES)
        pid = clone.new_process(wish)
        if pid:
            kernel.descriptors.is_shared = False
            host.set_mask(mask)
    if pid < 0:
        return pid
    if pid == 0:
        try:
            kernel.offspring.begin(place)
            _begin_child(task, request, rendezvous, others_run)
        except BaseException as error:
            kernel.fail(error)
        return 0
    kernel.offspring.born(pid, place)
    kernel.allow_forks()
    if flags & CLONE_PARENT_SETTID:
        with contextlib.suppress(OSError):
            memory.write_word(request.parent_tid, pid, 4)
    if flags & CLONE_PIDFD:
        descriptor = host.call(NUMBERS["pidfd_open"], pid)
        if descriptor >= 0:
            memory.write_word(request.pidfd, descriptor, 4)
    if rendezvous is not None:
        wait_for_child(memory, rendezvous, pid)
    return pid


def _begin_child(
    task: Task, request: _Request, rendezvous: Rendezvous | None, others_run: bool
) -> None:
    kernel, flags = task.kernel, request.flags
    kernel.after_fork(task)
    task.robust_list = 0
    if rendezvous is not None:
        is_copy = not flags & CLONE_VM
        kernel.spawn = Spawn(kernel, rendezvous, is_copy=is_copy, others_run=others_run)
    if flags & CLONE_CLEAR_SIGHAND:
        kernel.signals.reset(task)
    tls = request.tls if flags & CLONE_SETTLS else None
    kernel.architecture.start_thread(task.state, request.stack, tls)
    task.clear_tid = request.child_tid if flags & CLONE_CHILD_CLEARTID else 0
    if flags & CLONE_CHILD_SETTID:
        with contextlib.suppress(OSError):
            task.memory.write_word(request.child_tid, task.tid, 4)
    kernel.descriptors.is_shared = False
    kernel.allow_forks()
    task.refresh_host_mask()
