"""The verifier: every value is defined before it is used, on every path.

Types are checked as operations are added; what is left to check is structure:
a value made inside a block is not used outside it nor behind a place that control
may come to by itself, a loop has a way out, and a function that gives a value returns one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tandemu.ir import program
from tandemu.ir.program import Function, Node
from tandemu.ir.types import I1, IrError
from tandemu.ir.values import Constant, Symbol, Undefined, Value


def verify(function: Function) -> None:
    """Raise `IrError` if *function* is put together wrongly."""
    defined = {id(parameter) for parameter in function.parameters}
    placed = {id(node) for node in function.body if isinstance(node, program.Place)}
    missing = [goto for goto in _gotos(function.body) if id(goto.place) not in placed]
    if missing:
        raise IrError(f"{function.name}: Goto a place that was never put")
    if not _block(function, function.body, defined) and function.result is not None:
        raise IrError(f"{function.name}: control can reach the end without Return")


def _use(function: Function, operands: Iterable[Value], defined: set[int]) -> None:
    for operand in operands:
        if isinstance(operand, Constant | Symbol | Undefined):
            continue
        if id(operand) not in defined:
            raise IrError(
                f"{function.name}: {operand!r} is used where it is not defined "
                "(made in another block or function: pass it through a variable)"
            )


def _gotos(block: list[Node]) -> Iterator[program.Goto]:
    for node in block:
        match node:
            case program.Goto():
                yield node
            case program.If():
                yield from _gotos(node.then)
                yield from _gotos(node.otherwise)
            case program.Loop():
                yield from _gotos(node.body)
            case program.Switch():
                for body in (node.default, *(body for _, body in node.cases)):
                    yield from _gotos(body)


def _breaks(block: list[Node]) -> bool:
    for node in block:
        if isinstance(node, program.Break):
            return True
        if isinstance(node, program.If) and (_breaks(node.then) or _breaks(node.otherwise)):
            return True
        if isinstance(node, program.Switch) and any(
            _breaks(case) for case in [node.default, *(case for _, case in node.cases)]
        ):
            return True
    return False


def _block(function: Function, block: list[Node], outer: set[int]) -> bool:
    """Check one block; True if control never leaves it at its end."""
    defined = set(outer)
    ends = False
    for node in block:
        match node:
            case program.Do(operands=operands, result=result):
                _use(function, operands, defined)
                if result is not None:
                    defined.add(id(result))
            case program.Get(result=result):
                defined.add(id(result))
            case program.Set(value=value):
                _use(function, (value,), defined)
            case program.Call(target=target, operands=operands, result=result):
                _use(function, operands, defined)
                if isinstance(target, Value):
                    _use(function, (target,), defined)
                if result is not None:
                    defined.add(id(result))
            case program.TailCall(target=target, operands=operands):
                _use(function, operands, defined)
                if isinstance(target, Value):
                    _use(function, (target,), defined)
                if function.convention != "tail":
                    raise IrError(f"{function.name}: TailCall needs the tail convention")
                ends = True
            case program.If(condition=condition, then=then, otherwise=otherwise):
                if condition.type != I1:
                    raise IrError(f"{function.name}: condition {condition!r} must be i1")
                _use(function, (condition,), defined)
                first = _block(function, then, defined)
                second = _block(function, otherwise, defined)
                ends = first and second
            case program.Loop(body=body):
                _block(function, body, defined)
                ends = not _breaks(body)
            case program.Switch(value=value, cases=cases, default=default):
                _use(function, (value,), defined)
                seen: set[int] = set()
                for values, _ in cases:
                    if seen.intersection(values):
                        raise IrError(f"{function.name}: a case of {value!r} stands twice")
                    seen.update(values)
                blocks = [body for _, body in cases] + [default]
                ends = all([_block(function, body, defined) for body in blocks])
            case program.Return(value=value):
                if value is not None:
                    _use(function, (value,), defined)
                ends = True
            case program.Place():
                # Only what the parameters hold is known here, whoever comes.
                defined = {id(parameter) for parameter in function.parameters}
                ends = False
            case program.Break() | program.Goto() | program.Unreachable():
                ends = True
    return ends
