"""What a machine has of the host's: disk images, folders, sockets, as options and as values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from tandemu.bits import Record
from tandemu.machine.errors import OptionError

Path = str | os.PathLike[str]

_INTERFACES = ("virtio",)
_LONGEST_SERIAL = 20
_MOST_QUEUES = 16


class Drive(Record):
    """The disk image at *path* as a disk of the guest's.

    *format* "" means that it is told from the file's content; *serial* is what the guest can tell
    the disk by.
    """

    path: str
    format: str = ""
    read_only: bool = False
    interface: str = "virtio"
    serial: str = ""
    queues: int = 1

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise OptionError("a drive without a file: give the path of a disk image")
        if self.interface not in _INTERFACES:
            raise OptionError(
                f"a drive with if={self.interface}: must be one of {', '.join(_INTERFACES)}"
            )
        if not self.serial.isascii() or len(self.serial) > _LONGEST_SERIAL:
            raise OptionError(
                f"a drive with the serial {self.serial!r}: must be at most {_LONGEST_SERIAL} "
                "ASCII characters"
            )
        if not 1 <= self.queues <= _MOST_QUEUES:
            raise OptionError(f"a drive with {self.queues} queues: must be 1 to {_MOST_QUEUES}")


def split_option(text: str) -> tuple[str, dict[str, str]]:
    """The first word of an option, and its other words by name; a comma is written twice.

    >>> split_option("a,,b,format=raw,readonly")
    ('a,b', {'format': 'raw', 'readonly': ''})
    """
    first, *words = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    named: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in named:
            raise OptionError(f"{text!r} says {name} twice")
        named[name] = value
    return first, named


def _flag(text: str, name: str, value: str) -> bool:
    if value not in ("", "on", "off"):
        raise OptionError(f"{name}={value} in {text!r}: must be {name}, {name}=on or {name}=off")
    return value != "off"


def _refuse_others(text: str, named: Mapping[str, str], known: Iterable[str]) -> None:
    known = tuple(known)
    for name in named:
        if name not in known:
            raise OptionError(
                f"{text!r} has {name!r}, which is none of {', '.join(known)}; a comma in a file's "
                "name is written twice"
            )


def parse_drive(given: Path | Drive) -> Drive:
    """A drive from ``FILE[,format=F][,readonly][,if=virtio][,serial=S][,queues=N]``."""
    if isinstance(given, Drive):
        return given
    if not isinstance(given, str):
        return Drive(os.fspath(given))
    path, named = split_option(given)
    _refuse_others(given, named, ("format", "readonly", "if", "serial", "queues"))
    queues = named.get("queues", "1")
    if not queues.isascii() or not queues.isdigit() or len(queues) > 4:
        raise OptionError(f"queues={queues} in {given!r}: must be a number")
    return Drive(
        path,
        named.get("format", ""),
        "readonly" in named and _flag(given, "readonly", named["readonly"]),
        named.get("if", "virtio"),
        named.get("serial", ""),
        int(queues),
    )
