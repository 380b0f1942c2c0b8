"""How a run ended, and the exit status a process reports for it."""

from __future__ import annotations

from enum import Enum

from tandemu.bits import Record


class Ending(Enum):
    """Why the machine runs no more."""

    POWERED_OFF = "the guest powered off"
    FAILED = "the guest ended with a failure code"
    TIMED_OUT = "the time given to the machine was over"
    STOPPED = "the machine was stopped from outside"


class Result(Record):
    """How a run ended.

    *exit_status* is 0 when the guest powered off, its own code when it gave one (1 to
    255), 124 at a time-out, 0 when it was stopped from outside.
    """

    exit_status: int
    ending: Ending

    @property
    def reason(self) -> str:
        """The ending in words."""
        if self.ending is Ending.FAILED:
            return f"{self.ending.value}, {self.exit_status}"
        return str(self.ending.value)


TIMED_OUT = Result(124, Ending.TIMED_OUT)
STOPPED = Result(0, Ending.STOPPED)
POWERED_OFF = Result(0, Ending.POWERED_OFF)


def failed(code: int) -> Result:
    """The result of a guest that reports *code*: as an exit status, never 0.

    >>> failed(3).exit_status, failed(0).exit_status, failed(0x1200).exit_status
    (3, 1, 1)
    """
    return Result(code & 0xFF or 1, Ending.FAILED)
