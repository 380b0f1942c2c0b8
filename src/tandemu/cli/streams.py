"""The command's own three streams when they are closed, full or read by nobody.

A shell may start us with any of them closed. Whatever is opened next would get its number, and
Python gives up its stream object. So each one's number is taken, by something that refuses as a
closed one does. What cannot be written is an error for the standard output and nothing for the
error output, as with other programs; a reader that went away ends us as SIGPIPE does.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TextIO

    from typing_extensions import Buffer

closed: tuple[int, ...] = ()
"""Which of 0, 1 and 2 were closed when we were started: a foreign program has them so too."""


class OutputError(OSError):
    """The standard output cannot be written; the message says why."""


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def prepare() -> None:
    """Take the numbers of closed streams, and have lost error output be no error. Once, first."""
    global closed  # noqa: PLW0603 (a fact of the process)
    closed = tuple(number for number in range(3) if _is_closed(number))
    for number in closed:
        # The lowest number that is free is this one. Reading 0 ends at once, writing 1 is
        # refused as with a closed one, 2 takes all.
        os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY)
    if 0 in closed:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (it lives as long as the process)
    terminal = not closed and os.isatty(1)
    sys.stdout = _stream(_Output(1, "w", False, _as_it_is), sys.stdout, "strict", terminal)
    sys.stderr = _stream(_ErrorOutput(2, "w", False), sys.stderr, "backslashreplace", True)


def _as_it_is(path: object, flags: int) -> int:
    """An opener for a descriptor whose mode does not fit."""
    return 1


class _Output(io.FileIO):
    """The standard output; `lost` is why it could not be written, for who swallows errors."""

    lost: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _Output.lost = error
            raise


class _ErrorOutput(io.FileIO):
    """The error output: nothing raises when it takes no more."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data))


def _stream(raw: io.FileIO, like: TextIO | None, errors: str, by_line: bool) -> TextIO:
    """A text stream on *raw* that encodes as *like* does."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, getattr(like, "errors", errors), line_buffering=by_line
    )


def lost() -> OSError | None:
    """Why the standard output could not be written, if so."""
    return _Output.lost


def flush() -> None:
    """Write out what was printed; `BrokenPipeError`, or `OutputError` that says why it fails."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    error = _Output.lost
    if isinstance(error, BrokenPipeError):
        raise error
    if error is not None:
        drop()
        raise OutputError(
            f"the standard output cannot be written: {error.strerror}; what was to be printed "
            "there is lost"
        ) from error


def drop() -> None:
    """Let go of what is still buffered: the interpreter must not try again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def die_of_broken_pipe() -> NoReturn:
    """End as a program does that writes where nobody reads."""
    drop()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)
