"""The rows of the system call table: what a call is named, takes, does, and lacks.

A row is declared once, in one of the modules of `tandemu.linux.calls`. From it come the
dispatch table, what ``--strace`` prints and the table in docs/user-mode.md.

The arguments of a call are named by kinds, separated by blanks:

``fd`` ``dirfd`` ``int`` ``long`` ``hex`` ``mode`` ``size`` ``sig`` ``pid``
    numbers; ``dirfd`` knows AT_FDCWD
``path`` ``str``
    pointers to text that ends with a zero byte
``ptr``
    a pointer to a structure of fixed size
``in`` ``out``
    a pointer to as many bytes as the next argument (``size``) says
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tandemu.linux import host
from tandemu.linux.host import NUMBERS

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

Handler = Callable[..., Any]
"""(task, arguments …) -> result, or a negative error number, or None: registers are set."""
HandlerType = TypeVar("HandlerType", bound=Handler)

POINTERS = frozenset(("path", "str", "ptr", "in", "out"))
_EFAULT = -errno.EFAULT


class Row:
    """One system call."""

    __slots__ = ("_bind", "arguments", "count", "missing", "name", "refusal", "restarts")

    def __init__(
        self,
        name: str,
        arguments: str,
        bind: Callable[[Kernel], Handler],
        *,
        missing: str = "",
        refusal: str = "",
        restarts: bool = True,
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
        """Whether SA_RESTART repeats it after a signal handler."""

    def bind(self, kernel: Kernel) -> Handler:
        """The function that carries it out in *kernel*'s process."""
        return self._bind(kernel)


class Calls:
    """The rows of one module."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def row(
        self, name: str, arguments: str = "", *, missing: str = "", restarts: bool = True
    ) -> Callable[[HandlerType], HandlerType]:
        """Declare the decorated function as what carries out call *name*."""

        def declare(function: HandlerType) -> HandlerType:
            self.rows.append(
                Row(name, arguments, lambda kernel: function, missing=missing, restarts=restarts)
            )
            return function

        return declare

    def direct(
        self,
        name: str,
        arguments: str = "",
        *,
        quick: bool = False,
        missing: str = "",
        restarts: bool = True,
    ) -> None:
        """Declare that the host's call of that name does it, pointers translated."""
        number = NUMBERS[name]
        kinds = arguments.split()

        def bind(kernel: Kernel) -> Handler:
            return _direct(kernel, number, kinds, quick)

        self.rows.append(Row(name, arguments, bind, missing=missing, restarts=restarts))

    def refuse(self, names: str, reason: str, code: int = errno.ENOSYS) -> None:
        """Declare that *names* fail with *code*."""

        def refused(task: object) -> int:
            return -code

        for name in names.split():
            self.rows.append(Row(name, "", lambda kernel: refused, refusal=reason))


def _direct(kernel: Kernel, number: int, kinds: list[str], quick: bool) -> Handler:
    """A function for the host's call *number*; the kernel checks what is behind a pointer."""
    base, limit = kernel.memory.base, kernel.memory.limit
    call = host.bound(len(kinds), without_waiting=quick)
    failure = host.failure
    pointers = [index for index, kind in enumerate(kinds) if kind in POINTERS]
    sized = [index for index in pointers if kinds[index] in ("in", "out")]
    if not pointers:

        def plain(task: object, *arguments: int) -> int:
            result = call(number, *arguments)
            return result if result != -1 else failure()

        return plain

    if len(pointers) == 1 and not sized and pointers[0] <= 1:
        # The common shapes, for the hottest calls: the first or the second is a pointer.
        if pointers[0] == 0:

            def first(task: object, address: int, *rest: int) -> int:
                if address >= limit:
                    return _EFAULT
                result = call(number, address + base if address else 0, *rest)
                return result if result != -1 else failure()

            return first

        def second(task: object, value: int, address: int, *rest: int) -> int:
            if address >= limit:
                return _EFAULT
            result = call(number, value, address + base if address else 0, *rest)
            return result if result != -1 else failure()

        return second

    def translated(task: object, *arguments: int) -> int:
        values = list(arguments)
        for index in pointers:
            value = values[index]
            if value:
                if value >= limit:
                    return _EFAULT
                values[index] = value + base
        for index in sized:
            if arguments[index] + values[index + 1] > limit:
                return _EFAULT
        result = call(number, *values)
        return result if result != -1 else failure()

    return translated
