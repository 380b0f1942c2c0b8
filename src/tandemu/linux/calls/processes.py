"""System calls on processes and threads."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import TYPE_CHECKING, NoReturn

from tandemu.linux import host
from tandemu.linux.calls.helpers import pointer, signed
from tandemu.linux.elf import ElfFile
from tandemu.linux.errors import ImageReplaced, LinuxError, ProgramEnded
from tandemu.linux.host import NUMBERS, HostFault, bit
from tandemu.linux.limits import STACK
from tandemu.linux.loader import MOST_ARGUMENTS, MOST_TEXT, check_arguments
from tandemu.linux.paths import Spawn, take_back
from tandemu.linux.signals import SIGCHLD, SIGNALS
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel
    from tandemu.linux.task import Task

calls = Calls()

_VM, _VFORK, _PARENT, _THREAD = 0x100, 0x4000, 0x8000, 0x10000
_SETTLS, _PARENT_SETTID, _CHILD_CLEARTID, _CHILD_SETTID = 0x80000, 0x100000, 0x200000, 0x1000000
_PIDFD, _CLEAR_SIGHAND, _INTO_CGROUP = 0x1000, 1 << 32, 1 << 33
_SIGHAND, _FS, _FILES, _SYSVSEM = 0x800, 0x200, 0x400, 0x40000
_NEW_NAMESPACES = 0x7E020080
_THREAD_NEEDS = _VM | _SIGHAND
_CLONE_ARGS = struct.Struct("<8Q")
_SHEBANG_DEPTH = 4
_BY_DESCRIPTOR = "/proc/self/fd/"


# Creating -------------------------------------------------------------------------------


@calls.row(
    "clone",
    "hex hex ptr hex ptr",
    missing="namespaces, CLONE_VM without CLONE_THREAD or CLONE_VFORK",
)
def _clone(task: Task, flags: int, stack: int, parent_tid: int, tls: int, child_tid: int) -> int:
    return _create(task, flags & ~0xFF, flags & 0xFF, stack, parent_tid, tls, child_tid, 0)


@calls.row("clone3", "ptr size", missing="as clone; set_tid, cgroups")
def _clone3(task: Task, place: int, size: int) -> int:
    if not 64 <= size <= 4096:
        return -errno.EINVAL
    data = task.memory.read(place, size)
    flags, pidfd, child_tid, parent_tid, signal, stack, stack_size, tls = _CLONE_ARGS.unpack(
        data[:64]
    )
    if any(data[64:]) or flags & _INTO_CGROUP:
        return -errno.EINVAL
    if stack:
        stack += stack_size
    return _create(task, flags, signal, stack, parent_tid, tls, child_tid, pidfd)


def _create(
    task: Task, flags: int, signal: int, stack: int, parent_tid: int, tls: int, child_tid: int,
    pidfd: int,
) -> int:  # fmt: skip
    if flags & _NEW_NAMESPACES:
        return -errno.EPERM
    if flags & _THREAD:
        if flags & _THREAD_NEEDS != _THREAD_NEEDS:
            return -errno.EINVAL
        return _create_thread(task, flags, stack, parent_tid, tls, child_tid)
    if flags & _VM and not flags & _VFORK:
        return -errno.EINVAL
    if flags & _PARENT or signal not in (0, SIGCHLD):
        return -errno.EINVAL
    return _fork(task, flags, stack, parent_tid, tls, child_tid, pidfd)


def _create_thread(
    task: Task, flags: int, stack: int, parent_tid: int, tls: int, child_tid: int
) -> int:
    memory = task.memory
    if flags & _PARENT_SETTID:
        memory.host_address(parent_tid, 4)

    def ready(child: Task) -> None:
        architecture = task.kernel.architecture
        architecture.start_thread(child.state, stack, tls if flags & _SETTLS else None)
        try:
            if flags & _PARENT_SETTID:
                memory.write_word(parent_tid, child.tid, 4)
            if flags & _CHILD_SETTID:
                memory.write_word(child_tid, child.tid, 4)
        except OSError:
            pass
        if flags & _CHILD_CLEARTID:
            child.clear_tid = child_tid

    return task.kernel.start_thread(task, ready)


def _fork(
    task: Task, flags: int, stack: int, parent_tid: int, tls: int, child_tid: int, pidfd: int
) -> int:
    kernel, memory = task.kernel, task.memory
    report, reporter = os.pipe2(os.O_CLOEXEC) if flags & _VFORK else (-1, -1)
    mask = host.get_mask()
    # A lock that another thread holds would stay so in the child, the engine's own too.
    with kernel.threads_lock, kernel.memory_lock:
        # Nothing may be delivered in the child before its state is its own.
        host.set_mask(kernel.signals.host_mask((1 << 64) - 1))
        try:
            pid = os.fork()
        except OSError as error:
            if reporter >= 0:
                os.close(report)
                os.close(reporter)
            return -(error.errno or errno.EAGAIN)
        finally:
            host.set_mask(mask)
    if pid == 0:
        try:
            kernel.after_fork(task)
            if kernel.spawn is not None:
                kernel.spawn.close()
                kernel.spawn = None
            if flags & _VFORK:
                os.close(report)
                sp = kernel.architecture.stack_pointer(task.state)
                kernel.spawn = Spawn(kernel.descriptors, reporter, memory, sp)
            kernel.architecture.start_thread(task.state, stack, tls if flags & _SETTLS else None)
            task.clear_tid = child_tid if flags & _CHILD_CLEARTID else 0
            if flags & _CHILD_SETTID:
                memory.write_word(child_tid, os.getpid(), 4)
        except OSError:
            pass
        except BaseException as error:
            kernel.fail(error)
        return 0
    if flags & _PARENT_SETTID:
        memory.write_word(parent_tid, pid, 4)
    if flags & _PIDFD:
        descriptor = host.call(NUMBERS["pidfd_open"], pid)
        if descriptor >= 0:
            memory.write_word(pidfd or parent_tid, descriptor, 4)
    if flags & _VFORK:
        os.close(reporter)
        data = b""
        while part := os.read(report, 65536):
            data += part
        os.close(report)
        if data:
            take_back(memory, data)
    return pid


# Another program ------------------------------------------------------------------------


def _strings(task: Task, address: int) -> list[bytes]:
    """The zero-terminated array of strings at *address*."""
    memory = task.memory
    found: list[bytes] = []
    if not address:
        return found
    total = 0
    while True:
        size = min(4096 - address % 4096, 512) & -8 or 8
        for (word,) in struct.iter_unpack("<Q", memory.read(address, size)):
            if not word:
                return found
            try:
                text = memory.read_string(word, MOST_TEXT)
            except HostFault:
                raise
            except OSError:
                raise OSError(errno.E2BIG, "an argument is too long") from None
            total += len(text) + 9
            found.append(text)
            if total > MOST_ARGUMENTS:
                raise OSError(errno.E2BIG, "too many arguments")
        address += size


def _script(head: bytes, path: bytes, arguments: list[bytes]) -> tuple[bytes, list[bytes]]:
    """The interpreter of a script and its arguments."""
    line = head[2:].split(b"\n", 1)[0].strip(b" \t")
    words = line.split(None, 1)
    if not words:
        raise OSError(errno.ENOEXEC, "no interpreter")
    rest = [words[1].strip(b" \t")] if len(words) > 1 else []
    return words[0], [words[0], *rest, path, *arguments[1:]]


@calls.row("execve", "path ptr ptr")
def _execve(task: Task, path: int, arguments: int, environment: int) -> int:
    memory = task.memory
    return _execute(
        task, memory.read_string(path), _strings(task, arguments), _strings(task, environment)
    )


@calls.row("execveat", "dirfd path ptr ptr hex")
def _execveat(
    task: Task, directory: int, path: int, arguments: int, environment: int, flags: int
) -> int:
    name = task.memory.read_string(path)
    number = signed(directory)
    if not name and flags & 0x1000:
        name = b"/proc/self/fd/%d" % number
    elif name[:1] != b"/" and number != -100:
        name = b"/proc/self/fd/%d/%s" % (number, name)
    return _execute(task, name, _strings(task, arguments), _strings(task, environment))


def _execute(task: Task, path: bytes, arguments: list[bytes], environment: list[bytes]) -> int:
    kernel = task.kernel
    arguments = arguments or [b""]
    execfn = path
    for _ in range(_SHEBANG_DEPTH):
        if kernel.files.own_file(path) == "exe":
            path = os.fsencode(kernel.image.path)
        found = kernel.files.resolve(os.fsdecode(path))
        if not os.access(found, os.X_OK, effective_ids=True) or os.path.isdir(found):
            os.stat(found)  # Raises what is the matter, if it is not the permission.
            return -errno.EACCES
        descriptor = os.open(found, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.pread(descriptor, 256, 0)
            if head[:2] == b"#!":
                path, arguments = _script(head, path, arguments)
                continue
            if head[:4] != b"\x7fELF":
                return -errno.ENOEXEC
            foreign = len(head) >= 20 and head[18:20] == kernel.architecture.machine.to_bytes(
                2, "little"
            )
            if not foreign:
                return _execute_native(kernel, task, found, arguments, environment)
            try:
                check_arguments(arguments, environment, kernel.limits.get(STACK)[0])
                elf = ElfFile(descriptor, found)
                if elf.interpreter:
                    os.stat(kernel.files.resolve(elf.interpreter))
            except LinuxError as error:
                return -error.code
            if found.startswith(_BY_DESCRIPTOR):
                # A descriptor that closes on exec is gone by then; its file has a name, mostly.
                name = os.readlink(f"{_BY_DESCRIPTOR}{descriptor}")
                found = name if os.path.exists(name) else found
            _replace(task, descriptor, found, execfn, arguments, environment)
        finally:
            os.close(descriptor)
    return -errno.ELOOP


def _array(texts: list[bytes]) -> tuple[ctypes.Array[ctypes.c_char_p], int]:
    array = (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
    return array, ctypes.addressof(array)


def _execute_native(
    kernel: Kernel, task: Task, path: str, arguments: list[bytes], environment: list[bytes]
) -> int:
    """A program for this host: its kernel runs it."""
    kept_arguments, argument_place = _array(arguments)
    kept_environment, environment_place = _array(environment)
    name = ctypes.create_string_buffer(os.fsencode(path))
    # Blocked are what the guest blocks; what it handles is at its default.
    for signal in range(1, SIGNALS + 1):
        if kernel.signals.handled & bit(signal):
            host.set_disposition(signal, 0)
    host.set_mask(task.mask)
    place = ctypes.addressof(name)
    kernel.limits.give_back()
    result = host.call(NUMBERS["execve"], place, argument_place, environment_place)
    kernel.limits.take_back()
    task.refresh_host_mask()
    del kept_arguments, kept_environment
    return result


def _replace(
    task: Task, program: int, path: str, execfn: bytes, arguments: list[bytes],
    environment: list[bytes],
) -> NoReturn:  # fmt: skip
    """Run the foreign program in the descriptor *program* here: there is no way back."""
    kernel = task.kernel
    if not kernel.can_replace(task):
        _start_over(kernel, task, path, arguments, environment)
    if kernel.spawn is not None:
        kernel.spawn.close()
        kernel.spawn = None
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in kernel.descriptors and descriptor != program:
            flags = host.quick(NUMBERS["fcntl"], descriptor, 1)
            if flags > 0 and flags & 1:
                host.call(NUMBERS["close"], descriptor)
    kernel.signals.reset(task)
    task.robust_list = task.clear_tid = 0
    task.saved_mask = None
    with kernel.memory_lock:
        kernel.memory.clear()
    name_buffer = ctypes.create_string_buffer(os.path.basename(os.fsencode(path))[:15], 16)
    host.quick(NUMBERS["prctl"], 15, ctypes.addressof(name_buffer))
    try:
        kernel.load(program, path, arguments, environment, execfn)
    except (LinuxError, OSError):
        kernel.die(task, 9)
    kernel.start(task)
    raise ImageReplaced


def _start_over(
    kernel: Kernel, task: Task, path: str, arguments: list[bytes], environment: list[bytes]
) -> NoReturn:
    """The same by a new process image: other threads are still running in this one."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from tandemu.cli.main import main; main()"
    options = [b"exec", b"--argv0", arguments[0]]
    if kernel.files.sysroot:
        options += [b"-L", os.fsencode(kernel.files.sysroot)]
    if kernel.strace:
        options.append(b"--strace")
    command = [
        os.fsencode(sys.executable), b"-S", b"-c", code.encode(), *options, b"--",
        os.fsencode(path), *arguments[1:],
    ]  # fmt: skip
    _execute_native(kernel, task, sys.executable, command, environment)
    os._exit(127)


