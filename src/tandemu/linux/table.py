"""The rows of the system call table: what a call is named, takes, does, and lacks.

A row is declared once, in one of the modules of `tandemu.linux.calls`. From it come the
dispatch table, what ``--strace`` prints and the table in docs/user-mode.md.

The arguments of a call are named by kinds, separated by blanks. `native.marshal` makes of
them the native routine of a call that is the host's own but for its pointers and structures:

``fd`` ``dirfd`` ``int`` ``long`` ``hex`` ``mode`` ``size`` ``sig`` ``pid``
    numbers; ``dirfd`` knows AT_FDCWD
``file``
    a descriptor; Python makes the call if it is watched (`proc.watch`)
``path``
    pointer to a path, looked at first (`native.paths`)
``str``
    pointer to other text that ends with a zero byte
``ptr``
    a pointer to a structure of fixed size that the host has, too
``open``
    flags of open(2), of which architectures have some elsewhere
``in`` ``out``
    a pointer to as many bytes as the next argument (``size``) says
``vectors``
    an array of struct iovec, as many as the next argument says
``stat``
    a pointer to what becomes a struct stat
``event``
    a pointer to a struct epoll_event
``events`` ``events-count``
    an array of them to be filled, and their number
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tandemu.accel.user import CALL_DONE, CALL_ELSEWHERE

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel
    from tandemu.linux.task import Task

Handler = Callable[..., Any]
"""(task, arguments …) -> result, or a negative error number, or None: registers are set."""
HandlerType = TypeVar("HandlerType", bound=Handler)

POINTERS = frozenset(("path", "str", "ptr", "in", "out", "vectors", "stat", "event", "events"))
_MOST_ARGUMENTS = 6


class Row:
    """One system call."""

    __slots__ = (
        *("_bind", "arguments", "count", "is_native", "missing", "name", "refusal", "restarts"),
    )

    def __init__(
        self,
        name: str,
        arguments: str,
        bind: Callable[[Kernel], Handler] | None,
        *,
        missing: str = "",
        refusal: str = "",
        restarts: bool = True,
        is_native: bool = False,
    ) -> None:
        self.name = name
        self.arguments = arguments.split()
        self.count = len(self.arguments)
        self._bind = bind
        self.missing = missing
        """What a partial implementation leaves out."""
        self.refusal = refusal
        """Why the call is refused, if it is."""
        self.restarts = restarts
        """Whether SA_RESTART repeats it after a signal handler; maybe told by its arguments."""
        self.is_native = is_native
        """Whether there is a native routine; it may leave some uses of the call to *bind*."""

    def bind(self, kernel: Kernel) -> Handler:
        """The Python function that carries it out in *kernel*'s process."""
        if self._bind is None:
            return _native(kernel, self, None)
        return self._bind(kernel)

    def bind_whole(self, kernel: Kernel) -> Handler:
        """The function that does what the program gets when nobody watches."""
        rest = None if self._bind is None else self._bind(kernel)
        if rest is not None and not self.is_native:
            return rest
        return _native(kernel, self, rest)


class Calls:
    """The rows of one module."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def row(
        self,
        name: str,
        arguments: str = "",
        *,
        missing: str = "",
        restarts: bool = True,
        native: bool = False,
    ) -> Callable[[HandlerType], HandlerType]:
        """Declare the decorated function as what carries out call *name*.

        *native*: there is a native routine, which leaves only some uses of the call to it.
        """

        def declare(function: HandlerType) -> HandlerType:
            row = Row(
                name, arguments, lambda kernel: function,
                missing=missing, restarts=restarts, is_native=native,
            )  # fmt: skip
            self.rows.append(row)
            return function

        return declare

    def direct(
        self, name: str, arguments: str = "", *, missing: str = "", restarts: bool = True
    ) -> None:
        """Declare that the host's call of that name does it: the native routine is all."""
        self.rows.append(
            Row(name, arguments, None, missing=missing, restarts=restarts, is_native=True)
        )

    def refuse(self, names: str, reason: str, code: int = errno.ENOSYS) -> None:
        """Declare that *names* fail with *code*."""

        def refused(task: object) -> int:
            return -code

        for name in names.split():
            self.rows.append(Row(name, "", lambda kernel: refused, refusal=reason))


def _native(kernel: Kernel, row: Row, rest: Handler | None) -> Handler:
    """A function that asks the native routine of *row* first, then *rest*."""
    routine = kernel.native.routine(row.name)
    filling = (0,) * (_MOST_ARGUMENTS - row.count)

    def call(task: Task, *arguments: int) -> int | None:
        result = routine(task.native_address, *arguments, *filling)
        if result == CALL_ELSEWHERE and rest is not None:
            answer: int | None = rest(task, *arguments)
            return answer
        return None if result == CALL_DONE else result

    return call
