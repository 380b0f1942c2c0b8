"""Values of the embedded language and the operators on them.

A value is a constant known now (`Constant`), a constant known when code is
patched (`Symbol`), or a result that exists when the code runs. Operators fold
what is known and otherwise add an operation to the builder the value belongs
to, so that an ordinary Python function that computes with values leaves its
program behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tandemu.bits import mask, sign_extend
from tandemu.ir.operations import TABLE
from tandemu.ir.types import I1, IrError, Type

if TYPE_CHECKING:
    from tandemu.ir.builder import Builder

Operand = "Value | int"


class Value:
    """A typed value. Python integers mix freely with integer values."""

    __slots__ = ("builder", "narrow", "note", "number", "type", "zero_extended")

    def __init__(self, type: Type, builder: Builder | None = None, number: int = -1) -> None:
        self.type = type
        self.builder = builder
        self.number = number
        self.narrow: Value | None = None
        """What this is the sign extension of, if that is known."""
        self.zero_extended: int | None = None
        """How many bits this is the zero extension of, if that is known."""
        self.note: Any = None
        """What a guest's semantics know of it: those that see this very value may use it."""

    def __repr__(self) -> str:
        return f"%{self.number}:{self.type}"

    def __bool__(self) -> bool:
        raise IrError("a value has no truth now: use If, While or select")

    __hash__ = object.__hash__

    def _binary(self, name: str, other: Value | int, swap: bool = False) -> Value:
        other = self._lift(other)
        pair = (other, self) if swap else (self, other)
        return emit(name, *pair)

    def _lift(self, other: Value | int) -> Value:
        if isinstance(other, Value):
            return other
        if not self.type.is_integer:
            raise IrError(f"an integer does not mix with {self.type}: make a constant of that type")
        return Constant(self.type, other)

    # Floats take the same arithmetic operators; the row's name tells them apart.
    def _arithmetic(self, name: str, other: Value | int, swap: bool = False) -> Value:
        return self._binary("f" + name if self.type.is_float else name, other, swap)

    def __add__(self, other: Value | int) -> Value:
        return self._arithmetic("add", other)

    def __radd__(self, other: int) -> Value:
        return self._arithmetic("add", other, True)

    def __sub__(self, other: Value | int) -> Value:
        return self._arithmetic("sub", other)

    def __rsub__(self, other: int) -> Value:
        return self._arithmetic("sub", other, True)

    def __mul__(self, other: Value | int) -> Value:
        return self._arithmetic("mul", other)

    def __rmul__(self, other: int) -> Value:
        return self._arithmetic("mul", other, True)

    def __truediv__(self, other: Value) -> Value:
        return self._binary("fdiv", other)

    def __and__(self, other: Value | int) -> Value:
        return self._binary("and", other)

    __rand__ = __and__

    def __or__(self, other: Value | int) -> Value:
        return self._binary("or", other)

    __ror__ = __or__

    def __xor__(self, other: Value | int) -> Value:
        return self._binary("xor", other)

    __rxor__ = __xor__

    def __invert__(self) -> Value:
        return self ^ mask(self.type.bits)

    def __neg__(self) -> Value:
        return 0 - self

    def __lshift__(self, other: Value | int) -> Value:
        return self._binary("shl", other)

    def __rshift__(self, other: Value | int) -> Value:
        """Logical shift right; `sar` is the arithmetic one."""
        return self._binary("shr", other)

    def sar(self, other: Value | int) -> Value:
        """Arithmetic shift right."""
        return self._binary("sar", other)

    def __eq__(self, other: Value | int) -> Value:  # type: ignore[override]
        return self._binary("eq", other)

    def __ne__(self, other: Value | int) -> Value:  # type: ignore[override]
        return self._binary("ne", other)

    def ult(self, other: Value | int) -> Value:
        """Unsigned less than."""
        return self._binary("ult", other)

    def ule(self, other: Value | int) -> Value:
        """Unsigned less than or equal."""
        return self._binary("ule", other)

    def ugt(self, other: Value | int) -> Value:
        """Unsigned greater than."""
        return self._binary("ult", other, True)

    def uge(self, other: Value | int) -> Value:
        """Unsigned greater than or equal."""
        return self._binary("ule", other, True)

    def slt(self, other: Value | int) -> Value:
        """Signed less than."""
        return self._binary("slt", other)

    def sle(self, other: Value | int) -> Value:
        """Signed less than or equal."""
        return self._binary("sle", other)

    def sgt(self, other: Value | int) -> Value:
        """Signed greater than."""
        return self._binary("slt", other, True)

    def sge(self, other: Value | int) -> Value:
        """Signed greater than or equal."""
        return self._binary("sle", other, True)

    def udiv(self, other: Value | int) -> Value:
        """Unsigned quotient; undefined for a zero divisor."""
        return self._binary("udiv", other)

    def urem(self, other: Value | int) -> Value:
        """Unsigned remainder; undefined for a zero divisor."""
        return self._binary("urem", other)

    def sdiv(self, other: Value | int) -> Value:
        """Signed quotient towards zero; undefined for zero and on overflow."""
        return self._binary("sdiv", other)

    def srem(self, other: Value | int) -> Value:
        """Signed remainder, sign of the dividend; undefined for zero and on overflow."""
        return self._binary("srem", other)

    def rotate_left(self, other: Value | int) -> Value:
        return self._binary("rotate_left", other)

    def rotate_right(self, other: Value | int) -> Value:
        return self._binary("rotate_right", other)

    def count_leading_zeros(self) -> Value:
        """Number of zero bits above the highest one; the width for zero."""
        return emit("count_leading_zeros", self)

    def count_trailing_zeros(self) -> Value:
        """Number of zero bits below the lowest one; the width for zero."""
        return emit("count_trailing_zeros", self)

    def population_count(self) -> Value:
        """Number of one bits."""
        return emit("population_count", self)

    def byte_swap(self) -> Value:
        return emit("byte_swap", self)

    def zext(self, to: Type) -> Value:
        """Widen with zeros; the same type is left alone."""
        if to == self.type:
            return self
        wide = emit("zext", self, attributes=(to,))
        wide.zero_extended = self.type.bits
        return wide

    def sext(self, to: Type) -> Value:
        """Widen with copies of the sign; the same type is left alone."""
        if to == self.type:
            return self
        wide = emit("sext", self, attributes=(to,))
        if not isinstance(wide, Constant):
            wide.narrow = self
        return wide

    def trunc(self, to: Type) -> Value:
        """Keep the low bits; the same type is left alone."""
        return self if to == self.type else emit("trunc", self, attributes=(to,))

    def resize(self, to: Type, signed: bool = False) -> Value:
        """Widen or narrow to *to*, whichever it takes."""
        if to.bits < self.type.bits:
            return self.trunc(to)
        return self.sext(to) if signed else self.zext(to)

    def bits(self, low: int, width: int) -> Value:
        """The *width*-bit field that starts at bit *low*, as an integer of this type."""
        return (self >> low) & mask(width) if low else self & mask(width)

    def bit(self, number: int) -> Value:
        """Bit *number* as a 1-bit value."""
        return (self >> number).trunc(I1) if number else self.trunc(I1)

    def bitcast(self, to: Type) -> Value:
        """The same bits as another type of the same width."""
        return self if to == self.type else emit("bitcast", self, attributes=(to,))

    def offset(self, amount: Value | int) -> Value:
        """A pointer *amount* bytes on."""
        if isinstance(amount, int):
            amount = Constant(Type("i", 64), amount)
        return emit("offset", self, amount)

    def lane(self, number: int, bits: int) -> Value:
        """Lane *number* of a vector, an integer of *bits* bits."""
        return emit("lane", self, attributes=(bits, number))

    def with_lane(self, number: int, value: Value) -> Value:
        """This vector with an integer in lane *number*."""
        return emit("set_lane", self, value, attributes=(value.type.bits, number))

    def to_pointer(self) -> Value:
        return emit("to_pointer", self)

    def from_pointer(self) -> Value:
        return emit("from_pointer", self)


