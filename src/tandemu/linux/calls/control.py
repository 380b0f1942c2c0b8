"""System calls with which a process controls itself: prctl, personality, seccomp."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NoReturn

from tandemu.linux import host, seccomp
from tandemu.linux.calls.helpers import for_host, signed
from tandemu.linux.errors import ProgramEnded
from tandemu.linux.host import NUMBERS
from tandemu.linux.mappings import MAP_PRIVATE, Mapping
from tandemu.linux.seccomp import BadFilterError, Restrictions
from tandemu.linux.signals import SIGKILL, SIGSYS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.task import Task

calls = Calls()

# prctl ----------------------------------------------------------------------------------

_HOSTS_NUMBERS = frozenset((
    # PDEATHSIG, DUMPABLE, KEEPCAPS, TIMING, CAPBSET, SECUREBITS, TIMERSLACK, PERF_EVENTS,
    # MCE_KILL, CHILD_SUBREAPER, NO_NEW_PRIVS, THP_DISABLE, CAP_AMBIENT, SPECULATION_CTRL,
    # IO_FLUSHER, MEMORY_MERGE, PTRACER.
    1, 3, 4, 7, 8, 13, 14, 23, 24, 27, 28, 29, 30, 31, 32, 33, 34, 36, 38, 39, 41, 42, 47,
    52, 53, 57, 58, 67, 68, 0x59616D61,
))  # fmt: skip
_HOSTS_POINTERS = frozenset((2, 15, 16, 37))
"""GET_PDEATHSIG, the name, GET_CHILD_SUBREAPER: the second argument is a pointer."""
_GET_SECCOMP, _SET_SECCOMP, _SET_MM, _GET_TID_ADDRESS = 21, 22, 35, 40
_SCHED_CORE, _SET_MDWE, _GET_MDWE = 62, 65, 66
_ICACHE_CONTEXT, _SET_VMA, _GET_AUXV = 71, 0x53564D41, 0x41555856
_TEXTS = range(8, 12)
"""PR_SET_MM_ARG_START … PR_SET_MM_ENV_END: the others would be of the translator's memory."""
_NAME_LENGTH = 80
_REFUSE_GAIN, _NO_INHERIT = 1, 2


@calls.row("prctl", "int hex hex hex hex", missing="what RISC-V has not, SYSCALL_USER_DISPATCH")
def _prctl(task: Task, command: int, a: int, b: int, c: int, d: int) -> int:
    command, kernel, memory = signed(command), task.kernel, task.memory
    number = NUMBERS["prctl"]
    if command in _HOSTS_NUMBERS:
        return host.call(number, command, a, b, c, d)
    if command in _HOSTS_POINTERS:
        return host.call(number, command, for_host(memory, a), b, c, d)
    if command == _SCHED_CORE:
        return host.call(number, command, a, b, c, for_host(memory, d) if d else 0)
    if command == _GET_TID_ADDRESS:
        memory.write_word(a, task.clear_tid)
        return 0
    if command == _GET_SECCOMP:
        return task.restrictions.mode if task.restrictions else 0
    if command == _SET_SECCOMP:
        if a == 1:
            return _become_strict(task)
        return _install(task, 0, b) if a == 2 else -errno.EINVAL
    if command == _SET_MM:
        if a not in _TEXTS or c or d:
            return -errno.EINVAL
        return host.call(number, command, a, for_host(memory, b), c, d)
    if command in (_SET_MDWE, _GET_MDWE):
        return _deny_write_execute(task, command, a, b, c, d)
    if command == _ICACHE_CONTEXT:
        # fence.i is obeyed wherever the thread runs: there is nothing to be told.
        return 0 if signed(a) in (0, 1) and signed(b) in (0, 1) else -errno.EINVAL
    if command == _SET_VMA:
        return -errno.EINVAL if a else _name_mapping(task, b, c, d)
    if command == _GET_AUXV:
        if c or d:
            return -errno.EINVAL
        memory.write(a, kernel.image.auxiliary[:b])
        return len(kernel.image.auxiliary)
    return -errno.EINVAL


