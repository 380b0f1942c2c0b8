"""Building a function of the embedded language.

>>> from tandemu.ir import Builder, I64, evaluate
>>> b = Builder("collatz", [("n", I64)], result=I64)
>>> n, steps = b.variable(I64, b.n), b.variable(I64, 0)
>>> with b.While(lambda: n.value != 1):
...     with b.If(n.value.bit(0)):
...         n.value = n.value * 3 + 1
...     with b.Else():
...         n.value = n.value >> 1
...     steps.value = steps.value + 1
>>> b.Return(steps.value)
>>> evaluate(b.finish(), 27)
111
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tandemu.bits import Array, Layout, Scalar
from tandemu.ir import program
from tandemu.ir.operations import SYSTEM_CALL_ARGUMENTS, Operation
from tandemu.ir.program import Function, Node
from tandemu.ir.types import I1, I64, I, IrError, Type
from tandemu.ir.values import Constant, Symbol, Value, emit, emit_effect
from tandemu.ir.verify import verify


class Local:
    """A mutable local variable: read and assign `value`."""

    __slots__ = ("_builder", "variable")

    def __init__(self, builder: Builder, variable: program.Variable) -> None:
        self._builder, self.variable = builder, variable

    @property
    def value(self) -> Value:
        result = self._builder.new(self.variable.type)
        self._builder.add(program.Get(self.variable, result))
        return result

    @value.setter
    def value(self, value: Value | int) -> None:
        value = self._builder.lift(value, self.variable.type)
        self._builder.add(program.Set(self.variable, value))


class Struct:
    """A structure in memory, seen through its layout: fields are read and assigned by name."""

    __slots__ = ("_builder", "_layout", "_pointer")

    def __init__(self, builder: Builder, layout: Layout, pointer: Value) -> None:
        object.__setattr__(self, "_builder", builder)
        object.__setattr__(self, "_layout", layout)
        object.__setattr__(self, "_pointer", pointer)

    def pointer(self, name: str | None = None) -> Value:
        """Address of field *name*, or of the structure."""
        base: Value = self._pointer
        return base if name is None else base.offset(self._layout.offset(name))

    def __getattr__(self, name: str) -> Any:
        field = self._layout.fields.get(name)
        if field is None:
            raise AttributeError(f"{self._layout.name} has no field {name!r}")
        return _access(self._builder, field, self.pointer(name))

    def __setattr__(self, name: str, value: Value | int) -> None:
        field = self._layout.fields.get(name)
        if not isinstance(field, Scalar):
            raise AttributeError(f"{self._layout.name}.{name} cannot be assigned")
        self._builder.store(self.pointer(name), self._builder.lift(value, I(field.bits)))


class Elements:
    """An array in memory: elements are read and assigned by index, constant or value."""

    __slots__ = ("_array", "_builder", "_pointer")

    def __init__(self, builder: Builder, array: Array, pointer: Value) -> None:
        self._builder, self._array, self._pointer = builder, array, pointer

    def pointer(self, index: Value | int) -> Value:
        """Address of element *index*."""
        size = self._array.element.size
        if isinstance(index, int):
            return self._pointer.offset(index * size)
        return self._pointer.offset(index.zext(I64) * size)

    def __getitem__(self, index: Value | int) -> Any:
        return _access(self._builder, self._array.element, self.pointer(index))

    def __setitem__(self, index: Value | int, value: Value | int) -> None:
        element = self._array.element
        assert isinstance(element, Scalar)
        self._builder.store(self.pointer(index), self._builder.lift(value, I(element.bits)))


def _access(builder: Builder, field: Scalar | Array | Layout, pointer: Value) -> Any:
    if isinstance(field, Scalar):
        return builder.load(pointer, I(field.bits))
    if isinstance(field, Array):
        return Elements(builder, field, pointer)
    return Struct(builder, field, pointer)


class Builder:
    """Builds one function; a parameter is an attribute of the builder by its name."""

    def __init__(
        self,
        name: str,
        parameters: Sequence[tuple[str, Type]] = (),
        result: Type | None = None,
        *,
        convention: str = "c",
        attributes: str = "",
        exported: bool = True,
    ) -> None:
        self.name = name
        for key, _ in parameters:
            if hasattr(type(self), key):
                raise IrError(f"{name}: a parameter cannot be called {key}: the builder has it")
        self._count = 0
        self._body: list[Node] = []
        self._block = self._body
        self._loops = 0
        self._places = 0
        self._parameters = {key: self.new(type) for key, type in parameters}
        given = list(self._parameters.values())
        self._function = Function(
            *(name, given, result, convention, self._body, [], 0, attributes, exported, [], {})
        )
        self._last_if: tuple[list[Node], program.If] | None = None

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(self._parameters)

    def __getattr__(self, name: str) -> Value:
        parameters = self.__dict__.get("_parameters", {})
        if name in parameters:
            value: Value = parameters[name]
            return value
        raise AttributeError(f"function {self.__dict__.get('name')} has no parameter {name!r}")

    @property
    def nodes(self) -> list[Node]:
        """The block that is being built, as it grows."""
        return self._block

    # Plumbing used by values -------------------------------------------------------------

    def new(self, type: Type) -> Value:
        value = Value(type, self, self._count)
        self._count += 1
        return value

    def add(self, node: Node) -> None:
        closed = self._block and isinstance(self._block[-1], program.TERMINATORS)
        if closed and not isinstance(node, program.Place):
            raise IrError(f"{self.name}: code after {type(self._block[-1]).__name__} cannot run")
        self._block.append(node)

    def append(
        self,
        operation: Operation,
        operands: tuple[Value, ...],
        attributes: tuple[Any, ...],
        result_type: Type | None,
    ) -> Value | None:
        result = None if result_type is None else self.new(result_type)
        self.add(program.Do(operation, operands, attributes, result))
        return result

    def lift(self, value: Value | int, type: Type) -> Value:
        """Make a constant of a Python integer; check a value's type."""
        if isinstance(value, int):
            return Constant(type, value)
        if value.type != type:
            raise IrError(f"{self.name}: must be {type}, not {value.type}")
        return value

    # Values ------------------------------------------------------------------------------

    def constant(self, type: Type, value: int) -> Value:
        return Constant(type, value)

    def symbol(self, name: str, low: int = 0, high: int = 0, *, type: Type = I64) -> Symbol:
        """A hole named *name*; without bounds, a full 64-bit constant."""
        known = self._function.symbols.get(name)
        if known is None:
            known = Symbol(name, low, high, self, type, wide=low == high)
            self._function.symbols[name] = known
        assert isinstance(known, Symbol)
        return known

    def variable(self, type: Type, initial: Value | int | None = None) -> Local:
        """A mutable local; read before it is set it is undefined."""
        variable = program.Variable(type, len(self._function.variables))
        self._function.variables.append(variable)
        local = Local(self, variable)
        if initial is not None:
            local.value = self.lift(initial, type)
        return local

    def select(self, condition: Value, a: Value | int, b: Value | int) -> Value:
        """*a* if *condition* else *b*; both are computed."""
        if isinstance(a, int):
            if isinstance(b, int):
                raise IrError("select of two Python integers: make one a constant of a type")
            a = self.lift(a, b.type)
        return emit("select", condition, a, self.lift(b, a.type))

    def struct(self, layout: Layout, pointer: Value) -> Any:
        """See the memory at *pointer* through *layout*."""
        return Struct(self, layout, pointer)

    # Memory ------------------------------------------------------------------------------

    def load(
        self, pointer: Value, type: Type, *, atomic: bool = False, mark: int | None = None
    ) -> Value:
        if atomic:
            return emit("atomic_load", pointer, attributes=(type, mark))
        return emit("load", pointer, attributes=(type,))

    def store(self, pointer: Value, value: Value, *, atomic: bool = False) -> None:
        emit_effect("atomic_store" if atomic else "store", pointer, value)

    def access_load(self, pointer: Value, type: Type, mark: int | None = None) -> Value:
        """Load what others may change or the host refuse: exactly once, in its place.

        The object file says which machine instruction does it, by the number *mark*.
        """
        return emit("access_load", pointer, attributes=(type, mark))

    def access_store(self, pointer: Value, value: Value, mark: int | None = None) -> None:
        """The store that goes with `access_load`."""
        emit_effect("access_store", pointer, value, attributes=(mark,))

    def atomic(self, kind: str, pointer: Value, value: Value, mark: int | None = None) -> Value:
        """Read-modify-write in one piece; the old value."""
        return emit("atomic_" + kind, pointer, value, attributes=(mark,))

    def compare_exchange(
        self, pointer: Value, expected: Value, new: Value, mark: int | None = None
    ) -> Value:
        """Store *new* if *expected* is there, in one piece; the old value."""
        return emit("compare_exchange", pointer, expected, new, attributes=(mark,))

    def fence(self) -> None:
        emit_effect("fence", builder=self)

    def system_call(self, number: Value | int, *arguments: Value | int) -> Value:
        """The host's system call *number*: its result, or a negative error number."""
        given = [self.lift(one, I64) for one in (number, *arguments)]
        rest = [Constant(I64, 0)] * (SYSTEM_CALL_ARGUMENTS - len(arguments))
        result = emit_effect("system_call", *given, *rest, builder=self)
        assert result is not None
        return result

    def interruptible_call(
        self, note: Value, flag: Value, number: Value | int, *arguments: Value | int
    ) -> Value:
        """`system_call`, or `operations.NOT_BEGUN` if the word at *flag* is not zero.

        *note*: where the place is noted that a handler of signals, which has set the word,
        sends a thread to that was about to make the call.
        """
        given = [self.lift(one, I64) for one in (number, *arguments)]
        rest = [Constant(I64, 0)] * (SYSTEM_CALL_ARGUMENTS - len(arguments))
        return emit("interruptible_call", note, flag, *given, *rest)

    def guarded_copy(self, note: Value, to: Value, source: Value, size: Value) -> Value:
        """Copy bytes of which the host may refuse some: how many were left then.

        *note*: where the place is noted at which a handler of that fault goes on.
        """
        return emit("guarded_copy", note, to, source, size)

    def fill(self, pointer: Value, byte: int, size: Value | int) -> None:
        emit_effect("fill", pointer, Constant(I(8), byte), self.lift(size, I64))

    def copy(self, to: Value, source: Value, size: Value | int) -> None:
        """Copy bytes between places that do not overlap."""
        emit_effect("copy", to, source, self.lift(size, I64))

    # Calls -------------------------------------------------------------------------------

    def call(
        self,
        target: Function | str | Value,
        *operands: Value | int,
        result: Type | None = None,
        convention: str = "c",
    ) -> Value:
        """Call a function, a named external one, or a pointer; void gives a dead value."""
        if isinstance(target, Function):
            result, convention = target.result, target.convention
            self._remember(target)
            lifted = tuple(
                self.lift(o, p.type) for o, p in zip(operands, target.parameters, strict=True)
            )
        else:
            lifted = tuple(
                self.lift(operand, I64) if isinstance(operand, int) else operand
                for operand in operands
            )
        value = None if result is None else self.new(result)
        self.add(program.Call(target, lifted, value, convention))
        return value if value is not None else Constant(I1, 0)

    def TailCall(self, target: Function | str | Value, *operands: Value) -> None:
        """End here: go to *target*, which returns to this function's caller."""
        if isinstance(target, Function):
            self._remember(target)
        self.add(program.TailCall(target, operands))

    def _remember(self, target: Function) -> None:
        if all(target is not known for known in self._function.callees):
            self._function.callees.append(target)

    # Control flow ------------------------------------------------------------------------

    @contextmanager
    def _into(self, block: list[Node]) -> Iterator[None]:
        outer, self._block = self._block, block
        try:
            yield
        finally:
            self._block = outer

    @contextmanager
    def If(self, condition: Value, *, likely: bool | None = None) -> Iterator[None]:
        """Run the block if *condition*; *likely* says which way nearly always goes."""
        if condition.type != I1:
            raise IrError(f"{self.name}: If needs a 1-bit condition, not {condition.type}")
        if isinstance(condition, Constant):
            # Known now: only the block that runs is kept.
            discarded: list[Node] = []
            keep = self._block if condition.value else discarded
            node = program.If(condition, [], [], likely)
            with self._into(keep):
                yield
            self._last_if = (self._block, node)
            return
        node = program.If(condition, [], [], likely)
        self.add(node)
        with self._into(node.then):
            yield
        self._last_if = (self._block, node)

    @contextmanager
    def Else(self) -> Iterator[None]:
        """Run the block if the `If` just before did not."""
        last = self._last_if
        if last is None or last[0] is not self._block:
            raise IrError(f"{self.name}: Else does not follow an If")
        node = last[1]
        self._last_if = None
        if isinstance(node.condition, Constant):
            with self._into([] if node.condition.value else self._block):
                yield
            return
        if self._block[-1] is not node:
            raise IrError(f"{self.name}: Else does not follow an If")
        with self._into(node.otherwise):
            yield

    @contextmanager
    def Loop(self) -> Iterator[None]:
        """Repeat the block until `Break`."""
        node = program.Loop([])
        self.add(node)
        self._loops += 1
        with self._into(node.body):
            yield
        self._loops -= 1

    @contextmanager
    def While(self, condition: Callable[[], Value]) -> Iterator[None]:
        """Repeat the block while *condition*, computed anew each time, holds."""
        with self.Loop():
            with self.If(~condition()):
                self.Break()
            yield

    def place(self) -> program.Place:
        """A place for `Goto`, to be put in the code with `Put`."""
        self._places += 1
        return program.Place(self._places)

    def Put(self, place: program.Place) -> None:
        """The code that follows is what is done at *place*."""
        if self._block is not self._body:
            raise IrError(f"{self.name}: a place must be in the outermost block")
        self.add(place)

    def Goto(self, place: program.Place) -> None:
        self.add(program.Goto(place))

    def Break(self) -> None:
        if not self._loops:
            raise IrError(f"{self.name}: Break outside a loop")
        self.add(program.Break())

    @contextmanager
    def Switch(self, value: Value) -> Iterator[Cases]:
        """Choose a block by *value*: ``with b.Switch(v) as s: with s.Case(1, 2): …``."""
        node = program.Switch(value, [], [])
        self.add(node)
        yield Cases(self, node)

    def Return(self, value: Value | int | None = None) -> None:
        result = self._function.result
        if (value is None) != (result is None):
            raise IrError(f"{self.name}: returns {result}")
        lifted = None if value is None or result is None else self.lift(value, result)
        self.add(program.Return(lifted))

    def Unreachable(self) -> None:
        self.add(program.Unreachable())

    def finish(self) -> Function:
        """Return the function, verified."""
        open_end = not self._body or not isinstance(self._body[-1], program.TERMINATORS)
        if open_end and self._function.result is None and self._function.convention == "c":
            self.Return()
        self._function.count = self._count
        verify(self._function)
        return self._function


class Cases:
    """The cases of one `Switch`."""

    def __init__(self, builder: Builder, node: program.Switch) -> None:
        self._builder, self._node = builder, node

    @contextmanager
    def Case(self, *values: int) -> Iterator[None]:
        """The block for these values."""
        block: list[Node] = []
        self._node.cases.append((values, block))
        with self._builder._into(block):
            yield

    @contextmanager
    def Default(self) -> Iterator[None]:
        """The block for every other value."""
        with self._builder._into(self._node.default):
            yield


__all__ = ["Builder", "Cases", "Elements", "Local", "Struct"]
