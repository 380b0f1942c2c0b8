"""Arithmetic on bit fields of Python integers."""


def mask(bits: int) -> int:
    """Return an integer whose low *bits* bits are one.

    >>> hex(mask(12))
    '0xfff'
    """
    return (1 << bits) - 1


def extract(value: int, low: int, bits: int) -> int:
    """Return the *bits*-wide field of *value* that starts at bit *low*.

    >>> extract(0xABCD, 4, 8)
    188
    """
    return (value >> low) & mask(bits)


def insert(value: int, low: int, bits: int, field: int) -> int:
    """Return *value* with the *bits*-wide field at bit *low* replaced by *field*.

    >>> hex(insert(0xFFFF, 4, 8, 0))
    '0xf00f'
    """
    return (value & ~(mask(bits) << low)) | ((field & mask(bits)) << low)


def sign_extend(value: int, bits: int) -> int:
    """Read the low *bits* bits of *value* as a two's complement number.

    >>> sign_extend(0xFFF, 12), sign_extend(0x7FF, 12)
    (-1, 2047)
    """
    sign = 1 << (bits - 1)
    return ((value & mask(bits)) ^ sign) - sign


def align_up(value: int, alignment: int) -> int:
    """Round *value* up to a multiple of *alignment*, a power of two.

    >>> align_up(4097, 4096)
    8192
    """
    return (value + alignment - 1) & -alignment


def align_down(value: int, alignment: int) -> int:
    """Round *value* down to a multiple of *alignment*, a power of two."""
    return value & -alignment