def _deny_write_execute(task: Task, command: int, a: int, b: int, c: int, d: int) -> int:
    memory = task.memory
    if b or c or d:
        return -errno.EINVAL
    if command == _GET_MDWE:
        return -errno.EINVAL if a else memory.denies_write_execute
    if a & ~(_REFUSE_GAIN | _NO_INHERIT) or a == _NO_INHERIT:
        return -errno.EINVAL
    if memory.denies_write_execute not in (0, a):
        return -errno.EPERM
    memory.denies_write_execute = a
    return 0


def _name_mapping(task: Task, start: int, size: int, name: int) -> int:
    """PR_SET_VMA_ANON_NAME: anonymous memory gets a name in /proc/self/maps."""
    memory = task.memory
    text = None
    if name:
        data = memory.read_string(name, _NAME_LENGTH)
        if len(data) >= _NAME_LENGTH or any(
            byte < 0x20 or byte > 0x7E or byte in b"\\`$[]" for byte in data
        ):
            return -errno.EINVAL
        text = data.decode()
    end = start + (size + 4095 & -4096)
    if start % 4096 or end > 1 << 64:
        return -errno.EINVAL
    done = start
    with task.kernel.memory_lock:
        for piece in memory.pieces(start, end):
            if piece.start != done:
                return -errno.ENOMEM
            done = piece.end
            if not _is_anonymous(piece):
                return -errno.EBADF
            memory.cut(piece.start, piece.end)
            piece.name = "" if text is None else f"[anon:{text}]"
            memory.add(piece)
    return 0 if done == end else -errno.ENOMEM


def _is_anonymous(piece: Mapping) -> bool:
    return piece.name[:1] != "/" and piece.flags == MAP_PRIVATE


# personality ----------------------------------------------------------------------------

_QUERY = 0xFFFFFFFF
_TRANSLATORS = 0x0800000 | 0x8000000 | 0x0400000
"""ADDR_LIMIT_32BIT, ADDR_LIMIT_3GB, READ_IMPLIES_EXEC: they would bind the translator's memory."""


@calls.row("personality", "hex", missing="its effects on addresses")
def _personality(task: Task, wanted: int) -> int:
    kernel = task.kernel
    before = kernel.personality
    wanted &= _QUERY
    if wanted != _QUERY:
        kernel.personality = wanted
        host.call(NUMBERS["personality"], wanted & ~_TRANSLATORS)
    return before


# seccomp --------------------------------------------------------------------------------

_STRICT, _FILTER, _ACTION_AVAILABLE, _SIZES = 0, 1, 2, 3
_TSYNC, _LOG, _SPEC_ALLOW, _TSYNC_ESRCH = 1, 2, 4, 16
_GET_NO_NEW_PRIVS = 39
_PROGRAM = struct.Struct("<H6xQ")
"""struct sock_fprog."""
_INSTRUCTION_SIZE = 8
_MOST_ERRNO = 4095
_SYS_SECCOMP = 1
_SYSTEM_CALL_DETAILS = struct.Struct("<iiiiQiI")
"""siginfo_t of SIGSYS: signal, errno, code, address, number, architecture."""


@calls.row("seccomp", "int hex ptr", missing="listeners")
def _seccomp(task: Task, operation: int, flags: int, argument: int) -> int:
    operation, flags = operation & _QUERY, flags & _QUERY
    if operation == _STRICT:
        return -errno.EINVAL if flags or argument else _become_strict(task)
    if operation == _FILTER:
        return _install(task, flags, argument)
    if operation == _ACTION_AVAILABLE:
        if flags:
            return -errno.EINVAL
        action = task.memory.read_word(argument, 4)
        return 0 if action in seccomp.ACTIONS else -errno.EOPNOTSUPP
    return -errno.EINVAL


def _become_strict(task: Task) -> int:
    restrictions = task.restrictions
    if restrictions is not None and not restrictions.strict:
        return -errno.EINVAL
    numbers = task.kernel.architecture.numbers
    allowed = frozenset(numbers[name] for name in ("read", "write", "exit", "rt_sigreturn"))
    task.restrictions = Restrictions(_audit_number(task), (), strict=allowed)
    task.kernel.watch_calls(_decide)
    return 0


def _audit_number(task: Task) -> int:
    """AUDIT_ARCH_*: 64 bits, little-endian."""
    return 0xC0000000 | task.kernel.architecture.machine


