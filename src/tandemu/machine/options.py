"""Options as people write them, checked and turned into numbers."""

from __future__ import annotations

import math
import re

from tandemu.machine.errors import OptionError

MAXIMUM_CPUS = 64
_UNITS = {"": 20, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"\s*(\d{1,15})\s*([BKMGT]?)(?:I?B)?\s*", re.IGNORECASE | re.ASCII)
_PAGE_BYTES = 4096
_MAXIMUM_BYTES = 1 << 40


def parse_memory(value: str | int) -> int:
    """Return a size in bytes: *value* is bytes, or text such as ``512M``, ``1G``, ``512``.

    In text K, M, G and T are powers of 1024 and a bare number is in MiB.

    >>> parse_memory("512M") == parse_memory("512") == parse_memory("524288k") == 512 << 20
    True
    >>> parse_memory("lots")
    Traceback (most recent call last):
        ...
    tandemu.machine.errors.OptionError: memory of 'lots': must be a size such as 512M or 2G
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise OptionError(f"memory of {value!r}: must be a size such as 512M or 2G")
        size = int(match[1]) << _UNITS[match[2].upper()]
    if not 0 < size <= _MAXIMUM_BYTES or size % _PAGE_BYTES:
        raise OptionError(
            f"memory of {value!r}: must be a multiple of 4 KiB, more than nothing and at most 1T"
        )
    return size


def check_cpus(value: int) -> int:
    """Return *value* if a machine can have so many CPUs."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAXIMUM_CPUS:
        raise OptionError(f"{value!r} CPUs: must be a whole number from 1 to {MAXIMUM_CPUS}")
    return value


def check_timeout(value: float | None) -> float | None:
    """Return *value* if it is a number of seconds above 0, or None for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"a time-out of {value!r}: must be a number of seconds")
    if not 0 < value < math.inf:
        raise OptionError(f"a time-out of {value} seconds: must be more than 0")
    return float(min(value, 1e9))
