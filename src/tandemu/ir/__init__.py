"""The embedded language: programs written by Python functions that run once.

The same program can be evaluated in Python (`evaluate`), printed (`show`) and
lowered to LLVM (`lower`).
"""

import tandemu.ir.float_operations  # noqa: F401 - adds its rows to the table
from tandemu.ir.builder import Builder, Elements, Local, Struct
from tandemu.ir.evaluate import Evaluator, evaluate
from tandemu.ir.llvm import lower
from tandemu.ir.printer import show
from tandemu.ir.program import Function
from tandemu.ir.types import (
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    I128,
    PTR,
    I,
    IrError,
    Type,
    V,
)
from tandemu.ir.values import Constant, Symbol, Undefined, Value
from tandemu.ir.vectors import vector_of

__all__ = [
    "F32",
    "F64",
    "I1",
    "I8",
    "I16",
    "I32",
    "I64",
    "I128",
    "PTR",
    "Builder",
    "Constant",
    "Elements",
    "Evaluator",
    "Function",
    "I",
    "IrError",
    "Local",
    "Struct",
    "Symbol",
    "Type",
    "Undefined",
    "V",
    "Value",
    "evaluate",
    "lower",
    "show",
    "vector_of",
]
