"""NOR flash with the Intel command set: Common Flash Interface (JESD68), command set 0001.

A bank 32 bits wide, made of two 16-bit chips side by side as on QEMU's `virt`
board: commands arrive on both halves, status and identity are answered on both.
While the bank is in read-array mode the guest reads its memory directly, through
a read-only memory slot, and only writes come here; *set_direct* tells the
board when that mode begins and ends.

Programming clears bits and never sets them, as in the real part. Programming
and erasing take no time. Left out: suspend and resume, block locking (lock
commands succeed and do nothing), protection registers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tandemu.bits import mask
from tandemu.device.registers import DeviceError, Peripheral, RegisterMap, queue, state

BLOCK_BYTES = 0x40000
BUFFER_BYTES = 1024
"""Write buffer of the bank; each of the two chips has half."""

_CHIPS = 2
_BANK_BYTES = 4

# What a read answers with
ARRAY, STATUS, IDENTITY, QUERY = range(4)
# What a write means: a command, or the next step of one
COMMAND, PROGRAM, ERASE, LOCK, BUFFER_COUNT, BUFFER_DATA, BUFFER_CONFIRM = range(7)

READY, ERASE_ERROR, PROGRAM_ERROR, PROTECTED = 0x80, 0x20, 0x10, 0x02
CONFIRM = 0xD0
_MANUFACTURER, _PART = 0x89, 0x18


def query_table(size_bytes: int) -> bytes:
    """The CFI query structure of one chip of a bank of *size_bytes* bytes."""
    table = bytearray(0x60)
    chip = size_bytes // _CHIPS
    blocks = size_bytes // BLOCK_BYTES - 1
    units = BLOCK_BYTES // _CHIPS // 256
    table[0x10:0x13] = b"QRY"
    table[0x13] = 0x01  # Intel command set
    table[0x15] = 0x31  # where its own table stands
    table[0x1B:0x1D] = bytes((0x45, 0x55))  # 4.5 V to 5.5 V
    table[0x1F:0x27] = bytes((7, 7, 10, 0, 4, 4, 4, 0))  # time-outs, powers of two
    table[0x27] = chip.bit_length() - 1
    table[0x28] = 0x02  # 8 or 16 bits wide
    table[0x2A] = (BUFFER_BYTES // _CHIPS).bit_length() - 1
    table[0x2C] = 1  # one region of equal blocks
    table[0x2D:0x31] = blocks.to_bytes(2, "little") + units.to_bytes(2, "little")
    table[0x31:0x36] = b"PRI10"
    table[0x3F] = 1
    return bytes(table)


class CfiFlash(Peripheral):
    """One bank over *storage*, which the guest also reads directly while *set_direct* said so."""

    registers = RegisterMap()

    storage: memoryview
    set_direct: Callable[[bool], None]
    readonly: bool = False
    replaced: Callable[[int, int], None] = lambda offset, size: None
    """Hears what of the storage was changed: offset and size in bytes."""

    mode: int = state(2)
    step: int = state(3)
    status: int = state(8, READY)
    block: int = state(32)
    """Offset of the block a multi-step command is about."""
    remaining: int = state(16)
    """Bus words the write buffer still waits for."""
    pieces: list[int] = queue(BUFFER_BYTES, 96)
    """The write buffer: offset << 64 | size << 60 | value of each write."""

    def prepare(self) -> None:
        size = len(self.storage)
        if size % BLOCK_BYTES or size & size - 1 or not size:
            raise DeviceError(
                f"flash of {size} bytes: must be a power of two and a multiple of {BLOCK_BYTES}"
            )
        self._lock = threading.Lock()
        self._table = query_table(size)
        self._direct = True

    def restored(self) -> None:
        self._direct = self.mode == ARRAY
        self.set_direct(self._direct)

    def read(self, offset: int, size: int) -> int:
        if self.mode == ARRAY:
            return int.from_bytes(self.storage[offset : offset + size], "little")
        if self.mode == STATUS:
            chip = self.status
        else:
            word = offset // _BANK_BYTES
            if self.mode == QUERY:
                chip = self._table[word] if word < len(self._table) else 0
            else:
                chip = {0: _MANUFACTURER, 1: _PART}.get(word & 0xFF, 0)
        both = chip << 48 | chip << 32 | chip << 16 | chip
        return both >> offset % 2 * 8 & mask(size * 8)

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            self._step(offset, size, value)
            direct = self.mode == ARRAY
            if direct != self._direct:
                self._direct = direct
                self.set_direct(direct)

    def _step(self, offset: int, size: int, value: int) -> None:
        step, self.step = self.step, COMMAND
        if step == COMMAND:
            self._command(offset, value & 0xFF)
        elif step == PROGRAM:
            self._program(offset, size, value)
        elif step == ERASE:
            if value & 0xFF == CONFIRM:
                self._erase()
            else:
                self.status |= ERASE_ERROR | PROGRAM_ERROR
        elif step == BUFFER_COUNT:
            words = (value & 0xFFFF) + 1
            if words * _BANK_BYTES > BUFFER_BYTES:
                self.status |= PROGRAM_ERROR
            else:
                self.remaining = words
                self.step = BUFFER_DATA
        elif step == BUFFER_DATA:
            self._collect(offset, size, value)
        elif step == BUFFER_CONFIRM:
            pieces, self.pieces = self.pieces, []
            if value & 0xFF != CONFIRM:
                self.status |= ERASE_ERROR | PROGRAM_ERROR
                return
            for piece in pieces:
                self._program(piece >> 64, piece >> 60 & 0xF, piece & mask(60))

    def _command(self, offset: int, command: int) -> None:
        if command in (0xFF, 0xF0, 0x00):
            self.mode = ARRAY
            return
        self.mode = {0x90: IDENTITY, 0x98: QUERY}.get(command, STATUS)
        if command in (0x10, 0x40):
            self.step = PROGRAM
        elif command in (0x20, 0xE8):
            self.step = ERASE if command == 0x20 else BUFFER_COUNT
            self.block = offset // BLOCK_BYTES * BLOCK_BYTES
            self.pieces = []
        elif command == 0x60:
            self.step = LOCK
        elif command == 0x50:
            self.status = READY

    def _collect(self, offset: int, size: int, value: int) -> None:
        """Take one bus word into the write buffer; it may not leave the block."""
        half = size // 2
        if size > _BANK_BYTES:
            # An 8-byte store arrives at the chips as two bus words.
            self._collect(offset, half, value & mask(half * 8))
            if self.step == BUFFER_DATA:
                self._collect(offset + half, half, value >> half * 8)
            return
        if offset // BLOCK_BYTES * BLOCK_BYTES != self.block:
            self.status |= PROGRAM_ERROR
            self.pieces = []
            return
        self.pieces.append(offset << 64 | size << 60 | value)
        self.remaining -= 1
        self.step = BUFFER_DATA if self.remaining else BUFFER_CONFIRM

    def _program(self, offset: int, size: int, value: int) -> None:
        if self.readonly:
            self.status |= PROGRAM_ERROR | PROTECTED
            return
        place = self.storage[offset : offset + size]
        old = int.from_bytes(place, "little")
        place[:] = (old & value & mask(len(place) * 8)).to_bytes(len(place), "little")
        self.replaced(offset, len(place))

    def _erase(self) -> None:
        if self.readonly or self.block >= len(self.storage):
            self.status |= ERASE_ERROR | PROTECTED
            return
        self.storage[self.block : self.block + BLOCK_BYTES] = b"\xff" * BLOCK_BYTES
        self.replaced(self.block, BLOCK_BYTES)
