"""The error of this layer: a program that cannot be run, said to the user."""

from __future__ import annotations


class LinuxError(RuntimeError):
    """A foreign program cannot be started; the message says why and how to mend it.

    *code* is the error number a kernel would give for it (ENOEXEC, ENOENT, EACCES …).
    """

    def __init__(self, message: str, code: int = 8) -> None:
        super().__init__(message)
        self.code = code


class HookFailed(BaseException):
    """A hook raised the cause: it is the caller's mistake, and no call's result."""


class ProgramEnded(BaseException):
    """The guest thread on this host thread is over; it unwinds the thread's loop."""


class ImageReplaced(BaseException):
    """execve gave the process a new program: the thread's loop begins again."""


"""Neither is an error: they leave handlers that must not go on."""
