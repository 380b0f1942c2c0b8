"""What engines raise."""

from __future__ import annotations


class AccelError(RuntimeError):
    """An engine cannot do what it was asked; the message says why and how to mend it."""
