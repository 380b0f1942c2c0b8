"""The error of this layer."""

from __future__ import annotations


class DebugError(Exception):
    """A debugger cannot have what it asked for; the message says why."""
