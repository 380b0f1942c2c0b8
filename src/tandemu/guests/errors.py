"""The one exception of this layer."""

from __future__ import annotations


class GuestError(RuntimeError):
    """A guest image cannot be had, read or built; the message says why and how to mend it."""


class UnknownGuestError(GuestError):
    """No guest has the name, or none fits; the message lists those there are."""

    is_usage = True
    """The command line ends with the status of a wrong option."""
