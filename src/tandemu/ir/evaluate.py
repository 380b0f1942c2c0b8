"""The evaluator: a program run in plain Python, by the meanings of its operations.

It is the oracle for generated code and runs where no code can be generated. It
works on the very same memory: a load reads the host address it is given, so the
caller answers for what a program is pointed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tandemu.bits import mask
from tandemu.ir import program
from tandemu.ir.program import Function, Node
from tandemu.ir.types import IrError
from tandemu.ir.values import Constant, Symbol, Undefined, Value

_NEXT, _BREAK, _RETURN, _GOTO = range(4)


class Evaluator:
    """Runs functions.

    *externals* answers calls by name, *pointers* calls through a pointer,
    *symbols* gives holes their values. *tail* is told of tail calls to names
    that no external answers: (name, operands) -> result.
    """

    def __init__(
        self,
        externals: Mapping[str, Callable[..., int | None]] | None = None,
        symbols: Mapping[str, int] | None = None,
        pointers: Callable[[int, tuple[int, ...]], int | None] | None = None,
        tail: Callable[[str, tuple[int, ...]], int | None] | None = None,
    ) -> None:
        self.externals = externals or {}
        self.symbols = symbols or {}
        self.pointers = pointers
        self.tail = tail

    def run(self, function: Function, *operands: int) -> int | None:
        """Run *function*; its result as an unsigned integer."""
        while True:
            values: dict[int, int] = {}
            for parameter, operand in zip(function.parameters, operands, strict=True):
                values[parameter.number] = operand & mask(parameter.type.bits)
            frame = _Frame(self, values)
            frame.run(function.body)
            if frame.tail is None:
                return frame.result
            target, operands = frame.tail
            if not isinstance(target, Function):
                return self._leave(target, operands)
            function = target

    def _leave(self, target: str | int, operands: tuple[int, ...]) -> int | None:
        if isinstance(target, int):
            if self.pointers is None:
                raise IrError(f"a call through pointer {target:#x} has no meaning here")
            return self.pointers(target, operands)
        if target in self.externals:
            return self.externals[target](*operands)
        if self.tail is not None:
            return self.tail(target, operands)
        raise IrError(f"nothing answers a call of {target}")


class _Frame:
    """One running function."""

    def __init__(self, evaluator: Evaluator, values: dict[int, int]) -> None:
        self.evaluator = evaluator
        self.values = values
        self.variables: dict[program.Variable, int] = {}
        self.result: int | None = None
        self.place = program.Place(0)
        self.tail: tuple[Function | str | int, tuple[int, ...]] | None = None

    def value(self, value: Value) -> int:
        if isinstance(value, Constant):
            return value.value
        if isinstance(value, Symbol):
            return self.evaluator.symbols[value.name] & mask(value.type.bits)
        if isinstance(value, Undefined):
            return 0
        return self.values[value.number]

    def _target(self, target: Function | str | Value) -> Function | str | int:
        return self.value(target) if isinstance(target, Value) else target

    def run(self, body: list[Node]) -> None:
        """Run a function's outermost block, from place to place."""
        start = 0
        while self.block(body[start:]) == _GOTO:
            start = body.index(self.place)

    def block(self, block: list[Node]) -> int:
        for node in block:
            way = self.node(node)
            if way != _NEXT:
                return way
        return _NEXT

    def node(self, node: Node) -> int:
        match node:
            case program.Do(operation=row, operands=operands, attributes=attributes):
                types = tuple(operand.type for operand in operands)
                result = row.meaning(types, attributes, *map(self.value, operands))
                if node.result is not None:
                    assert result is not None
                    self.values[node.result.number] = result
            case program.Get(variable=variable, result=result_value):
                self.values[result_value.number] = self.variables.get(variable, 0)
            case program.Set(variable=variable, value=value):
                self.variables[variable] = self.value(value)
            case program.If(condition=condition, then=then, otherwise=otherwise):
                return self.block(then if self.value(condition) else otherwise)
            case program.Loop(body=body):
                way = _NEXT
                while way == _NEXT:
                    way = self.block(body)
                return _NEXT if way == _BREAK else way
            case program.Switch(value=value, cases=cases, default=default):
                number = self.value(value)
                for values, body in cases:
                    if number in values:
                        return self.block(body)
                return self.block(default)
            case program.Call(target=target, operands=operands):
                self._call(self._target(target), tuple(map(self.value, operands)), node.result)
            case program.TailCall(target=target, operands=operands):
                self.tail = self._target(target), tuple(map(self.value, operands))
                return _RETURN
            case program.Goto(place=place):
                self.place = place
                return _GOTO
            case program.Break():
                return _BREAK
            case program.Return(value=returned):
                self.result = None if returned is None else self.value(returned)
                return _RETURN
            case program.Unreachable():
                raise IrError("control came to a place marked unreachable")
        return _NEXT

    def _call(
        self, target: Function | str | int, operands: tuple[int, ...], result: Value | None
    ) -> None:
        if isinstance(target, Function):
            answer: Any = self.evaluator.run(target, *operands)
        else:
            answer = self.evaluator._leave(target, operands)
        if result is not None:
            if answer is None:
                raise IrError(f"call of {target!r} gave no value")
            self.values[result.number] = int(answer) & mask(result.type.bits)


def evaluate(function: Function, *operands: int) -> int | None:
    """Run *function* with nothing outside it; its result as an unsigned integer."""
    return Evaluator().run(function, *operands)
