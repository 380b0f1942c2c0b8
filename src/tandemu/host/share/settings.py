"""How a folder is shared."""

from __future__ import annotations

from enum import Enum

from tandemu.bits import Record


class ShareError(OSError):
    """A folder that cannot be shared; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Caching(Enum):
    """How long the guest may believe what it knows of the folder."""

    NONE = "none"
    """Not at all: each look asks the host, and files are read anew."""
    AUTO = "auto"
    """Names and attributes for a second; content while the file is as it was when it was opened."""
    ALWAYS = "always"
    """For ever: nobody but this guest changes the folder. Writes are collected in the guest."""


class ShareSettings(Record):
    """*path* is the folder. *record_owners*: owners and modes that the guest sets are kept in an
    extended attribute instead of being set on the host, which needs no privilege."""

    path: str
    read_only: bool = False
    caching: Caching = Caching.AUTO
    record_owners: bool = False
