"""What an engine offers for running one foreign program instead of a machine.

Guest memory is flat: the program's address *a* lies at host address ``base + a``
in a reserved window, and the host's own page protection is the guest's. Each
guest thread is a `UserCpu` on a host thread of its own; `UserCpu.run` returns
when the program needs its operating system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

# Loaded by whoever wants one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tandemu.accel.profile import Profile


class CodePage(IntEnum):
    """What a page holds for whoever fetches instructions there."""

    NONE = 0
    FIXED = 1
    """Code that stays as it is until the page is mapped or protected otherwise."""
    CHANGEABLE = 2
    """Code that a program may write over."""


class SystemCall(NamedTuple):
    """The program asks its operating system; pc stands behind the instruction."""


class SignalDue(NamedTuple):
    """The routine that settles signals (`UserEngine.take_signals`) returned *status*, not 0."""

    status: int


class MemoryFault(NamedTuple):
    """An access to *address* failed; pc stands at the instruction.

    *access* is ``"read"``, ``"write"`` or ``"execute"``.
    """

    address: int
    access: str


class IllegalInstruction(NamedTuple):
    """The program came to an instruction that does not exist (pc stands at it)."""

    word: int


class Misaligned(NamedTuple):
    """An atomic access to *address* that is not aligned; pc stands at the instruction."""

    address: int


class Breakpoint(NamedTuple):
    """A breakpoint instruction (pc stands at it)."""


class Kicked(NamedTuple):
    """`UserCpu.kick` was called."""


UserExit = (
    SystemCall | SignalDue | MemoryFault | IllegalInstruction | Misaligned | Breakpoint | Kicked
)


CALL_ELSEWHERE = -(1 << 16)
"""A native call's result: it is none for native code; leave with `SystemCall`."""
CALL_DONE = CALL_ELSEWHERE + 1
"""A native call's result: the registers are as they shall be, the result's too."""
INTERRUPTED_RESTARTS, NOT_BEGUN, INTERRUPTED = -512, -513, -514
"""A native call's results: a signal interrupted it, and it is repeated if the signal's handler
is one with SA_RESTART; it was not begun, and is repeated; a signal interrupted it, and EINTR tells
of that, unless there was no signal for the program. (Linux has the same numbers inside.)"""
REQUEST_SIGNAL = 1 << 32
"""The bit of the word at `UserCpu.request_address` that says that a signal is to be delivered."""


class UserCpu(Protocol):
    """The processor of one guest thread."""

    state: Any
    """The live registers: ``x[i]``, ``f[i]``, ``pc``, ``fflags``, ``frm``."""

    def run(self) -> UserExit:
        """Run the program on the calling thread until an exit."""

    request_address: int
    """Host address of a 64-bit word that is not zero while somebody asks for `run` to return."""

    def set_call_context(self, address: int) -> None:
        """What native calls get as their first argument."""

    def kick(self) -> None:
        """Make `run` return `Kicked` soon. Any thread; not lost if not running."""

    def close(self) -> None:
        """Free what the engine keeps for this thread."""


class DescriptorKeeper(Protocol):
    """Knows which file descriptors of this process are not the program's."""

    def hide(self, descriptor: int) -> int:
        """Take *descriptor*, just made, out of the program's way; its new number."""

    def close(self, descriptor: int) -> None:
        """Close one that was hidden."""


class UserEngine(Protocol):
    """The memory window of one program and the processors of its threads."""

    base: int
    """Host address of guest address 0."""
    size: int
    """Size of the window in bytes; the guest's addresses are below it."""
    descriptors: DescriptorKeeper
    """Keeps what the engine opens apart from what the program has open."""

    @property
    def copy_routine(self) -> int:
        """Host address of ``copy(to, from, size)`` between host addresses, for native code: it
        returns how many bytes were left when the host refused to go on, 0 if none.
        """

    def make_natively(self, calls: Mapping[int, int]) -> None:
        """Make these calls of the program, by its number, without an exit. Before it runs.

        Each is the host address of a routine ``(context, six arguments) -> result`` in C's
        convention. Its result goes to the program, but for `CALL_ELSEWHERE` and `CALL_DONE`, and
        those of interrupted calls, which go to the routine of `take_signals`.
        """

    def create_cpu(self) -> UserCpu:
        """Create a processor with all registers zero."""

    def code_changed(self, start: int, size: int) -> None:
        """Forget what was translated from these guest addresses, on every processor.

        For memory that was unmapped, mapped anew or protected otherwise. Any thread.
        """

    def code_written(self, start: int, size: int) -> None:
        """The same for the program's own request to see code that it wrote. Any thread."""

    def holding_code(self) -> AbstractContextManager[None]:
        """Nothing is translated or changed meanwhile: what a fork in it copies is whole."""

    def after_fork(self) -> None:
        """In the child of a fork, where the calling thread alone is left."""

    def statistics(self) -> dict[str, int]:
        """Counters by name, all threads added up."""

    def profile(self) -> Profile:
        """Where the program has spent its time. Any thread."""

    def be_precise(self) -> None:
        """From now on a `MemoryFault` comes with the registers as they were.

        Until then they may be older: enough for a program that ends with it. Any thread.
        """

    def take_signals(self, settle: int, handler: int) -> None:
        """Have signals settled by the routine *settle*, by its host address. Before it runs.

        It is ``(context, result) -> status`` in C's convention, and called when
        `REQUEST_SIGNAL` is set (*result* is 0) or a native call was interrupted; it changes the
        program's registers. `SignalDue` tells a status that is not 0. *handler* is a host's
        signal handler ``(signal, siginfo, context)`` for SIGSEGV and SIGBUS that somebody sent.
        """

    def take_forks(self, note: int, adopt: Callable[[], None], forbid: Callable[[], None]) -> None:
        """Have *adopt* called where the 32-bit word at host address *note* is not 0.

        A native call sets it in a process that it has made: *adopt* is called there before any
        other Python is run. *forbid* is called before the engine makes a thread of its own.
        """

    def close(self) -> None:
        """Free the window. No processor may be running."""
