"""System calls as text, and as the value that a hook gets."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tandemu.accel.user import INTERRUPTED, INTERRUPTED_RESTARTS
from tandemu.linux.host import HostFault

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory
    from tandemu.linux.table import Row

_SHOWN = 32
_AT_FDCWD = -100
_ADDRESS_RESULTS = frozenset(("mmap", "mremap", "brk", "shmat"))


class Call:
    """A system call about to be made. A hook may read and write memory and *arguments*."""

    __slots__ = ("arguments", "memory", "name", "number", "thread")

    def __init__(
        self, memory: Memory, name: str, number: int, arguments: list[int], thread: int
    ) -> None:
        self.memory, self.name, self.number = memory, name, number
        self.arguments, self.thread = arguments, thread

    def string(self, index: int) -> bytes:
        """The text that argument *index* points to; empty if it points to none."""
        try:
            return self.memory.read_string(self.arguments[index])
        except OSError:
            return b""

    def data(self, index: int, size: int) -> bytes:
        """The *size* bytes that argument *index* points to; empty if it points to none."""
        try:
            return self.memory.read(self.arguments[index], size)
        except OSError:
            return b""

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(hex(value) for value in self.arguments)})"


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _text(data: bytes, cut: bool) -> str:
    shown = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in (34, 92)
        else {9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\"}.get(byte, f"\\x{byte:02x}")
        for byte in data
    )  # fmt: skip
    return f'"{shown}"' + ("…" if cut else "")


def describe_call(row: Row, arguments: list[int], memory: Memory, result: int | None = None) -> str:
    """The call as source text, as far as memory can be read; *result* if it was made."""
    words = []
    for index, kind in enumerate(row.arguments):
        value = arguments[index]
        words.append(_describe(kind, value, index, arguments, memory, result))
    return f"{row.name}({', '.join(words)})"


def _describe(
    kind: str, value: int, index: int, arguments: list[int], memory: Memory, result: int | None
) -> str:
    if kind in ("fd", "file", "int", "pid", "sig"):
        return str(_signed(value, 32))
    if kind == "dirfd":
        number = _signed(value, 32)
        return "AT_FDCWD" if number == _AT_FDCWD else str(number)
    if kind == "long":
        return str(_signed(value, 64))
    if kind == "mode":
        return f"0{value:o}"
    if kind == "size":
        return str(value)
    if kind in ("path", "str", "in", "out", "ptr") and not value:
        return "NULL"
    try:
        if kind in ("path", "str"):
            return _text(memory.read_string(value), False)
        if kind in ("in", "out"):
            size = arguments[index + 1]
            if kind == "out":
                size = result if result is not None and result > 0 else 0
            if size:
                return _text(memory.read(value, min(size, _SHOWN)), size > _SHOWN)
    except (HostFault, OSError):
        pass
    return hex(value)


def describe_result(row: Row, result: int | None) -> str:
    """What a call returned."""
    if result is None:
        return "?"
    if INTERRUPTED <= result <= INTERRUPTED_RESTARTS:
        return "? (interrupted)"
    if -4096 < result < 0:
        return f"-1 {errno.errorcode.get(-result, str(-result))}"
    return hex(result) if row.name in _ADDRESS_RESULTS else str(result)
