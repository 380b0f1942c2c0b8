"""The errors of this layer."""

from __future__ import annotations


class MachineError(RuntimeError):
    """A machine cannot be made or run as asked; the message says why and how to mend it."""


class OptionError(MachineError):
    """An option has a value that no machine can have; the message says which it may have."""

    is_usage = True
    """The command line ends with the status of a wrong option."""


class MachineTimeout(MachineError, TimeoutError):
    """What was waited for did not happen in time; the machine goes on running."""