class Constant(Value):
    """A value known now. A float's is its bit pattern."""

    __slots__ = ("value",)

    def __init__(self, type: Type, value: int) -> None:
        super().__init__(type)
        self.value = value & mask(type.bits)

    def __repr__(self) -> str:
        return f"{self.value:#x}:{self.type}"

    @property
    def signed(self) -> int:
        """The value read as two's complement."""
        return sign_extend(self.value, self.type.bits)


class Undefined(Value):
    """A value nobody reads: it costs nothing to pass on."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"undefined:{self.type}"


class Symbol(Value):
    """A value known when code is patched: a hole in a stencil.

    *low* and *high* bound it, which lets LLVM fold it into an instruction; *wide*
    symbols are full 64-bit constants.
    """

    __slots__ = ("high", "low", "name", "wide")

    def __init__(self, name: str, low: int, high: int, builder: Builder, type: Type, wide: bool):
        super().__init__(type, builder)
        self.name, self.low, self.high, self.wide = name, low, high, wide

    def __repr__(self) -> str:
        return f"@{self.name}:{self.type}"


def _identity(name: str, operands: tuple[Value, ...]) -> Value | None:
    """Return what an operation with one known operand comes to, if that is simple."""
    if len(operands) != 2 or not isinstance(operands[1], Constant):
        return None
    left, right = operands[0], operands[1]
    if right.value == 0 and name in ("add", "sub", "or", "xor", "shl", "shr", "sar", "offset"):
        return left
    if name == "and" and left.type.is_integer:
        if right.value == 0:
            return right
        if right.value == mask(left.type.bits):
            return left
    if name == "mul" and right.value == 1:
        return left
    return None


def _narrowed(name: str, operands: tuple[Value, ...]) -> Value | None:
    """A bitwise operation on sign-extended values is the sign extension of a narrower one.

    LLVM would find rotations in it no more once it has forgotten where the values came from.
    """
    if name not in ("and", "or", "xor"):
        return None
    narrow = next((one.narrow for one in operands if one.narrow is not None), None)
    if narrow is None:
        return None
    pair: list[Value] = []
    for one in operands:
        if one.narrow is not None and one.narrow.type == narrow.type:
            pair.append(one.narrow)
        elif isinstance(one, Constant):
            low = Constant(narrow.type, one.value)
            if low.signed != one.signed:
                return None
            pair.append(low)
        else:
            return None
    return emit(name, *pair).sext(operands[0].type)


def emit(name: str, *operands: Value, attributes: tuple[Any, ...] = ()) -> Value:
    """Fold or add operation *name*; the result value."""
    result = emit_effect(name, *operands, attributes=attributes)
    if result is None:
        raise IrError(f"{name} gives no value")
    return result


def emit_effect(
    name: str,
    *operands: Value,
    attributes: tuple[Any, ...] = (),
    builder: Builder | None = None,
) -> Value | None:
    """Fold or add operation *name*; its result, or None if it has none."""
    row = TABLE[name]
    types = tuple(operand.type for operand in operands)
    try:
        result_type = row.signature(types, attributes)
    except IrError as error:
        raise IrError(f"{name}: {error}") from None
    if row.pure and result_type is not None:
        constants = [operand for operand in operands if isinstance(operand, Constant)]
        if operands and len(constants) == len(operands):
            folded = row.meaning(types, attributes, *(constant.value for constant in constants))
            assert folded is not None
            return Constant(result_type, folded)
        same = _identity(name, operands)
        if same is None:
            same = _narrowed(name, operands)
        if same is not None:
            return same
        if name == "select":
            condition = operands[0]
            if isinstance(condition, Constant):
                return operands[1] if condition.value else operands[2]
            if operands[1] is operands[2]:
                return operands[1]
    builder = builder or next((o.builder for o in operands if o.builder is not None), None)
    if builder is None:
        raise IrError(f"{name}: no operand belongs to a builder")
    return builder.append(row, operands, attributes, result_type)