# Ending and waiting ---------------------------------------------------------------------


@calls.row("exit", "int")
def _exit(task: Task, status: int) -> NoReturn:
    task.exit_status = status & 0xFF
    raise ProgramEnded


@calls.row("exit_group", "int")
def _exit_group(task: Task, status: int) -> NoReturn:
    task.kernel.exit_group(status)


calls.direct("wait4", "pid ptr hex ptr")
calls.direct("waitid", "int pid ptr hex ptr")


# Identity -------------------------------------------------------------------------------


for _name, _arguments in (
    ("getpid", ""),
    ("getppid", ""),
    ("gettid", ""),
    ("getuid", ""),
    ("geteuid", ""),
    ("getgid", ""),
    ("getegid", ""),
    ("getresuid", "ptr ptr ptr"),
    ("getresgid", "ptr ptr ptr"),
    ("getpgid", "pid"),
    ("getsid", "pid"),
    ("setpgid", "pid pid"),
    ("setsid", ""),
    ("getgroups", "int ptr"),
    ("setgroups", "int ptr"),
    ("setuid", "int"),
    ("setgid", "int"),
    ("setreuid", "int int"),
    ("setregid", "int int"),
    ("setresuid", "int int int"),
    ("setresgid", "int int int"),
    ("setfsuid", "int"),
    ("setfsgid", "int"),
    ("capget", "ptr ptr"),
    ("capset", "ptr ptr"),
    ("getpriority", "int int"),
    ("setpriority", "int int int"),
    ("sched_yield", ""),
    ("sched_getaffinity", "pid size ptr"),
    ("sched_setaffinity", "pid size ptr"),
    ("sched_getscheduler", "pid"),
    ("sched_setscheduler", "pid int ptr"),
    ("sched_getparam", "pid ptr"),
    ("sched_setparam", "pid ptr"),
    ("sched_get_priority_max", "int"),
    ("sched_get_priority_min", "int"),
    ("sched_rr_get_interval", "pid ptr"),
    ("sched_getattr", "pid ptr int int"),
    ("sched_setattr", "pid ptr int"),
    ("ioprio_get", "int int"),
    ("ioprio_set", "int int int"),
    ("pidfd_open", "pid hex"),
    ("pidfd_getfd", "fd fd hex"),
    ("getcpu", "ptr ptr ptr"),
    ("kcmp", "pid pid int long long"),
):
    calls.direct(_name, _arguments)


