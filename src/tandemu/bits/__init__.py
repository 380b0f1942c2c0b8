"""Bit fields, sign extension, the layouts of structures, records."""

from tandemu.bits.fields import align_down, align_up, extract, insert, mask, sign_extend
from tandemu.bits.layout import I64, U8, U16, U32, U64, Array, Layout, Scalar
from tandemu.bits.record import Mutable, Record, replace

__all__ = [
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Array",
    "Layout",
    "Mutable",
    "Record",
    "Scalar",
    "align_down",
    "align_up",
    "extract",
    "insert",
    "mask",
    "replace",
    "sign_extend",
]