def _install(task: Task, flags: int, address: int) -> int:
    kernel, memory = task.kernel, task.memory
    if flags & ~(_TSYNC | _LOG | _SPEC_ALLOW | _TSYNC_ESRCH) or (
        flags & _TSYNC_ESRCH and not flags & _TSYNC
    ):
        return -errno.EINVAL
    count, place = _PROGRAM.unpack(memory.read(address, _PROGRAM.size))
    if not 0 < count <= seccomp.MOST_INSTRUCTIONS:
        return -errno.EINVAL
    if host.call(NUMBERS["prctl"], _GET_NO_NEW_PRIVS) != 1 and not host.has_capability(
        host.CAP_SYS_ADMIN
    ):
        return -errno.EACCES
    try:
        program = seccomp.parse(memory.read(place, count * _INSTRUCTION_SIZE))
    except BadFilterError:
        return -errno.EINVAL
    before = task.restrictions
    if before is not None and before.strict:
        return -errno.EINVAL
    base = before or Restrictions(_audit_number(task), ())
    if flags & _TSYNC:
        for other in kernel.tasks:
            theirs = other.restrictions.filters if other.restrictions else ()
            if theirs != base.filters[: len(theirs)]:
                return -errno.ESRCH if flags & _TSYNC_ESRCH else other.tid
    task.restrictions = base.with_filter(program)
    if flags & _TSYNC:
        for other in kernel.tasks:
            other.restrictions = task.restrictions
    kernel.watch_calls(_decide)
    return 0


def _decide(task: Task, number: int) -> int | None:
    """What the thread's filters make of call *number*; None lets it be made."""
    restrictions, kernel = task.restrictions, task.kernel
    if restrictions is None:
        return None
    state, architecture = task.state, kernel.architecture
    first = architecture.first_register
    said = restrictions.always(number)
    if said is None:
        said = restrictions.answer(number, state.pc, state.x[first : first + 6])
    action, data = said & 0xFFFF0000, said & 0xFFFF
    if action in (seccomp.ALLOW, seccomp.LOG):
        return None
    if action == seccomp.ERRNO:
        return -min(data, _MOST_ERRNO)
    if action in (seccomp.TRACE, seccomp.USER_NOTIFICATION):
        # Nobody traces, nobody listens.
        return -errno.ENOSYS
    if action == seccomp.TRAP:
        details = _SYSTEM_CALL_DETAILS.pack(
            SIGSYS, data, _SYS_SECCOMP, 0, state.pc, signed(number), restrictions.architecture
        ).ljust(128, b"\0")
        # The registers are as they were before the call, which its handler may answer.
        task.force(SIGSYS, details, state.pc)
        return seccomp.TRAP
    _kill(task, action != seccomp.KILL_THREAD, SIGKILL if restrictions.strict else SIGSYS)


def _kill(task: Task, whole_process: bool, signal: int) -> NoReturn:
    if whole_process or len(task.kernel.tasks) == 1:
        task.kernel.die(task, signal)
    raise ProgramEnded


# Keys and security modules --------------------------------------------------------------

calls.direct("add_key", "str str in size int")
calls.direct("request_key", "str str str int")
calls.direct("lsm_get_self_attr", "int ptr ptr hex")
calls.direct("lsm_set_self_attr", "int ptr int hex")
calls.direct("lsm_list_modules", "ptr ptr hex")

_KEY_POINTERS: dict[int, tuple[int, ...]] = {
    **dict.fromkeys((0, 3, 4, 5, 7, 8, 9, 13, 14, 15, 16, 18, 19, 21, 22, 30, 32), ()),
    **dict.fromkeys((2, 6, 11, 12, 17), (1,)),
    **dict.fromkeys((10, 29), (1, 2)),
    **dict.fromkeys((1, 31), (0,)),
}
"""Which arguments of a keyctl command are pointers; to structures with pointers there is no way."""


@calls.row("keyctl", "int hex hex hex hex", missing="KEYCTL_INSTANTIATE_IOV, DH_COMPUTE, PKEY")
def _keyctl(task: Task, command: int, *given: int) -> int:
    pointers = _KEY_POINTERS.get(signed(command))
    if pointers is None:
        return -errno.EOPNOTSUPP
    values = [
        for_host(task.memory, value) if index in pointers and value else value
        for index, value in enumerate(given)
    ]
    return host.call(NUMBERS["keyctl"], command, *values)
