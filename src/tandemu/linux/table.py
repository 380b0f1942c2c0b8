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

from tandemu.accel.user import ArgumentKind, DirectCall
from tandemu.linux import host
from tandemu.linux.host import NUMBERS

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

Handler = Callable[..., Any]
"""(task, arguments …) -> result, or a negative error number, or None: registers are set."""
HandlerType = TypeVar("HandlerType", bound=Handler)

_KINDS = {
    **dict.fromkeys(("path", "str", "ptr"), ArgumentKind.POINTER),
    **dict.fromkeys(("in", "out"), ArgumentKind.BUFFER),
}
POINTERS = frozenset(_KINDS)
_EFAULT = -errno.EFAULT


class Row:
    """One system call."""

    __slots__ = ("_bind", "arguments", "count", "direct", "missing", "name", "refusal", "restarts")

    def __init__(
        self,
        name: str,
        arguments: str,
        bind: Callable[[Kernel], Handler],
        *,
        missing: str = "",
        refusal: str = "",
        restarts: bool = True,
        direct: DirectCall | None = None,
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
        self.direct = direct
        """What the engine may make in its stead, if nobody watches."""

    def bind(self, kernel: Kernel) -> Handler:
        """The function that carries it out in *kernel*'s process."""
        return self._bind(kernel)


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
        direct: DirectCall | None = None,
    ) -> Callable[[HandlerType], HandlerType]:
        """Declare the decorated function as what carries out call *name*.

        *direct* does the same, of those uses of the call that it is for.
        """

        def declare(function: HandlerType) -> HandlerType:
            row = Row(
                name, arguments, lambda kernel: function,
                missing=missing, restarts=restarts, direct=direct,
            )  # fmt: skip
            self.rows.append(row)
            return function

        return declare

    def direct(
        self, name: str, arguments: str = "", *, missing: str = "", restarts: bool = True
    ) -> None:
        """Declare that the host's call of that name does it, pointers translated."""
        kinds = tuple(_KINDS.get(kind, ArgumentKind.VALUE) for kind in arguments.split())
        direct = DirectCall(NUMBERS[name], kinds)
        row = Row(
            name, arguments, lambda kernel: _direct(kernel, direct),
            missing=missing, restarts=restarts, direct=direct,
        )  # fmt: skip
        self.rows.append(row)

    def refuse(self, names: str, reason: str, code: int = errno.ENOSYS) -> None:
        """Declare that *names* fail with *code*."""

        def refused(task: object) -> int:
            return -code

        for name in names.split():
            self.rows.append(Row(name, "", lambda kernel: refused, refusal=reason))


def _direct(kernel: Kernel, direct: DirectCall) -> Handler:
    """A function that makes *direct*; the kernel checks what is behind a pointer."""
    base, limit = kernel.memory.base, kernel.memory.limit
    call = host.bound(len(direct.arguments))
    number, kinds = direct.number, direct.arguments

    def translated(task: object, *arguments: int) -> int:
        values = list(arguments)
        for index, kind in enumerate(kinds):
            value = values[index]
            if kind is not ArgumentKind.VALUE and value:
                if value >= limit:
                    return _EFAULT
                if kind is ArgumentKind.BUFFER and value + arguments[index + 1] > limit:
                    return _EFAULT
                values[index] = value + base
        result = call(number, *values)
        return result if result != -1 else host.failure()

    return translated
