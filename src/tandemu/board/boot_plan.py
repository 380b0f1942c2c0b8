"""What a board begins with: memory's content, and where each processor starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tandemu.bits import Record
from tandemu.board.program import Segment
from tandemu.memory import GuestMemory

if TYPE_CHECKING:
    from tandemu.board.instance import Board


class HartStart(Record):
    """A processor that starts at power-on: at *address*, with *opaque* for built-in firmware.

    *registers* are set first, if there is no such firmware.
    """

    address: int
    opaque: int = 0
    registers: Mapping[str, int] = {}


class BootPlan(Record):
    """Everything to put into memory, and where to begin.

    *entry* is the address of what was loaded last in the chain: the kernel's with built-in
    firmware, else that of what the board starts first. *starts* are the processors that run at
    power-on, from number 0 on. *firmware_calls*: the machine answers the kernel's calls.
    """

    entry: int
    segments: tuple[Segment, ...]
    starts: tuple[HartStart, ...]
    named: Mapping[str, range]
    """What stands where, for messages and listings."""
    firmware_calls: bool = False
    board: Board | None = None
    """What the board is for this guest, if that is not as it was asked for."""

    def write(self, memory: GuestMemory) -> None:
        """Put everything into guest memory, which is new: zero where there is no data."""
        for segment in self.segments:
            segment.load(memory)


class Images(Record):
    """What a user gives a machine to boot, read but not yet looked into.

    *firmware* None: the board's own way to start a kernel. *bare*: no firmware at all.
    *devices*: there are some that could send messages instead of driving wires.
    """

    kernel: File | None = None
    firmware: File | None = None
    bare: bool = False
    initrd: memoryview | None = None
    bootargs: str = ""
    random_seed: bytes = b""
    devices: bool = False


class File(Record):
    """The content of a file, and what it is called in messages."""

    data: memoryview
    name: str
