"""The exception of the native layer."""

from __future__ import annotations


class NativeError(RuntimeError):
    """Native code cannot be made, linked or run; the message says why and what mends it."""
