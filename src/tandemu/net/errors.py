"""What goes wrong with networks by the user's mistake or the host's refusal."""

from __future__ import annotations


class NetError(Exception):
    """A network cannot be as it is asked for; the message says why and how to mend it."""
