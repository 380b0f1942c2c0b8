"""What a machine is made from, as a user hands it over, and what of that goes wrong below."""

from __future__ import annotations

import os

from tandemu import board as boards
from tandemu.accel import AccelError
from tandemu.board import BoardError

Source = str | os.PathLike[str] | bytes
"""A file's path, or its content."""


def read_source(source: Source, name: str) -> boards.File:
    """What *source* holds; one that is no path is called *name*."""
    if isinstance(source, bytes | bytearray):
        return boards.File(memoryview(source), name)
    return boards.File(boards.read_file(source), os.fspath(source))


def told_errors() -> tuple[type[Exception], ...]:
    """The errors of the layers below, whose messages are meant for the user."""
    from tandemu.native import NativeError

    return BoardError, AccelError, NativeError
