"""System calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_libc: Any = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename(old: int, old_name: bytes, new: int, new_name: bytes, flags: int) -> None:
    """``renameat2``: *old* and *new* are directories."""
    _check(_libc.renameat2(old, old_name, new, new_name, ctypes.c_uint(flags)))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """``fallocate``."""
    _check(_libc.fallocate64(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def syncfs(descriptor: int) -> None:
    """``syncfs``: write the whole file system that *descriptor* is on."""
    _check(_libc.syncfs(descriptor))
