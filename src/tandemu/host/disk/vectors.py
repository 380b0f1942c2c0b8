"""Lists of buffers: a request's memory as pieces, cut without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence

Buffers = Sequence[memoryview]
"""A request's memory in order. Each buffer is contiguous and of bytes."""

_ZEROS = bytes(1 << 20)
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int
_ZEROS_ADDRESS = ctypes.cast(ctypes.c_char_p(_ZEROS), ctypes.c_void_p).value or 0


def length_of(buffers: Buffers) -> int:
    """How many bytes *buffers* hold together."""
    if len(buffers) == 1:
        return buffers[0].nbytes
    return sum(buffer.nbytes for buffer in buffers)


def cut(buffers: Buffers, begin: int, length: int) -> list[memoryview]:
    """The pieces of *buffers* that hold the *length* bytes from *begin*.

    >>> [bytes(one) for one in cut([memoryview(b"abc"), memoryview(b"def")], 2, 3)]
    [b'c', b'de']
    """
    pieces = []
    for buffer in buffers:
        size = buffer.nbytes
        if begin >= size:
            begin -= size
            continue
        piece = buffer[begin : begin + length] if begin or length < size else buffer
        begin = 0
        pieces.append(piece)
        length -= piece.nbytes
        if length <= 0:
            break
    return pieces


def fill_zeros(buffers: Buffers) -> None:
    """Make all bytes of *buffers* zero."""
    for buffer in buffers:
        for begin in range(0, buffer.nbytes, len(_ZEROS)):
            part = buffer[begin : begin + len(_ZEROS)]
            part[:] = memoryview(_ZEROS)[: part.nbytes]


def zeros(length: int) -> Iterator[memoryview]:
    """Buffers of zeros, *length* bytes together, that share their memory."""
    while length > 0:
        part = min(length, len(_ZEROS))
        yield memoryview(_ZEROS)[:part]
        length -= part


def scatter(data: bytes | bytearray | memoryview, buffers: Buffers) -> None:
    """Copy *data* into *buffers*, which are as long."""
    view = memoryview(data)
    for buffer in buffers:
        buffer[:] = view[: buffer.nbytes]
        view = view[buffer.nbytes :]


def gather(buffers: Buffers) -> bytes:
    """The bytes of *buffers* in one piece."""
    return b"".join(buffers)


def is_zero(address: int, length: int) -> bool:
    """Whether *length* bytes of this process at *address* are zero. The caller keeps them alive."""
    while length > 0:
        part = min(length, len(_ZEROS))
        if _memcmp(address, _ZEROS_ADDRESS, part):
            return False
        address += part
        length -= part
    return True
