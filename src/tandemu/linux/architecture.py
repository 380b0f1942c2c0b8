"""What differs between guest architectures, as one value each.

The rest of this package asks an `Architecture` for numbers, structure layouts and the
registers of the calling convention, and holds nothing of one architecture itself.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

Buffer = bytes | ctypes.Array[ctypes.c_char]


class Architecture(Protocol):
    """One guest architecture's side of the system call interface."""

    name: str
    """As uname(2) says it."""
    machine: int
    """e_machine of its ELF files."""
    xlen: int
    platform: bytes
    """AT_PLATFORM, or empty."""
    hwcap: int
    hwcap2: int
    """AT_HWCAP and AT_HWCAP2."""
    numbers: dict[str, int]
    """System call numbers by name."""
    number_register: int
    """Index in ``state.x`` of the register that holds a system call's number."""
    first_register: int
    """Index in ``state.x`` of its first argument, where the result goes too."""
    call_size: int
    """Bytes of the system call instruction: how far to step back to do it again."""
    trampoline: bytes
    """Code that calls rt_sigreturn."""
    cpuinfo: str
    """What /proc/cpuinfo says of one processor; ``{number}`` stands for which."""

    def stat(self, host: Buffer) -> bytes:
        """The guest's struct stat, from the host's at the start of a buffer."""

    def open_flags(self, flags: int) -> int:
        """The host's flags of open(2) for the guest's; and the guest's for the host's."""

    def note_fault(self, state: Any, address: int, access: str, mapped: bool) -> None:
        """The program's *access* ("read", "write", "execute") at *address* was refused, where
        something is *mapped* or not: what a signal's frame may tell of it."""

    def start(self, state: Any, entry: int, stack: int) -> None:
        """Set the registers of a program that begins."""

    def copy_registers(self, source: Any, target: Any) -> None:
        """Give *target* all registers of *source*."""

    def start_thread(self, state: Any, stack: int, thread_pointer: int | None) -> None:
        """Make a copy of its parent's registers those of a child that returns from clone."""

    def set_thread_pointer(self, state: Any, value: int) -> None:
        """Set the register that points to thread-local storage."""

    def stack_pointer(self, state: Any) -> int:
        """The stack pointer."""
