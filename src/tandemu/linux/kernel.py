"""The kernel's part for one process: its memory, threads, table of calls, program.

A `Kernel` lives as long as the host process: execve gives it another program, fork
copies it with everything else.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from tandemu.accel.user import UserCpu, UserEngine
from tandemu.linux import clone, host, identity, loader, paths, signals, succession
from tandemu.linux.architecture import Architecture
from tandemu.linux.descriptors import Descriptors
from tandemu.linux.elf import ElfFile
from tandemu.linux.errors import HookFailed, LinuxError, ProgramEnded
from tandemu.linux.host import NUMBERS
from tandemu.linux.limits import STACK, Limits
from tandemu.linux.loader import Image
from tandemu.linux.memory import Memory
from tandemu.linux.native.image import NativeCalls
from tandemu.linux.native.layout import PROCESS
from tandemu.linux.offspring import Offspring
from tandemu.linux.proc.watch import Watch
from tandemu.linux.seccomp import ALLOW, TRAP
from tandemu.linux.signals import Signals
from tandemu.linux.spawn import Spawn
from tandemu.linux.table import Handler, Row
from tandemu.linux.task import Task
from tandemu.linux.trace import Call, describe_call, describe_result

_ENOSYS = -errno.ENOSYS
NO_LIMITS: dict[int, tuple[int, int]] = {}
_FUTEX, _FUTEX_WAKE = NUMBERS["futex"], 1
_NUMBER_LIMIT = 512
_NO_RETURN = frozenset(("exit", "exit_group", "execve", "execveat"))
_MOST_ROBUST = 2048
_FUTEX_TID_MASK, _FUTEX_OWNER_DIED, _FUTEX_WAITERS = 0x3FFFFFFF, 0x40000000, 0x80000000

Hook = Callable[[Call], int | None]
"""Sees every system call before it is made; what it returns, if not None, is the answer."""


Decide = Callable[[Task, int], int | None]
"""What a thread's call of a number is answered with, `seccomp.TRAP` if its registers are set, or
None if it is to be made."""


class Kernel:
    """One guest process."""

    def __init__(
        self,
        engine: UserEngine,
        architecture: Architecture,
        rows: Sequence[Row],
        *,
        sysroot: str = "",
        strace: bool = False,
        count: bool = False,
        profile: bool = False,
        hook: Hook | None = None,
        notice: Callable[[str], None] | None = None,
        limits: Mapping[int, tuple[int, int]] = NO_LIMITS,
    ) -> None:
        self.engine = engine
        engine.descriptors = self.descriptors = Descriptors()
        self.architecture = architecture
        self.native = NativeCalls(rows, architecture.name, engine.copy_routine, notice)
        self.memory = Memory(engine, self.native)
        self.memory_lock = self.memory.lock
        self.limits = Limits(self.memory, limits)
        self.files = paths.Files(self, sysroot)
        self.tasks: list[Task] = []
        self.image = Image("")
        self.arguments: list[bytes] = []
        self.environment: list[bytes] = []
        self.strace = strace
        self.count = count
        self.profile = profile
        self.hook = hook
        self.tell_failure: Callable[[BaseException], None] | None = None
        """Takes an error of ours or of a hook instead of the error output."""
        self.statistics: dict[str, int] = {}
        self._begun_s = time.monotonic()
        self.unknown: dict[int, int] = {}
        self.personality = host.call(NUMBERS["personality"], 0xFFFFFFFF)
        self._decide: Decide | None = None
        self.is_forked = False
        self.spawn: Spawn | None = None
        """Set between vfork and what ends it."""
        self.offspring = Offspring(self.native.process)
        self._gone_threads = 0
        """So many threads Python counts that a fork left behind."""
        engine.take_forks(
            self.native.process_address + PROCESS.offset("is_forked"),
            self.adopt_fork, self.forbid_forks,
        )  # fmt: skip
        self.leader: Task
        """The thread that the process began with; see `succession`."""
        self.leader_wakes = succession.new_lock()
        """Released when the leader, which is over, has a program to run."""
        self.succession: succession.Program | None = None
        """That program."""
        self.thread_ended = succession.new_lock()
        """Released when some thread is over, if nobody has done so."""
        self.image_descriptor = -1
        """The program's file, which may have another name by now, or none."""
        self.threads_lock = _thread.allocate_lock()
        """Held while the engine makes or frees a processor, and by fork: see there."""
        process = self.native.process
        if sysroot:
            process.has_sysroot, process.root = 1, self.files.root
            self._root_name = self.host_string(os.fsencode(self.files.sysroot))
            process.root_name = ctypes.addressof(self._root_name)
            process.root_size = len(self._root_name) - 1
        name = architecture.name.encode()
        process.machine[0 : len(name)] = list(name)
        self.descriptors.tell(process)
        self.settle = self.native.helper("settle", 2)
        self.enter_handler = self.native.helper("enter", 3)
        self.set_mask = self.native.helper("set_mask", 2)
        """Routines of `native.signals`; the first argument is the thread's address."""
        self.signals = Signals(self)
        self.watch = Watch(self)
        self.is_told = False
        """Whether the host's kernel knows where the program's arguments are."""
        self.peaks = 0, 0
        """The most that a program was seen to map and to have in memory, in kB."""
        self._build_table(rows)

    # The table --------------------------------------------------------------------------

    def _build_table(self, rows: Sequence[Row]) -> None:
        numbers = self.architecture.numbers
        self._rows: list[Row | None] = [None] * _NUMBER_LIMIT
        self.functions: list[Handler] = [_unknown] * _NUMBER_LIMIT
        self.counts = [0] * _NUMBER_LIMIT
        for row in rows:
            number = numbers.get(row.name)
            if number is not None:
                self._rows[number] = row
                self.functions[number] = self._first_use(number, row)
                self.counts[number] = row.count
        observed = self.strace or self.count or self.hook is not None
        for number, row_or_none in enumerate(self._rows):
            if row_or_none is None:
                self.functions[number] = self._no_such_call(number)
            elif observed:
                self.functions[number] = self._observed(number, row_or_none)
        if not observed:
            self.engine.make_natively(
                {
                    number: self.native.address(row.name)
                    for number, row in enumerate(self._rows)
                    if row is not None and row.is_native
                }
            )

    def _first_use(self, number: int, row: Row) -> Handler:
        """What binds *row* when it is first called and takes itself out of the way."""

        def first(task: Task, *arguments: int) -> object:
            function = row.bind(self)
            self.functions[number] = function
            return function(task, *arguments)

        return first

    def _observed(self, number: int, row: Row) -> Handler:
        function = row.bind_whole(self)

        def observed(task: Task, *arguments: int) -> object:
            if self.count:
                self.statistics[row.name] = self.statistics.get(row.name, 0) + 1
            call = Call(self.memory, row.name, number, list(arguments), task.tid)
            answer = self._ask(self.hook, call) if self.hook is not None else None
            text = describe_call(row, call.arguments, self.memory) if self.strace else ""
            if self.strace and row.name in _NO_RETURN:
                self._print(task, text)
            if answer is not None:
                result: int | None = answer
            else:
                try:
                    result = function(task, *call.arguments)
                except OSError as error:
                    result = -(error.errno or errno.EIO)
            if self.strace:
                if row.name not in ("write", "writev"):
                    # Now that results are in memory, they can be shown.
                    text = describe_call(row, call.arguments, self.memory, result)
                self._print(task, f"{text} = {describe_result(row, result)}")
            return result

        return observed

    @staticmethod
    def _ask(hook: Hook, call: Call) -> int | None:
        """What *hook* says to *call*; what it raises is not to be taken for a call's failure."""
        try:
            return hook(call)
        except BaseException as error:
            raise HookFailed from error

    def watch_calls(self, decide: Decide) -> None:
        """Have *decide* asked about system calls, which may answer in their place (seccomp)."""
        self._decide = decide
        numbers = range(_NUMBER_LIMIT)
        self.engine.make_natively(dict.fromkeys(numbers, 0))
        for number in numbers:
            if not hasattr(self.functions[number], "is_watched"):
                self.functions[number] = self._watched(number, self.functions[number])

    def _watched(self, number: int, function: Handler) -> Handler:
        row = self._rows[number]
        observed = self.strace or self.count or self.hook is not None
        whole = function if observed or row is None else row.bind_whole(self)

        def watched(task: Task, *arguments: int) -> object:
            answer = self._decide(task, number) if self._decide is not None else None
            if answer == TRAP:
                return None
            if answer is not None:
                return answer
            if all(
                one.restrictions is None or one.restrictions.always(number) == ALLOW
                for one in self.tasks
            ):
                # It is nobody's business any more, as long as no further filter comes.
                self.functions[number] = function
                if not observed and row is not None and row.is_native:
                    self.engine.make_natively({number: self.native.address(row.name)})
            return whole(task, *arguments)

        watched.is_watched = True  # type: ignore[attr-defined]
        return watched

    def _print(self, task: Task, text: str) -> None:
        _say(f"{task.tid} {text}")

    def _no_such_call(self, number: int) -> Handler:
        def unknown(task: Task) -> int:
            return self.unknown_number(task, number)

        return unknown

    def unknown_number(self, task: Task, number: int) -> int:
        """A call that is not in the table: ENOSYS, counted, named once with strace."""
        if number >= _NUMBER_LIMIT and self._decide is not None:
            answer = self._decide(task, number)
            if answer is not None:
                return answer
        if self.strace and number not in self.unknown:
            self._print(task, f"system call {number} is unknown: ENOSYS, not shown again")
        if len(self.unknown) < _NUMBER_LIMIT or number in self.unknown:
            self.unknown[number] = self.unknown.get(number, 0) + 1
        return _ENOSYS

    def restarts(self, number: int) -> bool:
        """Whether SA_RESTART repeats call *number*."""
        row = self._rows[number] if number < _NUMBER_LIMIT else None
        return row is not None and row.restarts

    # Programs ---------------------------------------------------------------------------

    def load(
        self,
        descriptor: int,
        path: str,
        arguments: Sequence[bytes],
        environment: Sequence[bytes],
        execfn: bytes,
    ) -> Image:
        """Load the program in *descriptor*, which is called *path*, into empty memory."""
        elf = ElfFile(descriptor, path)
        loader.check_machine(elf, self.architecture, path)
        self.limits.apply()
        size = self.limits.get(STACK)[0]
        image = loader.load(
            self.memory, self.architecture, descriptor, elf, path, arguments, environment,
            size, self.files.resolve, execfn,
        )  # fmt: skip
        # /proc/self/exe leads there wherever the program goes.
        image.path = os.path.abspath(path)
        image.name = identity.name_of_program(execfn, image.path)
        self.image = image
        self.native.process.trampoline = image.trampoline
        before, kept = self.image_descriptor, os.dup(descriptor)
        self.image_descriptor = self.descriptors.hide(kept)
        if before >= 0:
            self.descriptors.close(before)
        self.arguments, self.environment = list(arguments), list(environment)
        return image

    def start(self, task: Task) -> None:
        """Set *task*'s registers to where the loaded program begins."""
        self.architecture.start(task.state, self.image.entry, self.image.stack)
        self.is_told = identity.publish(self)
        self.peaks = 0, 0
        self.allow_forks()

    def first_task(self) -> Task:
        """The main thread, on this host thread; it takes over what the parent left."""
        mask = self.signals.adopt_host()
        if self.count or self.profile:
            self.signals.be_told_of_ends()
        task = Task(self, self.engine.create_cpu(), mask)
        self.tasks.append(task)
        return task

    # Ends -------------------------------------------------------------------------------

    def exit_group(self, status: int) -> NoReturn:
        """The whole process ends."""
        self.report()
        self._let_go()
        os._exit(status & 0xFF)

    def _let_go(self) -> None:
        """What others have of the process, before it ends: its locks, a parent that waits."""
        for task in list(self.tasks):
            self.release_robust(task)
        if self.spawn is not None:
            with self.limits.room():
                self.spawn.give_back(done=True)

    def report(self) -> None:
        """Say what was counted, if that was asked for."""
        if self.count and not self.is_forked:
            from tandemu.accel.statistics import format_statistics

            lines = [
                f"{count:10} {name}"
                for name, count in sorted(self.statistics.items(), key=lambda item: -item[1])
            ]
            lines.insert(0, "system calls:")
            lines += ["", format_statistics(self.engine.statistics(), self._begun_s)]
            _say("\n".join(lines))
        if self.profile and not self.is_forked:
            from tandemu.accel.profile import format_profile
            from tandemu.linux.code_names import CodeNames

            text = format_profile(self.engine.profile(), CodeNames(self.memory.mappings).name)
            _say(text)
        if self.unknown and (self.strace or self.count):
            listed = ", ".join(f"{number} ({n}x)" for number, n in sorted(self.unknown.items()))
            _say(f"unknown system calls answered with ENOSYS: {listed}")

    def die(self, task: Task, signal: int, address: int = 0) -> NoReturn:
        """The process dies by *signal*, for its parent to see."""
        if self.strace:
            self._print(task, f"+++ killed by {signals.name_of(signal)} at {address:#x} +++")
        self.report()
        sys.stdout.flush()
        self._let_go()
        signals.act_by_default(signal)
        os._exit(128 + signal)

    def act_by_default(self, task: Task, signal: int) -> None:
        """Do what *signal* does by default: die, stop, go on, nothing."""
        if signal not in signals.IGNORED_BY_DEFAULT and signal not in signals.STOPPING:
            self.die(task, signal)
        signals.act_by_default(signal)

    # Threads ----------------------------------------------------------------------------

    def start_thread(self, parent: Task, task_ready: Callable[[Task], None]) -> int:
        """Start a guest thread with a copy of *parent*'s registers; its number."""
        try:
            cpu = self.new_cpu()
        except RuntimeError as error:
            # As a kernel at its limit of threads.
            if self.strace:
                self._print(parent, f"no thread could be made: {error}")
            return -errno.EAGAIN
        self.memory.has_one_thread = False
        self.forbid_forks()
        self.architecture.copy_registers(parent.state, cpu.state)
        started = _thread.allocate_lock()
        started.acquire()
        numbers: list[int] = []

        def body() -> None:
            task = Task(self, cpu, parent.mask)
            task.restrictions = parent.restrictions
            # The host's C library unblocks the signals that it uses itself, and so does the
            # guest's use them: its timers that start threads wait for one.
            task.refresh_host_mask()
            task_ready(task)
            self.tasks.append(task)
            numbers.append(task.tid)
            started.release()
            self.run_thread(task)

        before = host.get_mask()
        # The child inherits the mask: nothing may be delivered before it is ready.
        host.block_all()
        try:
            _thread.start_new_thread(body, ())
        except RuntimeError:
            return -errno.EAGAIN
        finally:
            host.set_mask(before)
        started.acquire()
        return numbers[0]

    def new_cpu(self) -> UserCpu:
        """A processor for one more thread; RuntimeError if there cannot be one."""
        with self.threads_lock:
            return self.engine.create_cpu()

    def run_thread(self, task: Task) -> None:
        """Body of a host thread: one guest thread until its end."""
        try:
            task.run()
        except ProgramEnded:
            pass
        except BaseException as error:
            self.fail(error)
        self.end_task(task)

    def fail(self, error: BaseException) -> NoReturn:
        """An error of ours or of a hook: the process ends, saying so."""
        if self.tell_failure is not None:
            self.tell_failure(error)
            os._exit(1)
        if isinstance(error, HookFailed) and error.__cause__ is not None:
            sys.excepthook(type(error.__cause__), error.__cause__, error.__cause__.__traceback__)
            os._exit(1)
        if os.environ.get("TANDEMU_DEBUG"):
            sys.excepthook(type(error), error, error.__traceback__)
        _say(f"tandemu: an error in Tandemu itself: {type(error).__name__}: {error}")
        os._exit(1)

    def end_task(self, task: Task) -> None:
        """A thread is over: robust futexes, the word that joiners wait for."""
        # What is sent to the process is for the others; this one has no structure any more.
        host.block_all()
        self.release_robust(task)
        if task.clear_tid and len(self.tasks) > 1:
            with contextlib.suppress(OSError):
                self.memory.write_word(task.clear_tid, 0, 4)
                place = self.memory.host_address(task.clear_tid, 4)
                host.quick(_FUTEX, place, _FUTEX_WAKE, 1)
        # From here on the memory may be another program's.
        if task in self.tasks:
            self.tasks.remove(task)
        with self.threads_lock:
            task.cpu.close()
        if not self.tasks:
            # The last thread: what exit(2) was called with is the process's status.
            self.exit_group(task.exit_status)
        if self.thread_ended.locked():
            with contextlib.suppress(RuntimeError):
                self.thread_ended.release()

    def release_robust(self, task: Task) -> None:
        """Mark the locks that a thread dies with (futex(2), robust lists)."""
        if not task.robust_list:
            return
        memory = self.memory
        try:
            head = task.robust_list
            offset = int.from_bytes(memory.read(head + 8, 8), "little", signed=True)
            last = memory.read_word(head + 16)
            entry = memory.read_word(head)
            for _ in range(_MOST_ROBUST):
                if entry & ~1 == head:
                    break
                if entry != last:
                    self._mark_dead((entry & ~1) + offset, task.tid)
                entry = memory.read_word(entry & ~1)
            if last:
                self._mark_dead((last & ~1) + offset, task.tid)
        except OSError:
            return

    def _mark_dead(self, address: int, tid: int) -> None:
        word = self.memory.read_word(address, 4)
        if word & _FUTEX_TID_MASK == tid:
            value = (word & _FUTEX_WAITERS) | _FUTEX_OWNER_DIED
            self.memory.write_word(address, value, 4)
            if word & _FUTEX_WAITERS:
                host.quick(_FUTEX, self.memory.host_address(address, 4), _FUTEX_WAKE, 1)

    def host_string(self, text: bytes) -> ctypes.Array[ctypes.c_char]:
        """A zero-terminated copy for the host's kernel."""
        return ctypes.create_string_buffer(text)

    def after_fork(self, task: Task) -> None:
        """In the child of fork, which blocks all signals: only this thread is left."""
        self.is_forked = True
        self.spawn = None
        self._gone_threads = _thread._count()
        self.threads_lock = _thread.allocate_lock()
        self.leader_wakes, self.thread_ended = succession.new_lock(), succession.new_lock()
        self.succession = None
        self.leader = task
        for other in self.tasks:
            if other is not task:
                other.cpu.close()
        self.tasks[:] = [task]
        self.engine.after_fork()
        self.memory.after_fork()
        task.tid = os.getpid()

    # Forks that native code makes ---------------------------------------------------------

    def allow_forks(self) -> None:
        """Have native code fork, if this is the only thread, which other processes know all of.

        What a thread of ours holds, Python's own lock before all, a child would never get.
        """
        is_alone = _thread._count() == self._gone_threads and len(self.tasks) == 1
        lends = self.spawn is not None or self.memory.leaves_out
        self.native.process.may_fork = int(is_alone and not lends)

    def forbid_forks(self) -> None:
        """Leave forks to Python: another thread is about to begin."""
        self.native.process.may_fork = 0

    def adopt_fork(self) -> None:
        """In a child that native code has made, before anything else is done here."""
        self.native.process.is_forked = 0
        try:
            clone.adopt()
            self.after_fork(self.tasks[0])
            self.descriptors.is_shared = False
            self.allow_forks()
        except BaseException as error:
            self.fail(error)


def _say(text: str) -> None:
    """Write a line on the error output, which may be closed or full."""
    rest = memoryview(f"{text}\n".encode(errors="replace"))
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(2, rest) :]


def _unknown(task: Task) -> int:
    return _ENOSYS


def program_missing(path: str, error: OSError) -> LinuxError:
    """The error for a program that cannot be opened."""
    return LinuxError(
        f"{path} cannot be run: {os.strerror(error.errno or 0)}", error.errno or errno.ENOENT
    )
