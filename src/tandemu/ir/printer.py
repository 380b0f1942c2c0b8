"""The printed form of a program: one node a line, blocks indented."""

from __future__ import annotations

from collections.abc import Iterator

from tandemu.ir import program
from tandemu.ir.program import Function, Node
from tandemu.ir.values import Constant, Symbol, Undefined, Value


def show(function: Function) -> str:
    """Return *function* as text.

    >>> from tandemu.ir import Builder, I64
    >>> b = Builder("double", [("x", I64)], result=I64)
    >>> b.Return(b.x + b.x)
    >>> print(show(b.finish()))
    function double(%0: i64) -> i64
      %1 = add %0, %0
      return %1
    """
    parameters = ", ".join(f"%{p.number}: {p.type}" for p in function.parameters)
    result = f" -> {function.result}" if function.result else ""
    convention = " tail" if function.convention == "tail" else ""
    lines = [f"function{convention} {function.name}({parameters}){result}"]
    lines += ("  " + line for line in _lines(function.body))
    return "\n".join(lines)


def _name(value: Value) -> str:
    if isinstance(value, Constant):
        return hex(value.value) if value.value > 9 else str(value.value)
    if isinstance(value, Symbol):
        return f"@{value.name}"
    return "undefined" if isinstance(value, Undefined) else f"%{value.number}"


def _target(target: Function | str | Value) -> str:
    if isinstance(target, Value):
        return _name(target)
    return target if isinstance(target, str) else target.name


def _lines(block: list[Node]) -> Iterator[str]:
    for node in block:
        match node:
            case program.Do(operation=row, operands=operands, attributes=attributes):
                head = f"%{node.result.number} = " if node.result is not None else ""
                suffix = "".join(f".{attribute}" for attribute in attributes)
                yield f"{head}{row.name}{suffix} {', '.join(map(_name, operands))}".rstrip()
            case program.Get(variable=variable, result=result):
                yield f"%{result.number} = ${variable.number}"
            case program.Set(variable=variable, value=value):
                yield f"${variable.number} = {_name(value)}"
            case program.Call(target=target, operands=operands):
                head = f"%{node.result.number} = " if node.result is not None else ""
                yield f"{head}call {_target(target)}({', '.join(map(_name, operands))})"
            case program.TailCall(target=target, operands=operands):
                yield f"tail call {_target(target)}({', '.join(map(_name, operands))})"
            case program.If(condition=condition, then=then, otherwise=otherwise, likely=likely):
                hint = {None: "", True: " likely", False: " unlikely"}[likely]
                yield f"if {_name(condition)}{hint}"
                yield from ("  " + line for line in _lines(then))
                if otherwise:
                    yield "else"
                    yield from ("  " + line for line in _lines(otherwise))
            case program.Loop(body=body):
                yield "loop"
                yield from ("  " + line for line in _lines(body))
            case program.Switch(value=value, cases=cases, default=default):
                yield f"switch {_name(value)}"
                for values, body in cases:
                    yield f"  case {', '.join(map(str, values))}"
                    yield from ("    " + line for line in _lines(body))
                yield "  default"
                yield from ("    " + line for line in _lines(default))
            case program.Place(number=number):
                yield f"place {number}"
            case program.Goto(place=place):
                yield f"goto {place.number}"
            case program.Break():
                yield "break"
            case program.Return(value=value):
                yield "return" if value is None else f"return {_name(value)}"
            case program.Unreachable():
                yield "unreachable"
