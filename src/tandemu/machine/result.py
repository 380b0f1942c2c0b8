"""How a run ended, and the exit status a process reports for it."""

from __future__ import annotations

from enum import Enum

from tandemu.bits import Record


class Ending(Enum):
    """Why the machine runs no more."""

    POWERED_OFF = "the guest powered off"
    FAILED = "the guest ended with a failure code"
    PANICKED = "the guest's kernel panicked"
    RESET = "the guest asked for a reset, which was to be the end"
    SHUT_DOWN = "a processor shut down, which was to be the end"
    TIMED_OUT = "the time given to the machine was over"
    STOPPED = "the machine was stopped from outside"


class Result(Record):
    """How a run ended.

    *exit_status* is 0 when the guest powered off, its own code when it gave one (1 to
    255), 124 at a time-out, 0 when it was stopped from outside; 125 when its kernel panicked.
    Where a reset is to be the end, it is 0 then, and 125 if a processor shut down (on x86 after
    a triple fault). *detail* is what is known besides: the cause of a panic.
    """

    exit_status: int
    ending: Ending
    detail: str = ""

    @property
    def reason(self) -> str:
        """The ending in words."""
        if self.ending is Ending.FAILED:
            return f"{self.ending.value}, {self.exit_status}"
        return f"{self.ending.value}: {self.detail}" if self.detail else str(self.ending.value)


BROKEN_STATUS = 125
"""Of a run whose guest broke down: its kernel panicked, or a processor shut down."""
TIMED_OUT = Result(124, Ending.TIMED_OUT)
STOPPED = Result(0, Ending.STOPPED)
POWERED_OFF = Result(0, Ending.POWERED_OFF)
RESET = Result(0, Ending.RESET)


def panicked(cause: str) -> Result:
    """The result of a guest whose kernel panicked; *cause* is empty where it did not say."""
    return Result(BROKEN_STATUS, Ending.PANICKED, cause)


def shut_down(reason: str) -> Result:
    """The result of a guest that broke a processor's own tables, if that is to be the end."""
    return Result(BROKEN_STATUS, Ending.SHUT_DOWN, reason)


def failed(code: int) -> Result:
    """The result of a guest that reports *code*: as an exit status, never 0.

    >>> failed(3).exit_status, failed(0).exit_status, failed(0x1200).exit_status
    (3, 1, 1)
    """
    return Result(code & 0xFF or 1, Ending.FAILED)