# Threads --------------------------------------------------------------------------------


@calls.row("set_tid_address", "ptr")
def _set_tid_address(task: Task, address: int) -> int:
    task.clear_tid = address
    return task.tid


@calls.row("set_robust_list", "ptr size", missing="locks shared with other processes")
def _set_robust_list(task: Task, head: int, size: int) -> int:
    if size != 24:
        return -errno.EINVAL
    task.robust_list = head
    return 0


@calls.row("get_robust_list", "pid ptr ptr", missing="of the calling thread only")
def _get_robust_list(task: Task, pid: int, head: int, size: int) -> int:
    if signed(pid) not in (0, task.tid):
        return -errno.EPERM
    task.memory.write_word(head, task.robust_list)
    task.memory.write_word(size, 24)
    return 0


calls.direct("futex", "ptr int int hex ptr int")


_PR_POINTERS = {1: 0, 2: 2, 16: 2, 15: 2, 37: 2, 40: 2}
"""prctl commands whose second argument points to something."""
_PR_ALLOWED = frozenset((1, 3, 4, 7, 8, 27, 28, 29, 30, 36, 38, 39, 23, 24, 25, 26))


@calls.row(
    "prctl", "int hex hex hex hex",
    missing="names, death signal, dumpable, keep-caps, no-new-privs, sub-reaper, slack, caps",
)  # fmt: skip
def _prctl(task: Task, command: int, a: int, b: int, c: int, d: int) -> int:
    command = signed(command)
    if command in (2, 15, 16, 37, 40):
        return host.call(NUMBERS["prctl"], command, pointer(task.memory, a, 16), b, c, d)
    if command in _PR_ALLOWED:
        return host.call(NUMBERS["prctl"], command, a, b, c, d)
    return -errno.EINVAL


calls.refuse(
    "rseq", "the host would write into memory it takes for its own; the C library does without"
)
calls.refuse(
    "ptrace seccomp bpf perf_event_open setns unshare init_module finit_module delete_module "
    "kexec_load kexec_file_load reboot landlock_create_ruleset landlock_add_rule "
    "landlock_restrict_self add_key request_key keyctl futex_waitv futex_wake futex_wait "
    "futex_requeue lsm_get_self_attr lsm_set_self_attr lsm_list_modules rseq_slice_yield "
    "listns",
    "as by a kernel that was built without it",
)
