"""A foreign program as a value: `Process`, and what ``tandemu exec`` does.

`Process.run` runs the program in a child process of the calling one, so that its
directory, descriptors and signals are its own. A hook is called there, too: it can look
at a call, change it or answer it, and what it remembers stays in the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from tandemu.accel.user import UserEngine
from tandemu.jit.program.user import JitUserEngine
from tandemu.linux import host, limits
from tandemu.linux.aarch64 import Aarch64
from tandemu.linux.architecture import Architecture
from tandemu.linux.calls import all_rows
from tandemu.linux.elf import ElfFile
from tandemu.linux.errors import LinuxError
from tandemu.linux.kernel import Hook, Kernel, program_missing
from tandemu.linux.loader import wrong_machine
from tandemu.linux.riscv64 import Riscv64
from tandemu.linux.succession import lead

if TYPE_CHECKING:
    from tandemu.linux.caller import Streams

Notice = Callable[[str], None]
"""Hears of long work that is done once, such as compiling the engine."""

ARCHITECTURES: tuple[type[Architecture], ...] = (Riscv64, Aarch64)
_SHEBANG_DEPTH = 4
_MOST_REPORT_BYTES = 1 << 16


class ProcessResult(NamedTuple):
    """How a program ended."""

    status: int
    """What it gave to exit, or 128 + the signal it died of, as a shell says it."""
    signal: int
    """The signal it died of, or 0."""
    stdout: bytes | None = None
    """What it wrote, where that is a `subprocess.PIPE`."""
    stderr: bytes | None = None


def make_engine(architecture: Architecture, notice: Notice | None = None) -> UserEngine:
    """The engine that runs programs for *architecture*; *notice* hears of long work."""
    engine: UserEngine = JitUserEngine(architecture.name, notice=notice)
    return engine


def find_program(program: str, environment: Mapping[bytes, bytes]) -> str:
    """The path of *program*: searched for in PATH if it holds no slash and is not here."""
    if "/" in program or os.path.exists(program):
        return program
    for folder in os.fsdecode(environment.get(b"PATH", b"/usr/bin:/bin")).split(":"):
        path = os.path.join(folder, program)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return program


class Process:
    """A foreign Linux program, ready to run.

    *argv* is the command line, the program first. *env* is its environment (default:
    this process's). *stdin*, *stdout* and *stderr* are files, descriptors, or
    ``subprocess.PIPE``, ``DEVNULL`` and ``STDOUT`` (default: inherited); the program has no
    others of the caller's but those in *pass_fds*. *hook* is called with every system call
    as a `trace.Call`: returning a number answers it, changing ``call.arguments`` changes it,
    returning None lets it be; what it raises, `run` raises. *notice* hears of long work that
    is done once, such as compiling the engine.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        sysroot: str = "",
        stdin: IO[bytes] | int | None = None,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        hook: Hook | None = None,
        strace: bool = False,
        stats: bool = False,
        profile: bool = False,
        argv0: str | bytes | None = None,
        engine: UserEngine | None = None,
        pass_fds: Sequence[int] = (),
        notice: Notice | None = None,
    ) -> None:
        if not argv:
            raise LinuxError("no program was given")
        host.check_host()
        self.arguments = [os.fsencode(text) for text in argv]
        source = os.environb if env is None else {
            os.fsencode(name): os.fsencode(value) for name, value in env.items()
        }  # fmt: skip
        self.environment = dict(source)
        self.path = find_program(os.fsdecode(self.arguments[0]), self.environment)
        if argv0 is not None:
            self.arguments[0] = os.fsencode(argv0)
        self.sysroot = sysroot
        self._streams = (stdin, stdout, stderr)
        self._hook, self._strace = hook, strace
        self._stats, self._profile = stats, profile
        self._engine = engine
        self._inherited: Mapping[int, tuple[int, int]] = {}
        self._passed = tuple(pass_fds)
        self._notice = notice

    def run(self, input: bytes = b"") -> ProcessResult:
        """Run the program to its end in a child process.

        *input* is what it reads where *stdin* is ``subprocess.PIPE``. LinuxError if it cannot be
        run; what the hook raised, with its traceback as the cause.
        """
        from tandemu.linux.caller import Streams

        streams = Streams(*self._streams)
        try:
            return self._run(streams, input)
        finally:
            streams.close()

    def _run(self, streams: Streams, data: bytes) -> ProcessResult:
        try:
            kernel = self._prepare()
        finally:
            limits.give_back(self._inherited)
        news, report = os.pipe2(os.O_CLOEXEC)
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            pid = os.fork()
            if pid == 0:
                self._be_child(kernel, streams, report)
        finally:
            os.close(report)
        try:
            streams.begun()
            found = streams.communicate(data)
            ended = os.waitpid(pid, 0)[1]
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(news)
            raise
        finally:
            kernel.engine.close()
        # The program's own children may hold the other end for long.
        os.set_blocking(news, False)
        with open(news, "rb", buffering=0) as file:
            failure = file.read(_MOST_REPORT_BYTES)
        if failure:
            from tandemu.linux.caller import raise_failure

            raise_failure(failure)
        status = os.waitstatus_to_exitcode(ended)
        out, err = found.get(1), found.get(2)
        if status < 0:
            return ProcessResult(128 - status, -status, out, err)
        return ProcessResult(status, 0, out, err)

    def _be_child(self, kernel: Kernel, streams: Streams, report: int) -> NoReturn:
        from tandemu.linux.caller import describe_failure, keep_only, pass_on

        try:
            number = kernel.descriptors.hide(report)
            kernel.tell_failure = lambda error: _write(number, describe_failure(error))
            streams.install()
            keep_only((*kernel.descriptors.hidden(), *self._passed))
            pass_on(self._passed)
            limits.take_over()
            self._run_here(kernel)
        except BaseException as error:
            kernel.fail(error)

    def become(self, closed: Sequence[int] = ()) -> NoReturn:
        """Turn this very process into the program; it does not return.

        *closed* are those of the first three descriptors that the program is to have closed.
        """
        kernel = self._prepare()
        for descriptor in closed:
            os.close(descriptor)
        self._run_here(kernel)

    def _prepare(self) -> Kernel:
        """Check the program, then load the engine and bring the program into its memory."""
        if self.sysroot and not os.path.isdir(self.sysroot):
            raise LinuxError(
                f"the sysroot {self.sysroot} is not a folder; give the one that holds the"
                " foreign system's lib, usr and so on"
            )
        path = self.path
        if self.sysroot and path[:1] == "/" and os.path.exists(self.sysroot + path):
            path = self.sysroot + path
        arguments = self.arguments
        for _ in range(_SHEBANG_DEPTH):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise program_missing(path, error) from None
            try:
                head = os.pread(descriptor, 256, 0)
                if head[:2] != b"#!":
                    return self._load(descriptor, path, arguments)
                words = head[2:].split(b"\n", 1)[0].strip(b" \t").split(None, 1)
                if not words:
                    raise LinuxError(f"{path} is a script without an interpreter")
                arguments = [*words, os.fsencode(path), *arguments[1:]]
                path = os.fsdecode(words[0])
                if self.sysroot and os.path.exists(self.sysroot + path):
                    path = self.sysroot + path
            except OSError as error:
                raise program_missing(path, error) from None
            finally:
                os.close(descriptor)
        raise LinuxError(f"{path}: scripts whose interpreters are scripts, too deep")

    def _load(self, descriptor: int, path: str, arguments: list[bytes]) -> Kernel:
        architecture = _architecture_of(descriptor, path)
        inherited = self._inherited = limits.take_over()
        engine = self._engine or make_engine(architecture, self._notice)
        kernel = Kernel(
            engine, architecture, all_rows(), sysroot=self.sysroot, strace=self._strace,
            count=self._stats, profile=self._profile, hook=self._hook, limits=inherited,
            notice=self._notice,
        )  # fmt: skip
        environment = [name + b"=" + value for name, value in self.environment.items()]
        kernel.load(descriptor, path, arguments, environment, os.fsencode(self.path))
        return kernel

    def _run_here(self, kernel: Kernel) -> NoReturn:
        if sys.stdout is not None:
            sys.stdout.flush()
        task = kernel.first_task()
        task.refresh_host_mask()
        kernel.start(task)
        lead(kernel, task)


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, data)


def _architecture_of(descriptor: int, path: str) -> Architecture:
    """The guest architecture of the program in *descriptor*."""
    elf = ElfFile(descriptor, path)
    for kind in ARCHITECTURES:
        architecture = kind()
        if architecture.machine == elf.machine:
            return architecture
    raise wrong_machine(elf, path, " and ".join(kind.name for kind in ARCHITECTURES))
