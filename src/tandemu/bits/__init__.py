"""Bit fields, sign extension and the layouts of structures."""

from tandemu.bits.fields import align_down, align_up, extract, insert, mask, sign_extend
from tandemu.bits.layout import I64, U8, U16, U32, U64, Array, Layout, Scalar

__all__ = [
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Array",
    "Layout",
    "Scalar",
    "align_down",
    "align_up",
    "extract",
    "insert",
    "mask",
    "sign_extend",
]
