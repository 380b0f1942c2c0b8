"""Memory that holds machine code: an anonymous mapping, readable, writable and executable.

Translated code is written and run by several threads at once, so the pages
stay writable; a host whose policy forbids that cannot run the translator.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from types import TracebackType

from tandemu.bits import align_up
from tandemu.native.errors import NativeError

# Linux on x86-64; Python names them only since 3.13.
_MAP_32BIT = 0x40
_MAP_NORESERVE = 0x4000
LOW_LIMIT = 1 << 31
"""Low memory ends here: such addresses are valid as signed 32-bit immediates."""


class ExecutableMemory:
    """*size* bytes (rounded up to pages) of zeroed memory that may be written and executed.

    *low* places it below `LOW_LIMIT`, so that code may hold its addresses in 32
    bits and jump between any two such mappings; the host has about 1 GiB of it.
    Pages cost memory only once touched.
    """

    def __init__(self, size: int, *, low: bool = True) -> None:
        if size <= 0:
            raise NativeError(f"executable memory of {size} bytes: the size must be positive")
        self.size = align_up(size, mmap.PAGESIZE)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        try:
            self._map = mmap.mmap(
                -1, self.size, flags=flags | (_MAP_32BIT if low else 0), prot=protection
            )
        except (OSError, OverflowError, ValueError) as error:
            raise NativeError(_refusal(self.size, low, error)) from error
        self.view = memoryview(self._map)
        """All of it, for Python's reads and writes."""
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        """Host address of the first byte; valid until `close`."""
        if low and self.address + self.size > LOW_LIMIT:
            self.close()
            raise NativeError(f"the host placed low memory at {self.address:#x}: not below 2 GiB")

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy *data* to *offset*; NativeError if it does not fit."""
        self._check(offset, len(data))
        self.view[offset : offset + len(data)] = data

    def read(self, offset: int, size: int) -> bytes:
        """Return *size* bytes from *offset*; NativeError if they are not all inside."""
        self._check(offset, size)
        return bytes(self.view[offset : offset + size])

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise NativeError(f"{size} bytes at {offset:#x} lie outside {self.size:#x} bytes")

    def close(self) -> None:
        """Give the memory back. Nothing may run in it any more; closing twice is fine."""
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            # Somebody still holds a view: the mapping goes with the last of them.
            return

    def __enter__(self) -> ExecutableMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _refusal(size: int, low: bool, error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    what = f"cannot map {size >> 10} KiB of executable memory ({error})"
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"{what}: the host forbids memory that is writable and executable; allow it for "
            "this program (SELinux: `setsebool -P deny_execmem off`; systemd: "
            "`MemoryDenyWriteExecute=no`)"
        )
    if code == errno.ENOMEM and low:
        return f"{what}: too little free address space below 2 GiB; ask for a smaller code cache"
    return f"{what}: raise the limit on address space (`ulimit -v`) or ask for less"
