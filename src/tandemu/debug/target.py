"""What the stub asks of whatever is debugged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from tandemu.accel import Watch
from tandemu.debug.architecture import DebugArchitecture

SIGINT, SIGTRAP = 2, 5
"""Signals by GDB's numbers."""


class Cause(Enum):
    """Why all stands still; the value is the name in a stop reply, if it has one."""

    SIGNAL = ""
    BREAKPOINT = "swbreak"
    WATCH_WRITE = "watch"
    WATCH_READ = "rwatch"
    WATCH_ACCESS = "awatch"
    ENDED = "W"
    KILLED = "X"


class Stop(NamedTuple):
    """All stands still: *thread* is the one it is about.

    *signal* is GDB's number, or the exit status; *address* that of the watched data.
    """

    cause: Cause
    thread: int = 0
    signal: int = SIGTRAP
    address: int = 0


class Step(NamedTuple):
    """What a thread does next: instructions as long as pc is in *start* to *end*, at least one."""

    start: int = 0
    end: int = 0


class Target(Protocol):
    """What is debugged. Threads have numbers from 1 on.

    All its functions are called by one thread, and while it stands still, but for `interrupt` and
    `take_stop`. Errors are `DebugError`.
    """

    architecture: DebugArchitecture
    descriptor: int
    """A descriptor that can be read once there is a `Stop` to take."""

    def threads(self) -> Sequence[int]:
        """The threads that there are."""

    def describe_thread(self, thread: int) -> str:
        """What it is, for people."""

    def current(self) -> int:
        """The thread that the last stop was about."""

    def read_register(self, thread: int, name: str) -> int | None:
        """A register by the engine's name; None if there is none just now."""

    def read_registers(self, thread: int, names: Sequence[str]) -> Sequence[int | None]:
        """Several; the empty name is none."""

    def write_register(self, thread: int, name: str, value: int) -> None:
        """Set one."""

    def read_memory(self, thread: int, address: int, size: int) -> bytes:
        """Memory as *thread* sees it: as much as is there."""

    def write_memory(self, thread: int, address: int, data: bytes) -> None:
        """Change memory, code too."""

    def set_breakpoints(self, breakpoints: Mapping[int, Collection[bytes]]) -> None:
        """The breakpoints from now on, by address: each with agent expressions, of which one has
        to be true, if there are any.
        """

    def set_watches(self, watches: Sequence[Watch]) -> None:
        """The memory that is watched from now on."""

    def go_on(self, steps: Mapping[int, Step], running: Collection[int]) -> None:
        """Let the threads *running* go on, and those of *steps* do that; others stand still.

        Returns at once; a `Stop` follows.
        """

    def interrupt(self) -> None:
        """Bring all to rest; a `Stop` follows."""

    def take_stop(self) -> Stop | None:
        """The stop that there is to tell, once."""

    def kill(self) -> None:
        """End it."""

    def detach(self) -> None:
        """Let it go on without a debugger: no breakpoint is left."""

    def command(self, line: str) -> str:
        """Carry out a command of GDB's ``monitor``; what it answers."""
